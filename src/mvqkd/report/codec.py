"""The quantizer's own report as charts: error while fitting and by refine pass, entropy, use of entries, domains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvqkd.report.chart import Chart, bar_chart, line_chart
from mvqkd.report.run import QUANTIZER, Missing, Run, read_json, unreadable
from mvqkd.report.text import percent

REPORT_FILE = "report.json"
MAX_DOMAINS = 12
MAX_CURVES = 16


@dataclass(frozen=True)
class Codec:
    """Facts in (name, value) pairs, findings in sentences, charts, and the worst domains (name, frames, error)."""

    facts: list[tuple[str, str]]
    findings: list[str]
    charts: list[Chart]
    domains: list[tuple[str, int, float]]
    domains_left_out: int


def codec(run: Run) -> Codec | Missing:
    """What the report of the quantizer shows."""
    quantizer = run.need(QUANTIZER)
    if isinstance(quantizer, Missing):
        return quantizer
    report = read_json(quantizer, REPORT_FILE)
    if isinstance(report, Missing):
        return report
    try:
        domains = [(row["domain"], row["frames"], row["relative_error"]) for row in report["domains"]]
        charts = [_fitting(report), _passes(report), _entropy(report), _usage(report)]
        return Codec(
            facts=_facts(report),
            findings=list(report["findings"]),
            charts=[chart for chart in charts if chart is not None],
            domains=domains[:MAX_DOMAINS] if len(domains) > 1 else [],
            domains_left_out=max(0, len(domains) - MAX_DOMAINS),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unreadable(quantizer, REPORT_FILE, f"{type(error).__name__} {error}") from error


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("codec", f"{report['num_codebooks']} codebooks of {report['codebook_size']} entries"),
        ("bytes a frame", f"{report['bytes_per_frame']}, 1/{report['compression_ratio']:g} of float32"),
        ("held-out relative error", f"{report['relative_error']:.3f} on {report['held_out_frames']:,} frames"),
        ("bits used a frame", f"{report['bits_per_frame']:.1f} of {report['bits_per_frame_nominal']}"),
        ("dead entries", f"{report['dead_entries']:,}, {report['dead_entries_by_chance']:g} expected by chance"),
    ]
    if report["relative_error_fitted"] is not None:
        gap = "" if report["held_out_gap"] is None else f" (held-out {percent(report['held_out_gap'])} above)"
        facts.insert(3, ("error on fitted frames", f"{report['relative_error_fitted']:.3f}{gap}"))
    if report["redundancy"] is not None:
        shared = report["redundancy"]
        facts.append(
            ("shared by two codebooks", f"{shared['mean']:.2f} of their entropy, {shared['largest']:.2f} at most")
        )
    return facts


def _fitting(report: Mapping[str, Any]) -> Chart | None:
    curve = report["error_curve"]
    if not curve:
        return None
    start, phase, points, breaks = 0, curve[0]["phase"], list[tuple[float, float]](), list[tuple[float, str]]()
    for point in curve:
        if point["phase"] != phase:  # steps are counted anew in each phase
            start, phase = int(points[-1][0]), point["phase"]
            breaks.append((float(start), f"phase {phase}"))
        points.append((float(start + point["step"]), float(point["relative_error"])))
    return line_chart(
        "Held-out error while fitting",
        f"Relative error from {points[0][1]:.3f} to {points[-1][1]:.3f} over {points[-1][0]:,.0f} steps.",
        [("", "one", points)],
        x_label="step",
        y_label="relative error",
        breaks=breaks,
    )


def _passes(report: Mapping[str, Any]) -> Chart:
    errors = report["relative_error_by_iteration"]
    return bar_chart(
        "Error after each refine pass",
        f"Relative error {errors[0]:.3f} without refining, {errors[-1]:.3f} after {len(errors) - 1} passes.",
        [(str(number), error) for number, error in enumerate(errors)],
        x_label="refine passes",
        y_label="relative error",
    )


def _entropy(report: Mapping[str, Any]) -> Chart:
    nominal = math.log2(report["codebook_size"])
    entropy = report["entropy"]
    return bar_chart(
        "Entropy of each codebook",
        f"{min(entropy):.2f} to {max(entropy):.2f} bits of {nominal:g}.",
        [(str(number), bits) for number, bits in enumerate(entropy)],
        x_label="codebook",
        y_label="bits",
        references=[(nominal, f"all entries used equally, {nominal:g} bits")],
    )


def _usage(report: Mapping[str, Any]) -> Chart:
    """Codebooks are drawn alike but for the one whose entries are used least evenly."""
    fair = report["usage_frames"] / report["codebook_size"]
    entropy = report["entropy"]
    uneven = min(range(len(entropy)), key=lambda number: entropy[number])
    others = [number for number in range(len(entropy)) if number != uneven]
    # Of very many, a few show how they lie.
    order = [*others[:: math.ceil(len(others) / MAX_CURVES) or 1], uneven]
    series = []
    for number in order:
        counts = sorted(report["entry_counts"][number], reverse=True)
        points = [(float(rank), count / fair) for rank, count in enumerate(counts, start=1)]
        label = f"codebook {number}, least even" if number == uneven else ""
        if number == order[0] != uneven:
            label = "other codebooks"
        series.append((label, "two" if number == uneven else "one", points))
    largest = max(report["largest_share"])
    return line_chart(
        "Use of entries, most used first",
        f"The most used entry of a codebook has {percent(largest)} of the frames; {report['dead_entries']} are dead.",
        series,
        x_label="rank of the entry",
        y_label="frames, 1 = equal use",
        references=[(1.0, "equal use")],
        log=True,
    )
