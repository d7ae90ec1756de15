"""Figures with a face: toy, robot, dog. Toy and robot have arms, which take a pose and can hold things."""

from world.marks import draw_mark
from world.palette import COLOURS, INK, STEEL, WHITE, darker, lighter, mix
from world.pen import Pen, Point, arc_points
from world.scene import Thing

# Where each arm goes in each pose: elbow and hand, for the arm on the right; the left one is its mirror image.
_ARM_DOWN: tuple[Point, Point] = ((0.30, 0.30), (0.29, 0.19))
_ARM_UP: tuple[Point, Point] = ((0.35, 0.43), (0.39, 0.60))
_ARM_OUT: tuple[Point, Point] = ((0.33, 0.33), (0.42, 0.36))
_POSES = {
    "down": (_ARM_DOWN, _ARM_DOWN),
    "up": (_ARM_UP, _ARM_UP),
    "wave": (_ARM_DOWN, _ARM_UP),
    "hold": (_ARM_DOWN, _ARM_OUT),
}
POSES = tuple(_POSES)
HAND_THAT_HOLDS: Point = _ARM_OUT[1]


def _eyes(pen: Pen, y: float, apart: float, radius: float) -> None:
    for x in (-apart, apart):
        pen.ellipse(x, y, radius, radius * 1.15, WHITE)
        pen.circle(x + 0.12 * radius, y - 0.1 * radius, radius * 0.62, INK, outline=False)
        pen.circle(x - 0.08 * radius, y + 0.25 * radius, radius * 0.24, WHITE, outline=False)


def _toy_ears(pen: Pen, thing: Thing) -> None:
    colour = COLOURS[thing["ear_colour"]]
    inner = lighter(colour)
    ears = thing["ears"]
    for side in (-1, 1):
        if ears == "pointed ears":
            pen.shape([(side * 0.25, 0.64), (side * 0.25, 0.98), (side * 0.03, 0.76)], colour, corner=0.03)
            pen.shape([(side * 0.2, 0.72), (side * 0.215, 0.89), (side * 0.1, 0.77)], inner, outline=False)
        elif ears == "round ears":
            pen.circle(side * 0.2, 0.8, 0.125, colour)
            pen.circle(side * 0.2, 0.8, 0.065, inner, outline=False)
        elif ears == "horns":
            pen.shape(
                [(side * 0.06, 0.74), (side * 0.08, 0.88), (side * 0.2, 0.99), (side * 0.2, 0.86), (side * 0.21, 0.7)],
                colour,
                corner=0.03,
            )
    if ears == "long ears":
        # One ear stands and one is folded over, so that the toy has a left and a right.
        pen.ellipse(-0.12, 0.86, 0.075, 0.165, colour, turn=8)
        pen.ellipse(-0.12, 0.86, 0.035, 0.11, inner, turn=8, outline=False)
        pen.limb([(0.13, 0.75), (0.16, 0.9), (0.3, 0.85)], 0.13, colour)


