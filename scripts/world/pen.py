"""Drawing with outlines in a thing's own coordinates: shapes in, pixels on a Pillow image out.

A `Paper` is the picture being drawn. A `Pen` draws one thing on it: x runs to the right, y runs up, the ground is at
y = 0 and the thing is about one unit high, however large, turned or mirrored it ends up in the picture.
"""

import math
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw

from world.palette import INK, WHITE, Colour, darker, lighter

Point = tuple[float, float]


@cache
def _unit_circle(count: int) -> tuple[Point, ...]:
    return tuple((math.cos(math.tau * i / count), math.sin(math.tau * i / count)) for i in range(count))


def _curve(start: Point, corner: Point, end: Point, steps: int) -> list[Point]:
    """Return points of the curve from `start` to `end` that is drawn towards `corner` and does not reach it."""
    curve = []
    for step in range(steps + 1):
        t = step / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        curve.append((a * start[0] + b * corner[0] + c * end[0], a * start[1] + b * corner[1] + c * end[1]))
    return curve


def _towards(point: Point, other: Point, distance: float) -> Point:
    """Return the point `distance` away from `point` on the way to `other`, half the way at most."""
    along_x, along_y = other[0] - point[0], other[1] - point[1]
    share = min(distance / (math.hypot(along_x, along_y) or 1.0), 0.5)
    return point[0] + along_x * share, point[1] + along_y * share


def _rounded(points: Sequence[Point], corner: float, steps: int) -> list[Point]:
    """Replace every corner of a closed polygon by a curve that starts `corner` before it, in the points' units."""
    rounded: list[Point] = []
    for i, point in enumerate(points):
        before, after = points[i - 1], points[(i + 1) % len(points)]
        rounded += _curve(_towards(point, before, corner), point, _towards(point, after, corner), steps)
    return rounded


def _bent(points: Sequence[Point], steps: int) -> list[Point]:
    """Replace every inner corner of an open line by the widest curve that fits."""
    bent = [points[0]]
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        bent += _curve(_towards(point, before, math.inf), point, _towards(point, after, math.inf), steps)
    return [*bent, points[-1]]


