"""A quantizer's report as one picture.

matplotlib is loaded when a picture is drawn, and its pyplot never: no window, no global figures.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvqkd.artifacts import atomic_open
from mvqkd.quantizer.report import QuantizerReport
from mvqkd.quantizer.report_errors import OTHER_DOMAINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From the palette of Okabe and Ito, which colour-blind readers tell apart; grey is for what only guides the eye.
BLUE, ORANGE = "#0072B2", "#D55E00"
GREY, LIGHT_GREY, INK = "#8C8C8C", "#E6E6E6", "#262626"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    # Names of domains are shown as they are: a dollar sign begins no formula.
    "text.parse_math": False,
    "svg.hashsalt": "mvqkd",
}
DPI = 110
COLUMNS = 4
PANEL_INCHES = (4.6, 3.6)
HEADER_INCHES = 1.0
SCALE_NOTE = "relative error: squared error / variance; 0 is perfect, 1 no better than the mean"
MAX_DOMAINS = 20
NAME_LENGTH = 18
# Of no more codebooks than this, every one has its tick and every value is written into its cell.
MAX_CODEBOOK_TICKS = 8

Panel = Callable[["Axes", QuantizerReport], None]


def write_plots(report: QuantizerReport, path: Path, title: str) -> None:
    """Draw a report; equal reports give equal bytes of .png (with one version of matplotlib).

    Args:
        path: ends in .png or .svg. An .svg names its parts after positions to the last bit, in which layouts differ.
        title: what the picture is of.
    Raises:
        ValueError: another suffix.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise ValueError(f"a picture ends in .png or .svg, got {path.name}")
    # No date and no version in the file.
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[form]
    buffer = io.BytesIO()
    with _style():
        draw(report, title).savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    with atomic_open(path, "wb") as stream:
        stream.write(buffer.getvalue())


def panels_of(report: QuantizerReport) -> list[Panel]:
    """The panels that the report has something to show in."""
    panels: list[tuple[Panel, bool]] = [
        (_error_curve, len(report.error_curve) > 0),
        (_refine_passes, True),
        (_domains, len(report.domains) > 1),
        (_channels, bool(report.channels.quantiles)),
        (_entropy, True),
        (_usage, True),
        (_redundancy, report.redundancy is not None),
    ]
    return [panel for panel, shown in panels if shown] + [_findings]


def draw(report: QuantizerReport, title: str) -> Figure:
    """A figure of all panels, title and headline on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = panels_of(report)
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1] + HEADER_INCHES
    below_header = (0.005, 0.01, 0.99, 1 - HEADER_INCHES / height)
    layout = ConstrainedLayoutEngine(rect=below_header, w_pad=0.12, h_pad=0.12)
    with _style():
        figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.012, 1 - 0.35 / height, title, fontsize=16, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.72 / height, headline(report), fontsize=11.5, va="center")
        figure.text(0.988, 1 - 0.35 / height, SCALE_NOTE, fontsize=9.5, va="center", ha="right")
        for number, panel in enumerate(panels, start=1):
            panel(figure.add_subplot(rows, COLUMNS, number), report)
    return figure


def headline(report: QuantizerReport) -> str:
    """The report in a line."""
    parts = [f"relative error {report.relative_error:.3f} on {_count(report.held_out_frames, 'held-out frame')}"]
    if report.relative_error_fitted is not None:
        parts.append(f"{report.relative_error_fitted:.3f} on fitted ones")
    parts.append(
        f"{_count(report.bytes_per_frame, 'byte')} a frame, 1/{report.compression_ratio:.0f} of "
        f"float32 × {_count(report.dim, 'channel')}"
    )
    parts.append(f"{report.bits_per_frame:.1f} of {report.bits_per_frame_nominal} bits used")
    by_chance = f" ({report.dead_entries_by_chance:.0f} by chance)" if report.dead_entries_by_chance >= 1 else ""
    parts.append(f"{report.dead_entries} of {report.num_codebooks * report.codebook_size} entries dead{by_chance}")
    return "   ·   ".join(parts)


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's own defaults with ``STYLE``, and the user's settings back afterwards: they must not show."""
    import matplotlib.style

    with matplotlib.style.context("default", after_reset=True), matplotlib.rc_context(STYLE):
        yield


