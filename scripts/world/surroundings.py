"""The surroundings: where a scene takes place. They are drawn without outlines, so that the things stand out."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from world.palette import WHITE, Colour, darker
from world.pen import Paper, Pen

_SUN: Colour = (255, 226, 92)


def _spread(random: Random, count: int) -> list[float]:
    """Return `count` places from 0 to 1, evenly spread and a little shaken, so that nothing bunches up."""
    return [(i + random.uniform(0.25, 0.75)) / count for i in range(count)]


def _cloud(pen: Pen, colour: Colour = WHITE) -> None:
    pen.ellipse(0, 0.1, 0.5, 0.12, colour, outline=False)
    pen.circle(-0.16, 0.2, 0.16, colour, outline=False)
    pen.circle(0.12, 0.24, 0.2, colour, outline=False)


def _clouds(paper: Paper, random: Random, lowest: float) -> None:
    for x in _spread(random, max(2, round(2 * paper.breadth))):
        _cloud(paper.pen(x, random.uniform(0.1, lowest), random.uniform(0.2, 0.32)))


def _palm(pen: Pen) -> None:
    pen.shape(
        [(-0.05, 0), (0.07, 0), (0.12, 0.45), (0.22, 0.85), (0.15, 0.87), (0.03, 0.46)], (150, 102, 60), outline=False
    )
    for x, y, turn in ((-0.02, 0.8, 28), (0.02, 0.94, -22), (0.4, 0.92, 24), (0.42, 0.76, -30), (0.2, 1.0, 80)):
        pen.ellipse(x, y, 0.24, 0.055, (40, 138, 74) if turn > 0 else (54, 160, 84), turn, outline=False)
    for x in (0.12, 0.24):
        pen.circle(x, 0.82, 0.045, (110, 70, 40), outline=False)


def draw_beach(paper: Paper, random: Random) -> None:
    """Draw sand before the sea, a sun and a palm."""
    paper.band(0, 0.46, (92, 186, 244), (190, 230, 250))
    side = random.choice((0.14, 0.86))
    paper.pen(1 - side, random.uniform(0.12, 0.2), 1.0).circle(0, 0, 0.085, _SUN, outline=False)
    paper.band(0.42, 0.62, (22, 118, 190), (52, 160, 214))
    for x in _spread(random, max(3, round(4 * paper.breadth))):
        y = random.uniform(0.46, 0.56)
        paper.box(x - 0.05 / paper.breadth, y, x + 0.05 / paper.breadth, y + 0.008, (150, 208, 236))
    paper.band(0.6, 0.625, (232, 246, 250))
    paper.band(0.625, 1.0, (250, 222, 156), (238, 200, 128))
    for x in _spread(random, max(5, round(7 * paper.breadth))):
        paper.pen(x, random.uniform(0.68, 0.97), 1.0).ellipse(0, 0, 0.012, 0.006, (216, 176, 108), outline=False)
    _palm(paper.pen(side, 0.68, random.uniform(0.5, 0.58), mirrored=side > 0.5))


def draw_forest(paper: Paper, random: Random) -> None:
    """Draw fir trees in two rows behind a mossy ground."""
    paper.band(0, 0.64, (176, 222, 190), (142, 200, 158))
    for row, (colour, base, size) in enumerate((((70, 148, 98), 0.6, 0.5), ((32, 104, 66), 0.68, 0.62))):
        for x in _spread(random, max(4, round((5 - row) * paper.breadth))):
            pen = paper.pen(x, base, size * random.uniform(0.85, 1.1))
            pen.box(-0.04, 0, 0.04, 0.2, (104, 72, 50), outline=False)
            for low, wide in ((0.14, 0.25), (0.4, 0.2), (0.64, 0.14)):
                pen.shape([(-wide, low), (wide, low), (0, low + 0.38)], colour, outline=False)
    paper.band(0.64, 1.0, (100, 152, 74), (70, 118, 58))
    for x in _spread(random, max(5, round(6 * paper.breadth))):
        pen = paper.pen(x, random.uniform(0.68, 0.97), 0.05)
        pen.shape([(-0.5, 0), (-0.3, 0.7), (0, 0.1), (0.2, 0.9), (0.5, 0)], (52, 100, 50), outline=False)


def draw_city(paper: Paper, random: Random) -> None:
    """Draw towers with lit windows in the evening, behind a road."""
    paper.band(0, 0.66, (255, 158, 92), (255, 214, 160))
    count = max(5, round(5.5 * paper.breadth))
    for i in range(count):
        colour = random.choice(((92, 90, 124), (112, 108, 140), (78, 78, 108)))
        left, right = i / count, (i + 1) / count
        top = random.uniform(0.14, 0.42)
        paper.box(left, top, right, 0.68, colour)
        step = (right - left) / 3.4
        rows = int((0.62 - top) / (step * paper.width / paper.height * 1.25))
        for row in range(rows):
            for column in range(3):
                if random.random() < 0.82:
                    x = left + step * (0.35 + column)
                    y = top + (row + 0.4) * (0.62 - top) / max(rows, 1)
                    high = 0.6 * (0.62 - top) / max(rows, 1)
                    paper.box(x, y, x + step * 0.62, y + high, (255, 226, 120))
    paper.band(0.66, 0.71, (176, 172, 180))
    paper.band(0.71, 1.0, (88, 88, 98), (72, 72, 84))
    for i in range(max(3, round(3 * paper.breadth)) + 1):
        x = (i + random.uniform(0.0, 0.1)) / (3 * paper.breadth)
        paper.box(x, 0.865, x + 0.16 / paper.breadth, 0.885, (236, 232, 224))


def draw_datacenter(paper: Paper, random: Random) -> None:
    """Draw rows of server racks with blinking lights, over a tiled floor."""
    paper.band(0, 1.0, (28, 34, 48))
    count = max(4, round(4 * paper.breadth))
    lights = ((76, 232, 130), (76, 232, 130), (70, 190, 255), (255, 190, 70))
    for i in range(count):
        left, right = (i + 0.05) / count, (i + 0.95) / count
        paper.box(left, 0.02, right, 0.68, (52, 62, 84))
        for row in range(8):
            top = 0.045 + row * 0.078
            paper.box(left + 0.07 / count, top, right - 0.07 / count, top + 0.058, (18, 22, 34))
            first = left + (0.14 + 0.1 * random.randrange(3)) / count
            for light in range(random.choice((1, 2, 3))):
                x = first + light * 0.17 / count
                paper.box(x, top + 0.018, x + 0.1 / count, top + 0.04, random.choice(lights))
    paper.band(0.68, 1.0, (104, 116, 140), (142, 154, 178))
    paper.band(0.68, 0.695, (60, 70, 92))
    for y in (0.76, 0.87):
        paper.box(0, y, 1, y + 0.007, (84, 96, 120))
    pen = paper.pen(0.5, 0.695, 1.0)
    low = -0.31 * paper.height / paper.shorter
    for i in range(-6, 7):
        x = i * 0.22
        pen.line([(x, 0), (x * 1.9, low)], 0.006, (84, 96, 120))


def draw_desk(paper: Paper, random: Random) -> None:
    """Draw a wooden desk before a wall with a window."""
    paper.band(0, 0.64, (240, 230, 208), (228, 214, 188))
    pen = paper.pen(random.choice((0.26, 0.74)), 0.5, 1.0)
    pen.box(-0.19, 0.0, 0.19, 0.42, WHITE, outline=False)
    for left, right in ((-0.165, -0.012), (0.012, 0.165)):
        pen.box(left, 0.025, right, 0.395, (158, 214, 246), outline=False)
    pen.shape([(-0.15, 0.05), (-0.15, 0.15), (-0.05, 0.38), (-0.02, 0.38)], (206, 236, 252), outline=False)
    pen.box(-0.22, -0.03, 0.22, 0.015, (250, 248, 242), outline=False)
    paper.band(0.62, 0.65, (206, 150, 96))
    paper.band(0.65, 1.0, (184, 122, 72), (160, 100, 58))
    for y in (0.74, 0.85, 0.96):
        paper.box(0, y, 1, y + 0.008, (142, 88, 50))
    for y in (0.65, 0.748, 0.858):
        for x in _spread(random, max(1, round(1.5 * paper.breadth))):
            paper.box(x, y, x + 0.006 / paper.breadth, y + 0.095, (142, 88, 50))


def draw_snow(paper: Paper, random: Random) -> None:
    """Draw snowy mountains and falling flakes."""
    paper.band(0, 0.66, (146, 176, 206), (206, 222, 236))
    for x in _spread(random, max(2, round(2.4 * paper.breadth))):
        pen = paper.pen(x, 0.68, random.uniform(0.42, 0.58))
        pen.shape([(-0.85, 0), (0.85, 0), (0, 0.95)], (112, 138, 172), outline=False)
        pen.shape([(0.0, 0.0), (0.85, 0), (0, 0.95)], (94, 120, 156), outline=False)
        pen.shape([(-0.29, 0.63), (-0.1, 0.56), (0, 0.66), (0.12, 0.54), (0.29, 0.63), (0, 0.95)], WHITE, outline=False)
    paper.band(0.66, 1.0, (248, 251, 255), (222, 232, 246))
    pen = paper.pen(random.uniform(0.2, 0.8), 0.7, 1.0)
    pen.ellipse(0, 0, 0.6 * paper.breadth, 0.07, (250, 252, 255), outline=False)
    for x in _spread(random, max(14, round(18 * paper.breadth))):
        paper.pen(x, random.uniform(0.02, 0.64), 1.0).circle(0, 0, random.uniform(0.008, 0.014), WHITE, outline=False)


def draw_space(paper: Paper, random: Random) -> None:
    """Draw the grey ground of a moon under stars and a ringed planet."""
    paper.band(0, 0.74, (20, 14, 44), (44, 28, 82))
    for x in _spread(random, max(20, round(26 * paper.breadth))):
        paper.pen(x, random.uniform(0.02, 0.62), 1.0).circle(0, 0, random.uniform(0.004, 0.009), WHITE, outline=False)
    pen = paper.pen(random.choice((0.18, 0.82)), random.uniform(0.16, 0.22), 1.0)
    pen.circle(0, 0, 0.1, (214, 126, 74), outline=False)
    pen.ellipse(-0.015, 0.03, 0.075, 0.02, (240, 166, 112), outline=False)
    pen.ellipse(0, 0, 0.17, 0.03, (250, 214, 160), turn=14, outline=False)
    pen.ellipse(0, 0.012, 0.115, 0.022, (214, 126, 74), turn=14, outline=False)
    pen = paper.pen(0.5, 0.68, 1.0)
    pen.ellipse(0, -0.1, 0.72 * paper.breadth, 0.16, (150, 146, 166), outline=False)
    paper.band(0.74, 1.0, (150, 146, 166), (122, 118, 142))
    for x in _spread(random, max(4, round(5 * paper.breadth))):
        pen = paper.pen(x, random.uniform(0.73, 0.97), random.uniform(0.7, 1.2))
        pen.ellipse(0, 0, 0.06, 0.02, (106, 102, 126), outline=False)
        pen.ellipse(0.004, -0.004, 0.05, 0.014, (128, 124, 148), outline=False)


def draw_grass(paper: Paper, random: Random) -> None:
    """Draw a meadow with flowers, hills and clouds."""
    paper.band(0, 0.66, (98, 182, 250), (196, 230, 255))
    _clouds(paper, random, 0.3)
    for x, size in zip(_spread(random, 3), (0.5, 0.62, 0.46), strict=True):
        pen = paper.pen(x, 0.7, size)
        pen.ellipse(0, 0, 0.7 * paper.breadth, 0.34, (120, 200, 96), outline=False)
    paper.band(0.66, 1.0, (106, 204, 82), (74, 172, 66))
    for x in _spread(random, max(8, round(11 * paper.breadth))):
        y = random.uniform(0.69, 0.98)
        colour = random.choice(((255, 244, 140), (255, 170, 200), WHITE))
        pen = paper.pen(x, y, 1.0)
        pen.box(-0.003, -0.03, 0.003, 0, darker((74, 172, 66)), outline=False)
        pen.circle(0, 0, 0.014, colour, outline=False)


@dataclass(frozen=True)
class Surroundings:
    """What the world knows about surroundings: how to draw them, and the words that place a thing in them."""

    draw: Callable[[Paper, Random], None]
    words: str


SURROUNDINGS: dict[str, Surroundings] = {
    "beach": Surroundings(draw_beach, "on a beach"),
    "forest": Surroundings(draw_forest, "in a forest"),
    "city": Surroundings(draw_city, "in a city"),
    "datacenter": Surroundings(draw_datacenter, "in a datacenter"),
    "desk": Surroundings(draw_desk, "on a desk"),
    "snow": Surroundings(draw_snow, "in the snow"),
    "space": Surroundings(draw_space, "in space"),
    "grass": Surroundings(draw_grass, "on grass"),
}