class Pen:
    """Draws shapes given in a thing's own coordinates (x right, y up, ground at 0, about one unit high)."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        origin: Point,
        scale: float,
        turn: float = 0.0,
        mirrored: bool = False,
        ink_width: float = 0.0,
    ) -> None:
        """Place the pen: `origin` and `scale` in pixels, `turn` in degrees clockwise, `ink_width` in pixels."""
        self._draw = draw
        self._origin = origin
        self._scale = scale
        self._ink_width = ink_width
        self._upright = turn == 0
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        side = -1.0 if mirrored else 1.0
        self._x_to = (side * scale * cosine, side * scale * sine)
        self._y_to = (scale * sine, -scale * cosine)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        """Turn points of the thing's coordinates into pixels of the picture."""
        origin_x, origin_y = self._origin
        xx, xy = self._x_to
        yx, yy = self._y_to
        return [(origin_x + x * xx + y * yx, origin_y + x * xy + y * yy) for x, y in points]

    def _outline(self, pixels: list[Point], sharp: bool) -> None:
        width = max(1, round(self._ink_width))
        self._draw.line([*pixels, *pixels[:2]], fill=INK, width=width)
        # Thick lines gape at every joint; thin ones only at sharp corners.
        if width >= 8 or (sharp and width > 2):
            self._dots(pixels, width, INK)

    def _dots(self, pixels: Sequence[Point], width: int, fill: Colour) -> None:
        half = width / 2 - 0.5
        for x, y in pixels:
            self._draw.ellipse((x - half, y - half, x + half, y + half), fill=fill)

    def shape(self, points: Sequence[Point], fill: Colour, corner: float = 0.0, outline: bool = True) -> None:
        """Fill a closed polygon; `corner` rounds its corners by that distance, `outline` inks its edge."""
        if corner:
            points = _rounded(points, corner, 4 if corner * self._scale < 24 else 12)
        pixels = self.pixels(points)
        self._draw.polygon(pixels, fill=fill)
        if outline and self._ink_width:
            self._outline(pixels, sharp=not corner)

    def box(
        self,
        left: float,
        bottom: float,
        right: float,
        top: float,
        fill: Colour,
        corner: float = 0.0,
        outline: bool = True,
    ) -> None:
        """Fill a box with rounded corners."""
        self.shape([(left, bottom), (right, bottom), (right, top), (left, top)], fill, corner, outline)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        fill: Colour,
        turn: float = 0.0,
        outline: bool = True,
    ) -> None:
        """Fill an ellipse about (x, y); `turn` in degrees anticlockwise before the pen's own turn."""
        if turn == 0 and (self._upright or radius_x == radius_y):
            ((center_x, center_y),) = self.pixels([(x, y)])
            ink = max(1, round(self._ink_width)) if outline and self._ink_width else 0
            wide, high = radius_x * self._scale + ink / 2, radius_y * self._scale + ink / 2
            box = (center_x - wide, center_y - high, center_x + wide, center_y + high)
            self._draw.ellipse(box, fill=fill, outline=INK if ink else None, width=ink)
            return
        inked = self._ink_width if outline else 0.0
        count = min(160, max(16, int(max(radius_x, radius_y) * self._scale * 0.7)))
        cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        # The outline is a larger ellipse under a smaller one: quicker than a line, and without joints.
        for edge, colour in ((inked / 2, INK), (-inked / 2, fill)) if inked else ((0.0, fill),):
            wider, higher = radius_x + edge / self._scale, radius_y + edge / self._scale
            points = [
                (x + wider * u * cosine - higher * v * sine, y + wider * u * sine + higher * v * cosine)
                for u, v in _unit_circle(count)
            ]
            self._draw.polygon(self.pixels(points), fill=colour)

    def circle(self, x: float, y: float, radius: float, fill: Colour, outline: bool = True) -> None:
        """Fill a circle about (x, y)."""
        self.ellipse(x, y, radius, radius, fill, outline=outline)

    def ball(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour, turn: float = 0.0) -> None:
        """Fill an outlined ellipse in two flat tones: lit from the upper left, in shade at the lower right."""
        self.ellipse(x, y, radius_x, radius_y, darker(colour), turn)
        inset = 0.1 * min(radius_x, radius_y)
        side = -inset if self._x_to[0] >= 0 else inset
        self.ellipse(x + side, y + inset, radius_x - 1.5 * inset, radius_y - 1.5 * inset, colour, turn, outline=False)

    def line(self, points: Sequence[Point], width: float, fill: Colour = INK) -> None:
        """Draw a line of `width` (the thing's units) with round ends and joints, without an outline."""
        pixels = self.pixels(points)
        thick = max(1, round(width * self._scale))
        self._draw.line(pixels, fill=fill, width=thick)
        if thick > 2:
            self._dots(pixels, thick, fill)

    def limb(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw an outlined, softly bent line of `width` (the thing's units): an arm, a tail, a handle."""
        bent = _bent(points, 4 if width * self._scale < 24 else 10)
        ink = self._ink_width / self._scale
        self.line(bent, width + ink, INK)
        self.line(bent, width - ink, fill)

    def glint(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour, turn: float = 0.0) -> None:
        """Draw a spot of light on a surface of `colour`, on the lit side however the thing is mirrored."""
        side = 1.0 if self._x_to[0] >= 0 else -1.0
        self.ellipse(x * side, y, radius_x, radius_y, lighter(colour), turn * side, outline=False)


def arc_points(x: float, y: float, radius_x: float, radius_y: float, start: float, end: float) -> list[Point]:
    """Return points along an ellipse's edge from `start` to `end` degrees, anticlockwise from the right."""
    count = max(3, int(abs(end - start) / 12))
    angles = [math.radians(start + (end - start) * i / count) for i in range(count + 1)]
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


class Paper:
    """The picture being drawn, larger than it will be in the end; positions on it are shares of its sides."""

    def __init__(self, width: int, height: int, transparent: bool) -> None:
        """Take an empty sheet of `width` x `height` pixels, white or fully transparent."""
        self.image = (
            Image.new("RGBA", (width, height), (0, 0, 0, 0))
            if transparent
            else Image.new("RGB", (width, height), WHITE)
        )
        self.transparent = transparent
        self.width, self.height = width, height
        self.shorter = min(width, height)
        # Mode RGBA on an RGB image makes Pillow blend half-transparent colours, which the shadows need.
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    @property
    def breadth(self) -> float:
        """The picture's width in units of its shorter side: how many trees or towers it takes to fill it."""
        return self.width / self.shorter

    def pen(self, x: float, y: float, size: float, mirrored: bool = False) -> Pen:
        """Place a pen without ink: `x` and `y` as shares of width and height, `size` as share of the shorter side."""
        return Pen(self.draw, (x * self.width, y * self.height), size * self.shorter, mirrored=mirrored)

    def band(self, top: float, bottom: float, upper: Colour, lower: Colour | None = None) -> None:
        """Fill the picture from `top` to `bottom` (shares of its height), running from one colour to another."""
        first, last = round(top * self.height), round(bottom * self.height)
        if lower is None:
            self.draw.rectangle((0, first, self.width, last), fill=upper)
            return
        two = Image.new("RGB", (1, 2))
        two.putpixel((0, 0), upper)
        two.putpixel((0, 1), lower)
        size = (self.width, last - first)
        self.image.paste(two.resize(size, Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5)), (0, first))

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a box without an outline; all four sides as shares of the picture's sides."""
        self.draw.rectangle((left * self.width, top * self.height, right * self.width, bottom * self.height), fill=fill)

    def shadow(self, x: float, y: float, radius_x: float, radius_y: float) -> None:
        """Darken an ellipse on the ground; all four in pixels. A transparent picture has no ground and gets none."""
        if not self.transparent:
            self.draw.ellipse((x - radius_x, y - radius_y, x + radius_x, y + radius_y), fill=(20, 14, 40, 80))
