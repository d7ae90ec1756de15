"""The colours of the world: what each colour word looks like, and its lighter and darker tones."""

from functools import cache

Colour = tuple[int, int, int]

INK: Colour = (38, 31, 48)
WHITE: Colour = (255, 255, 255)
STEEL: Colour = (196, 203, 214)
GLASS: Colour = (174, 223, 246)
PIN_GOLD: Colour = (232, 178, 58)

# The order matters: `random_scenes.is_held_out` counts places in it.
COLOURS: dict[str, Colour] = {
    "turquoise": (58, 205, 205),
    "orange": (255, 140, 32),
    "yellow": (255, 221, 64),
    "green": (58, 174, 78),
    "red": (226, 52, 52),
    "blue": (52, 98, 222),
    "purple": (140, 70, 196),
    "pink": (255, 138, 190),
    "brown": (150, 96, 58),
    "black": (58, 56, 68),
    "grey": (150, 154, 164),
    "white": (250, 249, 245),
    "golden": (236, 178, 34),
}


@cache
def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours; `share` 0 gives `colour`, 1 gives `other`. Channels run from 0 to 255."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


@cache
def darker(colour: Colour) -> Colour:
    """Return the tone for the side in shade: darker and a little bluer."""
    return mix(colour, (40, 24, 80), 0.24)


@cache
def lighter(colour: Colour) -> Colour:
    """Return the tone for the side in light."""
    return mix(colour, WHITE, 0.42)
