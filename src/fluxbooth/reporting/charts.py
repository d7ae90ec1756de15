"""Line charts as SVG inside an HTML page: no script, no file beside it, colours from the page's style sheet.

A chart is told apart without colour, too: each line has dashes and marks of its own, and a text says its ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

WIDTH, HEIGHT = 420, 250
"""Of a chart's own coordinates; on the page it is as wide as its place."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 36
_FLAG_LINE = 15
_MOST_X_TICKS, _MOST_Y_TICKS = 6, 5
_MOST_MARKED = 30
"""Points of a line that each get a mark."""
_MOST_POINTS = 400
"""Points of a line that are drawn one by one; of more the lowest and highest of each stretch."""
LOOKS = 6
"""Lines that differ in colour, dashes and mark; the next begin again."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2")
_MARK = 4.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    points: Sequence[Point]
    """(x, y), rising in x."""
    intervals: Sequence[tuple[float, float]] = ()
    """(low, high) of each point, drawn as a whisker; empty where nothing is known of them."""
    look: int = 0
    """Which colour, dashes and mark."""
    faint: bool = False
    """Behind the others, thin, without marks and without a place in the legend: the raw numbers of a smoothed line."""


@dataclass(frozen=True)
class Flag:
    """An x that is worth a word: an upright line with a text at its top."""

    x: float
    text: str


@dataclass(frozen=True)
class Frame:
    """Where values lie on the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    top: float = _TOP
    """Where on the drawing the highest value is; above it is room for what flags say."""

    def x(self, value: float) -> float:
        """Return the drawing's x of a value."""
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the drawing's y of a value, which grows downwards."""
        return HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - self.top - _BOTTOM)


def ticks(low: float, high: float, most: int, least: float = 0.0) -> list[float]:
    """Choose round numbers from `low` to `high`, at most `most`, in steps of 1, 2 or 5 times a power of ten.

    Args:
        least: the smallest step; 1 for what is counted.
    """
    if not high > low:
        return [low]
    rough = max((high - low) / most, 0.99 * least)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 5.0, 10.0, 20.0):
        step = factor * power
        if step < least:
            continue
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [number * step for number in range(first, last + 1)]
    raise AssertionError(f"no step for {low} to {high}")


def tick_text(value: float, step: float) -> str:
    """Spell a tick with as many decimals as its neighbours need to differ."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return minus(f"{value + 0.0:,.{decimals}f}")


def minus(text: str) -> str:
    """Spell a number's sign as long as its plus would be."""
    return text.replace("-", "−")


def smoothed(points: Sequence[Point], width: int) -> list[Point]:
    """Return at each point the mean over it and those before it, `width` in all."""
    means = []
    for place, (x, _) in enumerate(points):
        last = [y for _, y in points[max(0, place + 1 - width) : place + 1]]
        means.append((x, sum(last) / len(last)))
    return means


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return the points, or where they are many the lowest and highest of each stretch: a peak is never lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    return kept


def path_of(points: Sequence[Point], frame: Frame) -> str:
    """Spell a line as the path of an SVG."""
    return " ".join(f"{'L' if place else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}" for place, (x, y) in enumerate(points))


