"""From shares to pixels: where each thing of a scene stands in a picture of a given size."""

import math
from dataclasses import dataclass

from world.kinds import kind_of
from world.scene import ALONE, HOLDING, NEXT_TO, RELATIONS, Placed, Scene

# How far a held thing reaches behind the hand that holds it, as a share of its width.
_GRIP = 0.1


@dataclass(frozen=True)
class Spot:
    """Where a thing's foot is in the picture (`x`, `y`), how high it is, and where the ground is under it: pixels."""

    x: float
    y: float
    height: float
    ground: float


def _standing(placed: Placed, width: int, height: int) -> Spot:
    size = placed.size * min(width, height)
    ground = placed.ground * height
    return Spot(placed.x * width, ground - placed.lift * size, size, ground)


def _turned(placed: Placed, spot: Spot, x: float, y: float) -> tuple[float, float]:
    """Return the pixel of a point given in the thing's own coordinates."""
    cosine, sine = math.cos(math.radians(placed.turn)), math.sin(math.radians(placed.turn))
    if placed.mirrored:
        x = -x
        return spot.x + spot.height * (x * cosine + y * sine), spot.y + spot.height * (-y * cosine + x * sine)
    return spot.x + spot.height * (x * cosine + y * sine), spot.y + spot.height * (x * sine - y * cosine)


def find_spots(scene: Scene, width: int, height: int) -> list[Spot]:
    """Work out where the things of a scene stand in a picture of `width` x `height` pixels, one spot a thing.

    Raises ValueError for a relation that there is not, and where the things cannot stand in that relation.
    """
    if scene.relation not in RELATIONS:
        raise ValueError(f"no relation is called {scene.relation!r}; there are {', '.join(RELATIONS)}")
    if scene.relation in (ALONE, NEXT_TO):
        return [_standing(placed, width, height) for placed in scene.things]
    if len(scene.things) != 2:
        raise ValueError(f"{scene.relation!r} is said of two things; the scene has {len(scene.things)}")
    first, second = scene.things
    if scene.relation == HOLDING:
        return _held(first, second, width, height)
    return _stacked(first, second, width, height)


def _held(holder: Placed, held: Placed, width: int, height: int) -> list[Spot]:
    hand = kind_of(holder.thing).hand
    if hand is None:
        raise ValueError(f"a {holder.thing.kind} has no hand to hold a {held.thing.kind} with")
    spot = _standing(holder, width, height)
    hand_x, hand_y = _turned(holder, spot, *hand)
    size = held.size * min(width, height)
    side = -1 if holder.mirrored else 1
    x = hand_x + side * size * kind_of(held.thing).width * (0.5 - _GRIP)
    # Grasped a little below its middle, so that it does not hide what stands on the holder's belly.
    return [spot, Spot(x, min(hand_y + 0.45 * size, spot.ground), size, spot.ground)]


def _stacked(upper: Placed, lower: Placed, width: int, height: int) -> list[Spot]:
    top = kind_of(lower.thing).top
    if top is None:
        raise ValueError(f"nothing stands on a {lower.thing.kind}: it has no flat top")
    spot = _standing(lower, width, height)
    x, y = _turned(lower, spot, 0.0, top)
    return [Spot(x, y, upper.size * min(width, height), spot.ground), spot]
