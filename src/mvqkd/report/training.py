"""Curves of a training run: every loss, the distillation loss against chance, learning rate, gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mvqkd.artifacts import Artifact
from mvqkd.report.chart import Chart, line_chart
from mvqkd.report.run import STUDENT, Missing, Run, read_json_lines
from mvqkd.report.text import duration

HISTORY_FILE = "history.jsonl"
_STYLES = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Training:
    """Facts in (name, value) pairs, charts, and why there is no distillation loss where there is none."""

    facts: list[tuple[str, str]]
    charts: list[Chart]
    note: str | None


def training(run: Run) -> Training | Missing:
    """What the student's history shows."""
    student = run.need(STUDENT)
    if isinstance(student, Missing):
        return student
    rows = [row for row in read_json_lines(student, HISTORY_FILE) if "step" in row]
    charts = [
        chart
        for chart in (
            _distillation(student, rows),
            _chart("Speech recognition losses", rows, {"transducer_loss": "transducer", "ctc_loss": "CTC"}, "loss"),
            _chart("Sum of all losses, as weighted", rows, {"loss": "training", "dev_loss": "dev"}, "loss"),
            _chart("Learning rate", rows, {"learning_rate": ""}, ""),
            _chart("Norm of the gradient", rows, {"gradient_norm": ""}, ""),
        )
        if chart is not None
    ]
    if not charts:
        return Missing(f"student-checkpoint {student.short_id} holds no {HISTORY_FILE}.")
    note = None
    if run.objective == "none":
        note = "No distillation loss: the student learnt without a teacher (objective none)."
    return Training(_facts(student), charts, note)


def chance_label(student: Artifact) -> str:
    """What guessing costs, in words: ``chance, ln 256 = 5.545``."""
    chance = float(student.figures["distillation_chance_level"])
    if student.facts.get("objective") == "mvq":
        return f"chance, ln {round(math.exp(chance))} = {chance:.3f}"
    return f"always the mean, {chance:.3f}"


def _distillation(student: Artifact, rows: Sequence[dict[str, Any]]) -> Chart | None:
    if student.figures.get("distillation_chance_level") is None:
        return _chart("Distillation loss", rows, {"distillation_loss": ""}, "nats a codebook")
    reference = (float(student.figures["distillation_chance_level"]), chance_label(student))
    unit = "nats a codebook" if student.facts.get("objective") == "mvq" else "distance"
    return _chart("Distillation loss", rows, {"distillation_loss": ""}, unit, reference)


def _chart(
    title: str,
    rows: Sequence[dict[str, Any]],
    columns: dict[str, str],
    y_label: str,
    reference: tuple[float, str] | None = None,
) -> Chart | None:
    """Columns of the history over its steps; None where it has none of them."""
    series = []
    ends = []
    for (column, label), style in zip(columns.items(), _STYLES, strict=False):
        points = [(float(row["step"]), float(row[column])) for row in rows if _is_number(row.get(column))]
        if points:
            series.append((label, style, points))
            ends.append(f"{label} {points[0][1]:.3g} to {points[-1][1]:.3g}".strip())
    if not series:
        return None
    steps = max(points[-1][0] for _, _, points in series)
    summary = f"Over {steps:,.0f} steps: {'; '.join(ends)}."
    if reference is not None:
        summary += f" Reference: {reference[1]}."
    return line_chart(
        title,
        summary,
        series,
        x_label="step",
        y_label=y_label,
        references=[] if reference is None else [reference],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _facts(student: Artifact) -> list[tuple[str, str]]:
    figures, facts = student.figures, student.facts
    rate = figures.get("audio_s_per_s")
    shown = {
        "objective": str(facts.get("objective", "none")),
        "parameters": _number(figures.get("num_parameters")),
        "steps": _number(figures.get("num_steps")),
        "audio a epoch": None if figures.get("train_hours") is None else f"{figures['train_hours']:.2f} h",
        "speed": None if rate is None else f"{rate:.0f} s of audio a second",
        "time": duration(student.wall_s),
        "skipped batches": _number(figures.get("num_skipped_batches")),
        "final distillation loss": _final(student),
    }
    return [(name, value) for name, value in shown.items() if value is not None]


def _final(student: Artifact) -> str | None:
    final = student.figures.get("final_distillation_loss")
    if final is None or student.figures.get("distillation_chance_level") is None:
        return None
    return f"{final:.3f} ({chance_label(student)})"


def _number(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None