def chart(name: str, lines: Sequence[Line], x_name: str = "step", flags: Sequence[Flag] = ()) -> Markup:
    """Draw lines over a common x of whole numbers, with ticks, whiskers and flags; nothing where no line has a point.

    Args:
        name: what a reader who cannot see the chart hears first.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    frame = _frame(lines)
    inside = [flag for flag in flags if frame.x_low <= flag.x <= frame.x_high]
    frame = replace(frame, top=_TOP + _FLAG_LINE * len(inside))
    parts = [
        *_axes(frame, x_name),
        *(part for place, flag in enumerate(inside) for part in _flag(flag, place, frame)),
        *(part for line in sorted(lines, key=lambda one: not one.faint) for part in _line(line, frame, lines)),
    ]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{name}. {_in_words(lines)}", Markup().join(parts)
    )


def legend_mark(look: int, faint: bool = False) -> Markup:
    """Draw the piece of a line that stands beside its name in a legend."""
    if faint:
        raw = Markup('<path class="raw c{}" d="M1 6 L9 2 L17 9 L25 3 L33 7"/>').format(look % LOOKS)
        return Markup('<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">{}</svg>').format(raw)
    return Markup('<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">{}{}</svg>').format(
        _path("M1 6 L33 6", look % LOOKS), _mark(17, 6, look % LOOKS, "")
    )


def _frame(lines: Sequence[Line]) -> Frame:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ys += [end for line in lines for interval in line.intervals for end in interval]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    room = 0.06 * (y_high - y_low) or 0.1 * abs(y_high) or 1.0
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    return Frame(x_low, x_high, y_low - room, y_high + room)


def _axes(frame: Frame, x_name: str) -> Iterator[Markup]:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    y_ticks = ticks(frame.y_low, frame.y_high, _MOST_Y_TICKS)
    for value in y_ticks:
        y = f"{frame.y(value):.1f}"
        yield Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, y, y)
        yield Markup('<text class="tick" x="{}" y="{}" dy=".32em" text-anchor="end">{}</text>').format(
            _LEFT - 7, y, tick_text(value, _step(y_ticks))
        )
    x_ticks = ticks(frame.x_low, frame.x_high, _MOST_X_TICKS, least=1.0)
    for value in x_ticks:
        yield Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            frame.x(value), bottom + 16, tick_text(value, _step(x_ticks))
        )
    yield Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(_LEFT, right, bottom, bottom)
    yield Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(right, bottom + 31, x_name)


def _step(values: Sequence[float]) -> float:
    return values[1] - values[0] if len(values) > 1 else abs(values[0])


def _flag(flag: Flag, place: int, frame: Frame) -> Iterator[Markup]:
    """An upright line, its text a line below that of the flag before it."""
    x = frame.x(flag.x)
    is_right = x > WIDTH * 0.6
    yield Markup('<line class="flag" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
        x, _TOP - 8 + _FLAG_LINE * place, HEIGHT - _BOTTOM
    )
    yield Markup('<text class="flag-text" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
        x + (-5 if is_right else 5), _TOP + 2 + _FLAG_LINE * place, "end" if is_right else "start", flag.text
    )


def _line(line: Line, frame: Frame, lines: Sequence[Line]) -> Iterator[Markup]:
    look = line.look % LOOKS
    if line.faint:
        yield Markup('<path class="raw c{}" d="{}"/>').format(look, path_of(thinned(line.points), frame))
        return
    # Whiskers at one x would cover each other.
    whiskered = [one for one in lines if one.intervals]
    shift = 5.0 * (whiskered.index(line) - (len(whiskered) - 1) / 2) if line in whiskered else 0.0
    for (x, _), (low, high) in zip(line.points, line.intervals, strict=False):
        place, top, bottom = frame.x(x) + shift, frame.y(high), frame.y(low)
        yield Markup('<path class="whisker c{}" d="{}"/>').format(
            look,
            f"M{place:.1f} {bottom:.1f} L{place:.1f} {top:.1f} "
            f"M{place - 3:.1f} {bottom:.1f} h6 M{place - 3:.1f} {top:.1f} h6",
        )
    yield Markup('<g transform="translate({:.1f} 0)">').format(shift) if shift else Markup("<g>")
    yield _path(path_of(thinned(line.points), frame), look)
    for place, (x, y) in enumerate(line.points):
        if len(line.points) <= _MOST_MARKED:
            about = f"{line.name}: {y:.3g}" + _interval_text(line.intervals, place) + f" at {x:,.6g}"
            yield _mark(frame.x(x), frame.y(y), look, about)
    yield Markup("</g>")


def _path(path: str, look: int) -> Markup:
    dashes = Markup(' stroke-dasharray="{}"').format(_DASHES[look]) if _DASHES[look] else Markup()
    return Markup('<path class="line c{}" d="{}"{}/>').format(look, path, dashes)


def _mark(x: float, y: float, look: int, about: str) -> Markup:
    """One of a disc, a square, two triangles, a diamond and a cross."""
    r = _MARK
    shapes = (
        f"M{x - r:.1f} {y:.1f} a{r} {r} 0 1 0 {2 * r} 0 a{r} {r} 0 1 0 {-2 * r} 0",
        f"M{x - r:.1f} {y - r:.1f} h{2 * r} v{2 * r} h{-2 * r} z",
        f"M{x:.1f} {y - r - 1:.1f} l{r + 1} {2 * r} h{-2 * r - 2} z",
        f"M{x:.1f} {y - r - 1:.1f} l{r + 1} {r + 1} l{-r - 1} {r + 1} l{-r - 1} {-r - 1} z",
        f"M{x:.1f} {y + r + 1:.1f} l{r + 1} {-2 * r} h{-2 * r - 2} z",
        f"M{x - r:.1f} {y - 1.5:.1f} h{r - 1.5} v{1.5 - r} h3 v{r - 1.5} h{r - 1.5} v3 h{1.5 - r} v{r - 1.5} h-3 "
        f"v{1.5 - r} h{1.5 - r} z",
    )
    title = Markup("<title>{}</title>").format(about) if about else Markup()
    return Markup('<path class="mark c{}" d="{}">{}</path>').format(look, shapes[look], title)


def _interval_text(intervals: Sequence[tuple[float, float]], place: int) -> str:
    return " ({:.3g} to {:.3g})".format(*intervals[place]) if intervals else ""


def _in_words(lines: Sequence[Line]) -> str:
    """Say where each line begins and ends."""
    said = []
    for line in lines:
        if not line.faint:
            (first_x, first), (last_x, last) = line.points[0], line.points[-1]
            said.append(f"{line.name}: {first:.3g} at {first_x:,.6g}, {last:.3g} at {last_x:,.6g}")
    return "; ".join(said)
