"""The marks that things bear on belly, cover or shroud: star, heart, bolt, circle."""

import math

from world.palette import Colour
from world.pen import Pen, Point, arc_points

_BOLT: tuple[Point, ...] = ((0.16, 1.0), (-0.52, -0.12), (-0.06, -0.12), (-0.2, -1.0), (0.52, 0.22), (0.06, 0.22))


def _star() -> tuple[Point, ...]:
    points = []
    for i in range(10):
        radius = 1.0 if i % 2 == 0 else 0.46
        angle = math.radians(90 + 36 * i)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return tuple(points)


def _heart() -> tuple[Point, ...]:
    left = arc_points(-0.45, 0.35, 0.48, 0.48, 20, 205)
    right = arc_points(0.45, 0.35, 0.48, 0.48, -25, 160)
    return (*right, *left, (0.0, -0.9))


_SHAPES: dict[str, tuple[Point, ...]] = {"star": _star(), "heart": _heart(), "lightning bolt": _BOLT}
MARKS = ("star", "heart", "circle", "lightning bolt")


def draw_mark(pen: Pen, mark: str, x: float, y: float, size: float, colour: Colour) -> None:
    """Draw an outlined mark about (x, y) whose half height is `size`; the mark "no" draws nothing."""
    if mark == "no":
        return
    if mark == "circle":
        pen.circle(x, y, size * 0.85, colour)
        return
    pen.shape([(x + size * u, y + size * v) for u, v in _SHAPES[mark]], colour)
