"""Things that stand outdoors: car, house."""

from world.marks import draw_mark
from world.palette import COLOURS, GLASS, INK, STEEL, WHITE, darker, lighter
from world.pen import Pen
from world.scene import Thing


def draw_car(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a small car from the side, driving to the right, perhaps with a mark on its door."""
    colour, wheel_colour = COLOURS[thing["colour"]], COLOURS[thing["wheel_colour"]]
    pen.shape([(-0.52, 0.5), (-0.42, 1.0), (0.26, 1.0), (0.52, 0.5)], colour, corner=0.14)
    pen.shape([(-0.4, 0.58), (-0.32, 0.9), (-0.07, 0.9), (-0.07, 0.58)], GLASS, corner=0.05)
    pen.shape([(0.03, 0.58), (0.03, 0.9), (0.2, 0.9), (0.38, 0.58)], GLASS, corner=0.05)
    pen.shape([(-0.86, 0.2), (0.86, 0.2), (0.88, 0.52), (0.52, 0.6), (-0.84, 0.6)], colour, corner=0.1)
    pen.box(-0.82, 0.215, 0.83, 0.3, darker(colour), corner=0.03, outline=False)
    pen.box(-0.76, 0.53, 0.4, 0.57, lighter(colour), corner=0.02, outline=False)
    pen.box(-0.93, 0.18, -0.74, 0.29, STEEL, corner=0.04)
    pen.box(0.74, 0.18, 0.93, 0.29, STEEL, corner=0.04)
    pen.ellipse(0.8, 0.45, 0.065, 0.08, (255, 236, 130))
    pen.box(-0.87, 0.42, -0.79, 0.54, (236, 60, 60), corner=0.02)
    draw_mark(pen, thing["mark"], -0.02, 0.41, 0.16, COLOURS[thing["mark_colour"]])
    for x in (-0.5, 0.5):
        pen.circle(x, 0.19, 0.2, INK)
        pen.circle(x, 0.19, 0.12, wheel_colour)
        pen.circle(x, 0.19, 0.035, INK, outline=False)


def draw_house(pen: Pen, thing: Thing, pose: str) -> None:
    """Draw a small house with a pitched roof, a door, a window and perhaps a chimney."""
    colour, roof, door = COLOURS[thing["colour"]], COLOURS[thing["roof_colour"]], COLOURS[thing["door_colour"]]
    if thing["chimney"] != "no":
        pen.box(0.2, 0.65, 0.36, 1.0, darker(roof))
        pen.box(0.17, 0.93, 0.39, 1.0, roof)
    pen.box(-0.43, 0.0, 0.43, 0.56, colour)
    pen.box(0.31, 0.015, 0.415, 0.54, darker(colour), outline=False)
    pen.shape([(-0.58, 0.5), (0.58, 0.5), (0.1, 0.97), (-0.1, 0.97)], roof, corner=0.03)
    pen.shape([(0.26, 0.53), (0.52, 0.53), (0.09, 0.94), (0.0, 0.94)], darker(roof), outline=False)
    pen.box(-0.31, 0.0, -0.06, 0.4, door, corner=0.02)
    pen.circle(-0.11, 0.19, 0.025, WHITE)
    pen.box(0.06, 0.18, 0.3, 0.4, GLASS)
    pen.line([(0.18, 0.18), (0.18, 0.4)], 0.022)
    pen.line([(0.06, 0.29), (0.3, 0.29)], 0.022)
