"""Geometry of charts: everything lies on the canvas, ticks are round, nothing that matters is thinned away."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Scale,
    bar_chart,
    label_of,
    line_chart,
    round_values,
    thinned,
)

_values = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


def positions(chart: Chart) -> list[tuple[float, float]]:
    found = []
    for curve in chart.curves:
        found += [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.e]+) ([-\d.e]+)", curve.path)]
    return found


@given(st.lists(st.tuples(st.integers(0, 10_000), _values), min_size=1, max_size=60), st.booleans(), st.booleans())
def test_lines_stay_on_the_canvas(points: list[tuple[int, float]], log: bool, from_zero: bool) -> None:
    points = sorted(points)
    chart = line_chart(
        "t", "s", [("", "one", points)], x_label="x", y_label="y", references=[(3.0, "r")], log=log, from_zero=from_zero
    )
    for x, y in positions(chart):
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    assert len(chart.y_ticks) <= 9
    assert all(TOP - 1 <= tick.at <= HEIGHT - BOTTOM + 1 for tick in chart.y_ticks)
    assert TOP <= chart.across[0].at <= HEIGHT - BOTTOM


def test_higher_values_are_drawn_higher() -> None:
    chart = line_chart("t", "s", [("", "one", [(0, 1.0), (1, 3.0), (2, 2.0)])], x_label="x", y_label="y")
    heights = [y for _, y in positions(chart)]
    assert heights[1] < heights[2] < heights[0]


@given(_values, _values)
def test_ticks_are_round_and_within(first: float, second: float) -> None:
    low, high = sorted((first, second))
    values = round_values(low, high)
    assert len(values) <= 7
    if high > low:
        step = 1e-9 * (high - low)
        assert all(low - step <= value <= high + step for value in values)


def test_round_values() -> None:
    assert round_values(0, 5.72) == [0, 2, 4]
    assert round_values(0, 0.002) == pytest.approx([0, 0.0005, 0.001, 0.0015, 0.002])
    assert round_values(7, 7) == [7]
    assert [label_of(value) for value in (20_000, 2500, 0.5, 0.0015, 0, 0.1 + 0.2)] == [
        *("20k", "2500", "0.5", "1.5e-3", "0", "0.3"),
    ]


def test_a_logarithmic_axis_has_few_ticks_over_any_range() -> None:
    for high in (2, 9, 30, 1e3, 1e9, 1e40):
        ticks = Scale(0.9, high, 0, 100, log=True).ticks()
        assert 1 <= len(ticks) <= 7, (high, ticks)
    chart = line_chart("t", "s", [("", "one", [(1, 10.0), (2, 0.0), (3, 1.0)])], x_label="x", y_label="y", log=True)
    assert len(positions(chart)) == 2


def test_peaks_and_ends_survive_thinning() -> None:
    points = [(float(n), math.sin(n / 40)) for n in range(10_000)]
    points[5003] = (5003.0, 17.0)
    points[7001] = (7001.0, -17.0)
    kept = thinned(points)
    assert len(kept) <= MAX_POINTS + 2
    assert {points[0], points[5003], points[7001], points[-1]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_what_is_not_finite_is_left_out() -> None:
    chart = line_chart(
        "t", "s", [("", "one", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])], x_label="", y_label=""
    )
    assert len(positions(chart)) == 2
    assert line_chart("t", "s", [("", "one", [])], x_label="", y_label="").curves[0].path == ""


def test_bars() -> None:
    chart = bar_chart("t", "s", [("a", 1.0), ("b", 2.0)], x_label="", y_label="", references=[(4.0, "r")])
    first, second = chart.bars
    assert second.height == pytest.approx(2 * first.height, abs=0.2)
    assert first.y + first.height == pytest.approx(HEIGHT - BOTTOM)
    assert first.x + first.width < second.x
    assert len(bar_chart("t", "s", [(str(n), 1.0) for n in range(64)], x_label="", y_label="").x_ticks) == 16


def test_a_legend_names_several_curves_and_not_one() -> None:
    series = [("a", "one", [(0.0, 1.0)]), ("", "one", [(0.0, 2.0)]), ("b", "two", [(0.0, 3.0)])]
    chart = line_chart("t", "s", series, x_label="", y_label="")
    assert [curve.label for curve in chart.legend] == ["a", "b"]
    assert line_chart("t", "s", series[:2], x_label="", y_label="").legend == []