def _error_curve(axes: Axes, report: QuantizerReport) -> None:
    axes.set_title("Held-out error while fitting")
    start, phase = 0, report.error_curve[0].phase
    steps: list[int] = []
    boundaries: list[tuple[int, int]] = []
    for point in report.error_curve:
        if point.phase != phase:  # steps are counted anew in each phase
            start, phase = steps[-1], point.phase
            boundaries.append((start, phase))
        steps.append(start + point.step)
    errors = [point.relative_error for point in report.error_curve]
    axes.plot(steps, errors, color=BLUE, marker="o", markersize=3)
    for step, number in boundaries:
        axes.axvline(step, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            f"phase {number}", (step, 0.96), (5, 0), xycoords=("data", "axes fraction"), textcoords="offset points"
        )
    best = min(errors)
    axes.set_ylim(0, _visible_top(errors))
    axes.annotate(f"{best:.3f}", (steps[errors.index(best)], best), (0, -14), textcoords="offset points", ha="right")
    axes.set_xlabel("step")
    axes.set_ylabel("relative error")


def _refine_passes(axes: Axes, report: QuantizerReport) -> None:
    axes.set_title(f"Error after each refine pass (mode {report.search_mode})")
    errors = report.relative_error_by_iteration
    axes.plot(range(len(errors)), errors, color=BLUE, marker="o", markersize=5)
    for number, error in enumerate(errors):
        axes.annotate(f"{error:.3f}", (number, error), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    axes.set_ylim(0, max(errors) * 1.2 or 1)
    axes.set_xlim(-0.4, len(errors) - 0.6)
    axes.set_xticks(range(len(errors)))
    axes.set_xlabel("refine passes")
    axes.set_ylabel("relative error")


def _domains(axes: Axes, report: QuantizerReport) -> None:
    named = [row for row in report.domains if row.domain != OTHER_DOMAINS]
    pooled = [row for row in report.domains if row.domain == OTHER_DOMAINS]
    shown = named[: MAX_DOMAINS - len(pooled)]
    part = f": worst {len(shown)} of {len(named)}" if len(shown) < len(named) else ""
    axes.set_title(f"Error by domain{part}")
    labels = [f"{_short(row.domain)} ({row.frames:,})" for row in shown]
    labels += [f"{row.pooled} small ones ({row.frames:,})" for row in pooled]
    colors = [BLUE] * len(shown) + [GREY] * len(pooled)
    places = range(len(labels))
    axes.barh(places, [row.relative_error for row in shown + pooled], color=colors, height=0.7)
    axes.set_yticks(places, labels, fontsize=10 if len(labels) <= 10 else 8)
    axes.set_ylim(max(len(labels), 4) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    spread = ""
    if report.domain_error_median is not None and report.domain_error_spread is not None:
        axes.axvline(report.domain_error_median, color=ORANGE, linewidth=1.4)
        spread = f"; median {report.domain_error_median:.3f}, worst {report.domain_error_spread:.2f} × that"
    axes.set_xlabel(f"relative error{spread}")
    axes.set_ylabel("domain (frames)")


def _channels(axes: Axes, report: QuantizerReport) -> None:
    axes.set_title("Error by channel")
    quantiles, worst = report.channels.quantiles, report.channels.worst
    axes.axhspan(quantiles["p05"], quantiles["p95"], color=LIGHT_GREY, linewidth=0, zorder=0, label="5 to 95 % of all")
    axes.axhline(quantiles["median"], color=ORANGE, linewidth=1.4, zorder=1, label="median of all")
    errors = [row.relative_error for row in worst]
    axes.vlines(range(len(worst)), 0, errors, color=BLUE, linewidth=1, zorder=2)
    axes.plot(range(len(worst)), errors, color=BLUE, marker="o", linestyle="none", zorder=3)
    axes.set_xticks(range(len(worst)), [str(row.channel_index) for row in worst])
    axes.set_ylim(0, quantiles["max"] * 1.35 or 1)
    constant = f" ({report.channels.constant} constant ones left out)" if report.channels.constant else ""
    axes.set_xlabel(f"index of the worst channels{constant}")
    axes.set_ylabel("relative error")
    axes.legend(loc="upper right", ncols=2, fontsize=9)


def _entropy(axes: Axes, report: QuantizerReport) -> None:
    axes.set_title("Entropy of each codebook")
    places = range(report.num_codebooks)
    axes.bar(places, report.entropy, color=BLUE, width=0.7)
    nominal = math.log2(report.codebook_size)
    axes.axhline(nominal, color=ORANGE, linewidth=1.4)
    axes.annotate(
        f"log2 {report.codebook_size} = {nominal:.0f} bits", (1, nominal), (0, 4), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right",
    )  # fmt: skip
    axes.set_xlim(-0.6, max(report.num_codebooks, 6) - 0.4)
    axes.set_ylim(0, nominal * 1.15)
    _codebook_ticks(axes, report)
    axes.set_ylabel("bits a frame")


def _usage(axes: Axes, report: QuantizerReport) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_title("Use of entries, most used first")
    fair = report.usage_frames / report.codebook_size
    ranks = range(1, report.codebook_size + 1)
    # One codebook stands out: that of most dead entries, or else of the least entropy.
    worst = max(range(report.num_codebooks), key=lambda n: (report.dead_entries_by_codebook[n], -report.entropy[n]))
    rest = report.dead_entries - report.dead_entries_by_codebook[worst]
    labels = {worst: f"codebook {worst}: {report.dead_entries_by_codebook[worst]} dead"}
    if report.num_codebooks > 1:
        labels[1 if worst == 0 else 0] = f"the others: {rest} dead"
    for number, counts in enumerate(report.entry_counts):
        # Entries that nothing chose have no place on a logarithmic axis: a curve ends where they begin.
        curve = [count / fair or math.nan for count in sorted(counts, reverse=True)]
        color, width, layer = (ORANGE, 1.6, 3) if number == worst else (BLUE, 1.0, 2)
        axes.plot(ranks, curve, color=color, linewidth=width, zorder=layer, label=labels.get(number))
    axes.axhline(1, color=GREY, linewidth=1, linestyle="--", zorder=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(0, report.codebook_size * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank of the entry in its codebook")
    axes.set_ylabel("frames, relative to equal use")
    axes.legend(loc="upper right")


def _redundancy(axes: Axes, report: QuantizerReport) -> None:
    assert report.redundancy is not None
    matrix = report.redundancy.matrix
    axes.set_title("Information that codebooks share")
    off_diagonal = [
        [math.nan if first == second else value for second, value in enumerate(row)] for first, row in enumerate(matrix)
    ]
    image = axes.imshow(off_diagonal, cmap="Blues", vmin=0, vmax=max(0.5, report.redundancy.largest))
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.85)
    bar.set_label("share of the smaller entropy")
    bar.outline.set_visible(False)
    if len(matrix) <= MAX_CODEBOOK_TICKS:
        for first, row in enumerate(off_diagonal):
            for second, value in enumerate(row):
                if first != second:
                    color = "white" if value > 0.3 else INK
                    axes.text(second, first, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _codebook_ticks(axes, report)
    axes.set_yticks(axes.get_xticks())
    axes.set_ylabel("codebook")
    axes.set_xlabel(f"codebook ({report.redundancy.frames:,} frames, chance taken off)")


def _findings(axes: Axes, report: QuantizerReport) -> None:
    axes.set_title("Findings")
    axes.set_axis_off()
    lines = [textwrap.fill(finding, 50, subsequent_indent="  ", initial_indent="• ") for finding in report.findings]
    between, size = ("\n\n", 10) if len(lines) <= 5 else ("\n", 9)
    text = between.join(lines) or "Nothing calls for attention."
    axes.text(0, 0.97, text, va="top", fontsize=size, transform=axes.transAxes)


def _codebook_ticks(axes: Axes, report: QuantizerReport) -> None:
    step = math.ceil(report.num_codebooks / MAX_CODEBOOK_TICKS)
    axes.set_xticks(range(0, report.num_codebooks, step))
    axes.set_xlabel("codebook")


def _visible_top(errors: list[float]) -> float:
    """Upper end of an axis for errors: all of them, but no more than 1.1 (the mean alone) unless all lie above."""
    top = max(errors) * 1.1
    return min(top, 1.1) if min(errors) < 1 else top


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _short(name: str) -> str:
    """A name that fits beside a bar: what is too long loses its middle."""
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[:half]}…{name[1 - half :]}"
