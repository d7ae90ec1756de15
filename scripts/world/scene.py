"""What is in a picture: things with attributes, where they stand, and in which surroundings. Nothing is drawn here."""

from dataclasses import dataclass, field

ALONE, NEXT_TO, HOLDING, ON = "alone", "next to", "holding", "on"
RELATIONS = (ALONE, NEXT_TO, HOLDING, ON)
NOWHERE = "nowhere"  # no surroundings at all: the picture is transparent around its things


@dataclass(frozen=True)
class Thing:
    """One thing of the world: its kind, its attributes in words, and perhaps a name of its own."""

    kind: str
    attributes: tuple[tuple[str, str], ...]
    name: str = ""

    def __getitem__(self, attribute: str) -> str:
        for key, value in self.attributes:
            if key == attribute:
                return value
        raise KeyError(f"a {self.kind} has no attribute {attribute!r}; it has {[key for key, _ in self.attributes]}")


def make_thing(kind: str, name: str = "", **attributes: str) -> Thing:
    """Make a thing from attributes in words, for instance `make_thing("ball", colour="red", ...)`."""
    return Thing(kind, tuple(attributes.items()), name)


@dataclass(frozen=True)
class Placed:
    """A thing and how it stands in the picture.

    `x` and `ground` say where its foot is, as shares of the picture's width and height; `size` is its height as a share
    of the picture's shorter side; `turn` is in degrees clockwise; `lift` raises it above its shadow, in its own
    heights; `pose` is what its arms do ("down", "up", "wave" or "hold") and means nothing for a thing without arms.
    A thing that is held, or that stands on another, is placed by the other thing: its `x` and `ground` do not count.
    """

    thing: Thing
    x: float = 0.5
    ground: float = 0.9
    size: float = 0.6
    turn: float = 0.0
    mirrored: bool = False
    pose: str = "down"
    lift: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A whole picture: surroundings, one or two things, and how the first stands to the second.

    `variation` is the seed of everything in the surroundings that captions do not speak of: where clouds and trees are.
    """

    surroundings: str
    things: tuple[Placed, ...] = field(default_factory=tuple)
    relation: str = ALONE
    variation: int = 0