def draw_toy(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a soft toy: a round figure with ears, a mark on its white belly and perhaps a scarf."""
    colour = COLOURS[thing["colour"]]
    left, right = _POSES[pose]
    pen.limb([(-0.16, 0.12), (-0.31, 0.09), (-0.37, 0.15), (-0.36, 0.24)], 0.055, darker(colour))
    _toy_ears(pen, thing)
    for side in (-1, 1):
        pen.ball(side * 0.135, 0.062, 0.115, 0.062, colour)
    pen.ball(0, 0.28, 0.235, 0.24, colour)
    pen.ellipse(0, 0.245, 0.165, 0.17, WHITE)
    draw_mark(pen, thing["mark"], 0, 0.235, 0.125, COLOURS[thing["mark_colour"]])
    pen.limb([(-0.19, 0.4), *[(-x, y) for x, y in left]], 0.1, colour)
    pen.limb([(0.19, 0.4), *right], 0.1, colour)
    if thing["scarf_colour"] != "no":
        scarf = COLOURS[thing["scarf_colour"]]
        pen.shape([(0.1, 0.46), (0.21, 0.44), (0.25, 0.22), (0.13, 0.22)], darker(scarf), corner=0.02)
        pen.box(-0.21, 0.385, 0.21, 0.485, scarf, corner=0.05)
    pen.ball(0, 0.62, 0.27, 0.195, colour)
    pen.glint(-0.15, 0.72, 0.055, 0.028, colour, turn=35)
    _eyes(pen, 0.65, 0.105, 0.066)
    pen.ellipse(0, 0.545, 0.1, 0.062, lighter(colour), outline=False)
    pen.ellipse(0, 0.575, 0.032, 0.022, INK, outline=False)
    pen.line(arc_points(0, 0.56, 0.055, 0.045, 215, 325), 0.016)
    for side in (-1, 1):
        pen.ellipse(side * 0.185, 0.56, 0.04, 0.027, mix(colour, (255, 90, 120), 0.5), outline=False)


def draw_toy_hand(pen: Pen, thing: Thing) -> None:
    """Draw the hand that lies over what the toy holds."""
    pen.circle(*HAND_THAT_HOLDS, 0.062, COLOURS[thing["colour"]])


def draw_robot(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a boxy robot with a panel on its chest and one or two antennas."""
    colour, panel = COLOURS[thing["colour"]], COLOURS[thing["panel_colour"]]
    shade = darker(colour)
    left, right = _POSES[pose]
    for x in {"one": (0.0,), "two": (-0.13, 0.13)}[thing["antennas"]]:
        pen.limb([(x, 0.84), (x, 0.93)], 0.016, STEEL)
        pen.circle(x, 0.955, 0.042, panel)
    for side in (-1, 1):
        pen.box(side * 0.06, 0.06, side * 0.15, 0.2, STEEL)
        pen.box(side * 0.03, 0.0, side * 0.2, 0.085, shade, corner=0.03)
    for hand, side in ((left, -1), (right, 1)):
        points = [(side * 0.22, 0.44), *[(side * x, y) for x, y in hand]]
        pen.limb(points, 0.06, STEEL)
        pen.circle(*points[-1], 0.06, shade)
    pen.box(-0.23, 0.17, 0.23, 0.53, colour, corner=0.04)
    pen.box(-0.205, 0.185, 0.215, 0.225, shade, corner=0.015, outline=False)
    pen.box(-0.145, 0.26, 0.145, 0.47, panel, corner=0.025)
    pen.shape([(-0.12, 0.36), (-0.12, 0.45), (0.0, 0.45), (-0.05, 0.36)], lighter(panel), outline=False)
    pen.box(-0.07, 0.5, 0.07, 0.6, STEEL)
    for side in (-1, 1):
        pen.box(side * 0.2, 0.65, side * 0.295, 0.76, STEEL, corner=0.015)
    pen.box(-0.235, 0.56, 0.235, 0.85, colour, corner=0.05)
    pen.box(-0.21, 0.575, 0.22, 0.61, shade, corner=0.015, outline=False)
    pen.glint(-0.17, 0.81, 0.04, 0.016, colour)
    _eyes(pen, 0.735, 0.105, 0.064)
    pen.box(-0.1, 0.615, 0.1, 0.655, WHITE, corner=0.01)
    for x in (-0.05, 0.0, 0.05):
        pen.line([(x, 0.62), (x, 0.65)], 0.01)


def draw_robot_hand(pen: Pen, thing: Thing) -> None:
    """Draw the hand that lies over what the robot holds."""
    pen.circle(*HAND_THAT_HOLDS, 0.06, darker(COLOURS[thing["colour"]]))


def draw_dog(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a dog from the side, with hanging ears, a collar and perhaps spots."""
    colour, collar = COLOURS[thing["colour"]], COLOURS[thing["collar_colour"]]
    shade = darker(colour)
    ear = mix(colour, INK, 0.45) if thing["colour"] != "black" else mix(colour, WHITE, 0.25)
    pen.limb([(-0.38, 0.48), (-0.52, 0.58), (-0.53, 0.76)], 0.075, colour)
    for x in (-0.21, 0.28):
        pen.box(x - 0.075, 0.0, x + 0.075, 0.32, shade, corner=0.06)
    for x in (-0.35, 0.14):
        pen.box(x - 0.085, 0.0, x + 0.085, 0.34, colour, corner=0.06)
    pen.shape([(-0.47, 0.23), (0.34, 0.23), (0.42, 0.6), (-0.47, 0.57)], colour, corner=0.17)
    pen.shape([(-0.36, 0.25), (0.28, 0.25), (0.22, 0.32), (-0.34, 0.32)], shade, corner=0.05, outline=False)
    if thing["spots"] != "no":
        spots = COLOURS[thing["spots"]]
        pen.ellipse(-0.22, 0.47, 0.11, 0.085, spots, outline=False)
        pen.ellipse(0.04, 0.41, 0.07, 0.06, spots, outline=False)
    pen.shape([(0.16, 0.42), (0.4, 0.4), (0.46, 0.62), (0.2, 0.64)], colour, corner=0.05, outline=False)
    pen.limb([(0.19, 0.52), (0.31, 0.47), (0.46, 0.49)], 0.07, collar)
    pen.circle(0.38, 0.42, 0.045, COLOURS["golden"])
    pen.ball(0.33, 0.71, 0.235, 0.215, colour)
    pen.ball(0.55, 0.63, 0.15, 0.11, mix(colour, WHITE, 0.3))
    pen.ellipse(0.65, 0.69, 0.055, 0.042, INK, outline=False)
    pen.line(arc_points(0.55, 0.6, 0.08, 0.05, 200, 320), 0.018)
    pen.ellipse(0.41, 0.77, 0.06, 0.07, WHITE)
    pen.circle(0.425, 0.765, 0.037, INK, outline=False)
    pen.circle(0.41, 0.785, 0.014, WHITE, outline=False)
    pen.shape([(0.06, 0.88), (0.24, 0.93), (0.24, 0.62), (0.13, 0.46), (0.02, 0.6)], ear, corner=0.09)
