"""Things that lie on a desk: gpu, mug, ball, book, lamp."""

import math

from world.marks import draw_mark
from world.palette import COLOURS, INK, PIN_GOLD, STEEL, WHITE, darker, lighter, mix
from world.pen import Pen, arc_points
from world.scene import Thing

# Where the fans of a card sit and how large they are, and where the mark goes: x, radius; x, half height.
_FANS = {"one": ((-0.36,), 0.35), "two": ((-0.49, 0.585), 0.295), "three": ((-0.54, -0.02, 0.62), 0.235)}
_GPU_MARK = {"one": (0.42, 0.3), "two": (0.0475, 0.34), "three": (0.3, 0.2)}


def _fan(pen: Pen, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    pen.circle(x, y, radius, INK)
    for blade in range(6):
        start = math.radians(60 * blade)
        points = [(x, y)]
        for share, ahead in ((0.88, 0.0), (0.92, 0.2), (0.92, 0.42), (0.86, 0.64), (0.35, 0.8)):
            points.append((x + radius * share * math.cos(start + ahead), y + radius * share * math.sin(start + ahead)))
        pen.shape(points, colour, outline=False)
    pen.circle(x, y, radius * 0.27, colour)
    pen.circle(x, y, radius * 0.1, INK, outline=False)


def draw_gpu(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a graphics card from its front: shroud with fans and perhaps a mark, steel bracket, golden connector."""
    colour = COLOURS[thing["colour"]]
    fan_colour = COLOURS[thing["fan_colour"]]
    pen.box(-0.5, 0.0, 0.25, 0.14, PIN_GOLD, corner=0.01)
    for x in (-0.38, -0.25, -0.12, 0.01, 0.13):
        pen.line([(x, 0.02), (x, 0.09)], 0.02, darker(PIN_GOLD))
    pen.shape([(-0.84, 0.11), (0.86, 0.11), (0.93, 0.2), (0.93, 0.86), (0.8, 0.98), (-0.84, 0.98)], colour, corner=0.03)
    pen.shape([(-0.8, 0.13), (0.84, 0.13), (0.91, 0.21), (-0.8, 0.21)], darker(colour), outline=False)
    pen.shape([(-0.8, 0.9), (0.85, 0.9), (0.79, 0.96), (-0.8, 0.96)], lighter(colour), outline=False)
    pen.box(-0.95, 0.02, -0.82, 1.0, STEEL, corner=0.02)
    for y in (0.3, 0.45, 0.6):
        pen.line([(-0.885, y), (-0.885, y + 0.07)], 0.05, INK)
    centres, radius = _FANS[thing["fans"]]
    for x in centres:
        _fan(pen, x, 0.55, radius, fan_colour)
    mark_x, mark_size = _GPU_MARK[thing["fans"]]
    draw_mark(pen, thing["mark"], mark_x, 0.55, mark_size, COLOURS[thing["mark_colour"]])


def draw_mug(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a mug with its handle on the right and a pattern around it."""
    colour, pattern_colour = COLOURS[thing["colour"]], COLOURS[thing["pattern_colour"]]
    pen.limb([(0.22, 0.74), (0.43, 0.7), (0.47, 0.48), (0.39, 0.3), (0.2, 0.26)], 0.1, colour)
    pen.shape([(-0.54, 0.9), (-0.51, 0.1), (-0.36, 0.0), (0.08, 0.0), (0.23, 0.1), (0.26, 0.9)], colour, corner=0.06)
    pen.shape([(0.04, 0.02), (0.21, 0.11), (0.245, 0.86), (0.1, 0.84)], darker(colour), corner=0.03, outline=False)
    pattern = thing["pattern"]
    if pattern == "stripe":
        pen.shape([(-0.532, 0.58), (-0.518, 0.28), (0.238, 0.28), (0.252, 0.58)], pattern_colour)
    elif pattern == "dots":
        for x, y in ((-0.36, 0.6), (-0.12, 0.6), (0.11, 0.6), (-0.24, 0.36), (0.0, 0.36), (-0.36, 0.14), (-0.12, 0.14)):
            pen.circle(x, y, 0.075, pattern_colour)
    else:
        draw_mark(pen, "heart", -0.16, 0.42, 0.25, pattern_colour)
    pen.ellipse(-0.14, 0.9, 0.4, 0.095, lighter(colour))
    pen.ellipse(-0.14, 0.885, 0.31, 0.06, (92, 56, 36), outline=False)


def draw_ball(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a ball with a stripe, a star or dots on it."""
    colour, pattern_colour = COLOURS[thing["colour"]], COLOURS[thing["pattern_colour"]]
    pen.ball(0, 0.5, 0.5, 0.5, colour)
    pen.glint(-0.22, 0.84, 0.12, 0.055, colour, turn=30)
    pattern = thing["pattern"]
    if pattern == "stripe":
        upper = arc_points(0, 0.66, 0.49, 0.16, 190, 350)
        lower = [(x * 0.99, y - 0.24) for x, y in reversed(upper)]
        pen.shape([*upper, *lower], pattern_colour)
    elif pattern == "dots":
        for x, y in ((-0.2, 0.7), (0.2, 0.74), (0.0, 0.45), (-0.29, 0.3), (0.28, 0.36), (0.03, 0.15)):
            pen.circle(x, y, 0.1, pattern_colour)
    else:
        draw_mark(pen, "star", 0, 0.46, 0.34, pattern_colour)


def draw_book(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a standing book: cover with a mark, spine on the left, pages seen from above."""
    colour = COLOURS[thing["colour"]]
    pen.shape([(-0.38, 0.88), (-0.22, 1.0), (0.46, 1.0), (0.36, 0.86)], darker(colour))
    pen.shape([(-0.3, 0.88), (-0.18, 0.965), (0.43, 0.965), (0.36, 0.86)], WHITE, outline=False)
    pen.line([(-0.25, 0.91), (0.39, 0.91)], 0.012, STEEL)
    pen.shape([(0.36, 0.0), (0.46, 0.12), (0.46, 1.0), (0.36, 0.88)], WHITE)
    pen.line([(0.41, 0.1), (0.41, 0.9)], 0.012, STEEL)
    pen.box(-0.4, 0.0, 0.37, 0.88, colour, corner=0.02)
    pen.box(-0.4, 0.0, -0.26, 0.88, darker(colour), corner=0.02)
    for y in (0.14, 0.74):
        pen.line([(-0.37, y), (-0.29, y)], 0.03, COLOURS[thing["mark_colour"]])
    pen.box(-0.2, 0.81, 0.33, 0.84, lighter(colour), outline=False)
    draw_mark(pen, thing["mark"], 0.06, 0.43, 0.25, COLOURS[thing["mark_colour"]])


def draw_lamp(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a table lamp: a lit shade, a stem and a round foot."""
    shade_colour, foot_colour = COLOURS[thing["colour"]], COLOURS[thing["foot_colour"]]
    pen.ball(0, 0.07, 0.27, 0.07, foot_colour)
    if thing["stem"] == "straight":
        pen.limb([(0, 0.1), (0, 0.6)], 0.06, foot_colour)
    else:
        for y, radius in ((0.19, 0.1), (0.34, 0.085), (0.48, 0.07)):
            pen.ball(0, y, radius, radius * 0.9, foot_colour)
    pen.circle(0, 0.53, 0.085, (255, 240, 150))
    pen.shape([(-0.46, 0.54), (0.46, 0.54), (0.25, 1.0), (-0.25, 1.0)], shade_colour, corner=0.02)
    pen.shape([(0.2, 0.56), (0.42, 0.56), (0.235, 0.98), (0.1, 0.98)], darker(shade_colour), outline=False)
    pen.shape([(-0.34, 0.6), (-0.24, 0.6), (-0.17, 0.94), (-0.21, 0.94)], mix(shade_colour, WHITE, 0.6), outline=False)
