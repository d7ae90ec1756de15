"""The table of kinds: what attributes each kind of thing has, how wide it is, and which function draws it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from world.drawings.figures import HAND_THAT_HOLDS, draw_dog, draw_robot, draw_robot_hand, draw_toy, draw_toy_hand
from world.drawings.objects import draw_ball, draw_book, draw_gpu, draw_lamp, draw_mug
from world.drawings.outdoors import draw_car, draw_house
from world.marks import MARKS
from world.pen import Pen, Point
from world.scene import Thing

_PLAIN = ("turquoise", "orange", "yellow", "green", "red", "blue", "purple", "pink", "black", "grey", "white")
_BRIGHT = ("turquoise", "orange", "yellow", "green", "red", "blue", "purple", "pink", "white")
_FUR = ("brown", "black", "grey", "white", "orange", "golden")
# "no" stands twice where about half of the things should be without.
_MARK_OR_NOT = ("no", "no", *MARKS)


@dataclass(frozen=True)
class Kind:
    """What the world knows about a kind of thing.

    `width` is its full width in its own heights. `details` are the words for its attributes, left out of a caption
    where one of their attributes is "no". The first two attributes are the ones whose combinations are held out.
    `top` is how high another thing stands on it, in its own heights; `hand` is where it holds things, in its own
    coordinates, and `draw_hand` draws the hand over what it holds.
    """

    draw: Callable[[Pen, Thing, str], None]
    width: float
    attributes: Mapping[str, tuple[str, ...]]
    details: tuple[str, ...]
    can_be_held: bool = False
    top: float | None = None
    can_stand_on_top: bool = False
    hand: Point | None = None
    draw_hand: Callable[[Pen, Thing], None] | None = None


KINDS: dict[str, Kind] = {
    "toy": Kind(
        draw=draw_toy,
        width=0.82,
        attributes={
            "colour": (*_PLAIN, "brown"),
            "ear_colour": (*_BRIGHT, "black"),
            "ears": ("pointed ears", "round ears", "long ears", "horns"),
            "mark": _MARK_OR_NOT,
            "mark_colour": _BRIGHT,
            "scarf_colour": ("no", "no", "no", "yellow", "green", "red", "blue", "purple", "pink"),
        },
        details=("{ear_colour} {ears}", "{mark_colour} {mark}", "{scarf_colour} scarf"),
        can_stand_on_top=True,
        hand=HAND_THAT_HOLDS,
        draw_hand=draw_toy_hand,
    ),
    "gpu": Kind(
        draw=draw_gpu,
        width=1.92,
        attributes={
            "colour": ("green", "red", "blue", "purple", "pink", "black", "grey", "white", "golden"),
            "fan_colour": _BRIGHT,
            "fans": ("one", "two", "three"),
            "mark": _MARK_OR_NOT,
            "mark_colour": _BRIGHT,
        },
        details=("{fans} {fan_colour} fans", "{mark_colour} {mark}"),
        can_be_held=True,
        top=0.98,
    ),
    "robot": Kind(
        draw=draw_robot,
        width=0.86,
        attributes={"colour": _PLAIN, "panel_colour": _BRIGHT, "antennas": ("one", "two")},
        details=("{panel_colour} chest", "{antennas} antennas"),
        can_stand_on_top=True,
        hand=HAND_THAT_HOLDS,
        draw_hand=draw_robot_hand,
    ),
    "car": Kind(
        draw=draw_car,
        width=1.86,
        attributes={
            "colour": _PLAIN,
            "wheel_colour": ("yellow", "red", "blue", "grey", "white"),
            "mark": _MARK_OR_NOT,
            "mark_colour": _BRIGHT,
        },
        details=("{wheel_colour} wheels", "{mark_colour} {mark}"),
        top=1.0,
    ),
    "mug": Kind(
        draw=draw_mug,
        width=1.1,
        attributes={"colour": _PLAIN, "pattern_colour": _BRIGHT, "pattern": ("stripe", "dots", "heart")},
        details=("{pattern_colour} {pattern}",),
        can_be_held=True,
        can_stand_on_top=True,
    ),
    "dog": Kind(
        draw=draw_dog,
        width=1.34,
        attributes={
            "colour": _FUR,
            "collar_colour": ("turquoise", "yellow", "green", "red", "blue", "purple", "pink"),
            "spots": ("no", "brown", "black"),
        },
        details=("{collar_colour} collar", "{spots} spots"),
        can_stand_on_top=True,
    ),
    "house": Kind(
        draw=draw_house,
        width=1.18,
        attributes={
            "colour": ("turquoise", "orange", "yellow", "green", "red", "blue", "pink", "grey", "white"),
            "roof_colour": ("turquoise", "orange", "green", "red", "blue", "purple", "brown", "black"),
            "door_colour": _BRIGHT,
            "chimney": ("no", "brick"),
        },
        details=("{roof_colour} roof", "{door_colour} door", "{chimney} chimney"),
    ),
    "ball": Kind(
        draw=draw_ball,
        width=1.0,
        attributes={"colour": _PLAIN, "pattern_colour": _BRIGHT, "pattern": ("stripe", "dots", "star")},
        details=("{pattern_colour} {pattern}",),
        can_be_held=True,
        can_stand_on_top=True,
    ),
    "book": Kind(
        draw=draw_book,
        width=0.88,
        attributes={"colour": (*_PLAIN, "brown"), "mark_colour": _BRIGHT, "mark": MARKS},
        details=("{mark_colour} {mark}",),
        can_be_held=True,
        top=0.95,
    ),
    "lamp": Kind(
        draw=draw_lamp,
        width=0.94,
        attributes={
            "colour": _BRIGHT,
            "foot_colour": ("turquoise", "green", "red", "blue", "purple", "brown", "black", "grey", "golden"),
            "stem": ("straight", "round"),
        },
        details=("{stem} {foot_colour} stem",),
        can_be_held=True,
        can_stand_on_top=True,
    ),
}


def kind_of(thing: Thing) -> Kind:
    """Look a thing's kind up in the table.

    Raises KeyError, naming the kinds there are, for a kind that the table lacks.
    """
    if thing.kind not in KINDS:
        raise KeyError(f"no kind of thing is called {thing.kind!r}; there are {', '.join(KINDS)}")
    return KINDS[thing.kind]
