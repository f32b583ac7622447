"""Geometry of small charts: numbers in, positions on a 400 x 240 canvas out; the template draws them as inline SVG.

Drawn by hand and not by matplotlib so that a chart takes the colours of the page's theme, stays sharp and costs a
few kilobytes. The canvas is as wide as a phone, so that its text need not shrink there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 18.0, 14.0, 40.0
MAX_POINTS = 240
NUM_TICKS = 5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """A line: its SVG path, its name in the legend, and which of the page's line styles it has."""

    path: str
    label: str
    style: str


@dataclass(frozen=True)
class Bar:
    """A bar of a chart with names below."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Guide:
    """A dashed line across the plot at ``at``, and its label; ``below``: there is no room above it."""

    at: float
    label: str
    below: bool = False


@dataclass(frozen=True)
class Chart:
    """What the template needs to draw a chart. ``summary`` says in words what it shows."""

    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    across: list[Guide] = field(default_factory=list)
    upright: list[Guide] = field(default_factory=list)

    left = LEFT
    right = WIDTH - RIGHT
    top = TOP
    bottom = HEIGHT - BOTTOM

    @property
    def legend(self) -> list[Curve]:
        """Curves to be named: of one alone the title says what it is."""
        named = [curve for curve in self.curves if curve.label]
        return named if len(named) > 1 else []


class Scale:
    """Maps values to positions along one axis.

    Args:
        low, high: ends of the axis, in values.
        start, stop: where the ends lie on the canvas.
        log: logarithmic; both ends must be above 0.
    """

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool = False) -> None:
        self.low, self.high, self.log = low, high, log
        self._start, self._stop = start, stop
        self._map = math.log if log else float

    def __call__(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        share = (self._map(value) - low) / (high - low) if high > low else 0.5
        return round(self._start + (self._stop - self._start) * share, 1)

    def ticks(self) -> list[Tick]:
        """Round values within the axis."""
        values = _log_values(self.low, self.high) if self.log else round_values(self.low, self.high)
        return [Tick(self(value), label_of(value)) for value in values]


def round_values(low: float, high: float, most: int = NUM_TICKS) -> list[float]:
    """At most ``most`` + 1 multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_values(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Of many decades, every second or third has its tick.
    for step, factors in ((1, (1, 2, 5)), (1, (1, 3)), *((step, (1,)) for step in range(1, len(decades) + 1))):
        values = [factor * 10.0**decade for decade in decades[::step] for factor in factors]
        values = [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(values) <= NUM_TICKS + 2:
            break
    return values


def label_of(value: float) -> str:
    """A tick's label: 20k for 20,000, 0.02, 2e-3."""
    if value and abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if value and abs(value) < 0.01:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{round(value, 10):g}"


def line_chart(
    title: str,
    summary: str,
    series: Sequence[tuple[str, str, Points]],
    *,
    x_label: str,
    y_label: str,
    references: Sequence[tuple[float, str]] = (),
    breaks: Sequence[tuple[float, str]] = (),
    from_zero: bool = True,
    log: bool = False,
) -> Chart:
    """Lines over a common x axis.

    Args:
        series: (label, style, points) of each; points ascend in x. Values that are not finite interrupt nothing: they
            are left out, and on a logarithmic axis those up to 0, too.
        references: (y, label) of dashed lines across.
        breaks: (x, label) of dashed upright lines.
        from_zero: the y axis begins at 0, unless it is logarithmic.
    """
    kept = [
        (label, style, [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)])
        for label, style, points in series
    ]
    xs = [x for _, _, points in kept for x, _ in points]
    ys = [y for _, _, points in kept for _, y in points] + [y for y, _ in references]
    x_axis = Scale(min(xs, default=0.0), max(xs, default=1.0), LEFT, WIDTH - RIGHT)
    low, high = min(ys, default=0.0), max(ys, default=1.0)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    bottom = low / 1.2 if log else (min(0.0, low) if from_zero else low - margin)
    y_axis = Scale(bottom, high * 1.2 if log else high + margin, HEIGHT - BOTTOM, TOP, log=log)
    return Chart(
        title=title,
        summary=summary,
        x_label=x_label,
        y_label=y_label,
        x_ticks=x_axis.ticks(),
        y_ticks=y_axis.ticks(),
        curves=[Curve(_path(thinned(points), x_axis, y_axis), label, style) for label, style, points in kept],
        across=[Guide(y_axis(value), label, below=y_axis(value) < TOP + 16) for value, label in references],
        upright=[Guide(x_axis(value), label) for value, label in breaks],
    )


def bar_chart(
    title: str,
    summary: str,
    bars: Sequence[tuple[str, float]],
    *,
    x_label: str,
    y_label: str,
    references: Sequence[tuple[float, str]] = (),
) -> Chart:
    """Upright bars with names below; of many, every n-th has its name."""
    ys = [value for _, value in bars] + [value for value, _ in references]
    y_axis = Scale(0.0, 1.12 * max(ys, default=1.0) or 1.0, HEIGHT - BOTTOM, TOP)
    room = (WIDTH - RIGHT - LEFT) / max(len(bars), 1)
    every = math.ceil(len(bars) / 16)
    return Chart(
        title=title,
        summary=summary,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[
            Tick(round(LEFT + room * (number + 0.5), 1), name)
            for number, (name, _) in enumerate(bars)
            if number % every == 0
        ],
        y_ticks=y_axis.ticks(),
        bars=[
            Bar(
                x=round(LEFT + room * (number + 0.12), 1),
                y=y_axis(value),
                width=round(0.76 * room, 1),
                height=round(HEIGHT - BOTTOM - y_axis(value), 1),
                label=f"{name}: {value:.4g}",
            )
            for number, (name, value) in enumerate(bars)
        ],
        across=[Guide(y_axis(value), label, below=y_axis(value) < TOP + 16) for value, label in references],
    )


def thinned(points: Points) -> Points:
    """At most about ``MAX_POINTS`` of the points; of every group the lowest and the highest stay, and both ends."""
    if len(points) <= MAX_POINTS:
        return points
    group = math.ceil(2 * len(points) / MAX_POINTS)
    kept = {0, len(points) - 1}
    for start in range(0, len(points), group):
        numbers = range(start, min(start + group, len(points)))
        kept |= {min(numbers, key=lambda n: points[n][1]), max(numbers, key=lambda n: points[n][1])}
    return [points[number] for number in sorted(kept)]


def _path(points: Points, x_axis: Scale, y_axis: Scale) -> str:
    return " ".join(f"{'L' if number else 'M'}{x_axis(x):g} {y_axis(y):g}" for number, (x, y) in enumerate(points))
