"""The charts' arithmetic: round ticks, lines where their numbers say, and everything told without colour, too."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fluxbooth.reporting.charts import Flag, Frame, Line, chart, path_of, smoothed, thinned, tick_text, ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1, 6, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 500, 6, [0, 100, 200, 300, 400, 500]),
        (0.21, 0.93, 5, [0.4, 0.6, 0.8]),
        (-0.04, 0.11, 5, [0, 0.05, 0.1]),
        (3, 3, 5, [3]),
        (1, 2000, 6, [500, 1000, 1500, 2000]),
    ],
)
def test_ticks_are_round_numbers_inside(low: float, high: float, most: int, expected: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(expected)


@given(some.floats(-1e4, 1e4), some.floats(1e-3, 1e6), some.integers(2, 8))
def test_ticks_are_few_inside_and_evenly_spaced(low: float, extent: float, most: int) -> None:
    high = low + extent
    chosen = ticks(low, high, most)
    assert len(chosen) <= most
    assert all(low - 1e-6 * extent <= value <= high + 1e-6 * extent for value in chosen)
    gaps = [after - before for before, after in itertools.pairwise(chosen)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps) if gaps else [], rel=1e-6)


def test_ticks_of_what_is_counted_are_whole() -> None:
    assert ticks(1, 3, 6, least=1) == [1, 2, 3]
    assert ticks(0, 500, 6, least=1) == ticks(0, 500, 6)


def test_ticks_have_the_decimals_that_tell_them_apart() -> None:
    assert [tick_text(value, 0.05) for value in (0, 0.05, -0.1)] == ["0.00", "0.05", "−0.10"]
    assert [tick_text(value, 500) for value in (0, 1500)] == ["0", "1,500"]


def test_a_line_goes_through_its_numbers() -> None:
    frame = Frame(0, 100, 0, 1)
    left, right, bottom, top = frame.x(0), frame.x(100), frame.y(0), frame.y(1)
    assert top < bottom, "a larger value is higher"
    assert path_of([(0, 0), (50, 1), (100, 0.5)], frame) == (
        f"M{left:.1f} {bottom:.1f} L{(left + right) / 2:.1f} {top:.1f} L{right:.1f} {(top + bottom) / 2:.1f}"
    )


def test_smoothing_is_the_mean_of_the_last() -> None:
    points = [(1.0, 4.0), (2.0, 2.0), (3.0, 0.0), (4.0, 4.0)]
    assert smoothed(points, 2) == [(1.0, 4.0), (2.0, 3.0), (3.0, 1.0), (4.0, 2.0)]


def test_thinning_keeps_every_peak_and_the_order() -> None:
    points = [(float(x), 9.0 if x == 777 else float(x % 2)) for x in range(5000)]
    kept = thinned(points, 100)
    assert len(kept) <= 100
    assert (777.0, 9.0) in kept
    assert kept == sorted(kept)
    assert thinned(points[:50], 100) == points[:50]


def test_a_chart_says_its_ends_to_who_cannot_see_it() -> None:
    lines = [Line("tjtoy toy", [(0, 0.2), (100, 0.6)], [(0.1, 0.3), (0.5, 0.7)]), Line("raw", [(0, 1)], faint=True)]
    drawn = ElementTree.fromstring(chart("Likeness", lines))
    assert drawn.get("role") == "img"
    assert drawn.get("aria-label") == "Likeness. tjtoy toy: 0.2 at 0, 0.6 at 100"
    assert [title.text for title in drawn.iter("title")] == [
        "tjtoy toy: 0.2 (0.1 to 0.3) at 0",
        "tjtoy toy: 0.6 (0.5 to 0.7) at 100",
    ]


def test_lines_differ_in_more_than_colour() -> None:
    drawn = chart("x", [Line(f"line {look}", [(0, look), (1, look)], look=look) for look in range(6)])
    dashes = re.findall(r'class="line c\d" d="[^"]*"(?: stroke-dasharray="([^"]*)")?', drawn)
    marks = re.findall(r'class="mark c\d" d="M[-\d. ]+([^"]*)"', drawn)
    assert len(set(dashes)) == 6
    assert len(set(marks)) == 6


def test_names_are_text_and_never_markup() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = chart(evil, [Line(evil, [(0, 1), (1, 2)])], flags=[Flag(1, evil)])
    assert "<script" not in drawn
    assert ElementTree.fromstring(drawn).get("aria-label", "").startswith(evil)


def test_nothing_to_draw_is_no_chart() -> None:
    assert chart("empty", [Line("none", [])]) == ""


@pytest.mark.parametrize("points", [[(5, 0.0)], [(5, 1.0), (5, 1.0)], [(0, 2.0), (10, 2.0)]])
def test_a_single_point_and_a_level_line_have_a_place(points: list[tuple[float, float]]) -> None:
    ElementTree.fromstring(chart("x", [Line("level", points)]))
    assert "nan" not in chart("x", [Line("level", points)])
