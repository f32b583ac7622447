"""The table of word error rates: every decoder, runtime, chunk size and precision, beside the champion's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvqkd.artifacts import Artifact
from mvqkd.decode.report import CTC_GREEDY, TEACHER, Row, WerReport, chunk_ms
from mvqkd.report.comparison import Difference, Rival, difference, rival_of
from mvqkd.report.run import BUNDLE, WER, Missing, Run, Scored

# The picture of a row: a line from one end of the interval to the other, and a mark at the WER.
PLOT_WIDTH, PLOT_HEIGHT = 200, 16
_MARGIN = 5


@dataclass(frozen=True)
class Plot:
    """Positions on a canvas of 200 x 16: interval, WER, the champion's WER (None: not there), steps of the scale."""

    low: float
    high: float
    wer: float
    champion: float | None
    grid: Sequence[float]


@dataclass(frozen=True)
class WerRow:
    """A row as it is shown."""

    label: str
    key: str
    of_record: bool
    row: Row
    plot: Plot
    against: Difference | None
    rtf: float | None


@dataclass(frozen=True)
class WerTable:
    """Rows of one test set. ``scale`` says what the pictures of the rows span; ``note`` why nothing is compared."""

    caption: str
    groups: list[tuple[str, list[WerRow]]]
    scale: str
    compared: bool
    note: str | None


def wer_tables(run: Run) -> list[WerTable] | Missing:
    """A table for the test set of record, and one for every further one."""
    of_bundle, of_student = run.scored(BUNDLE), run.scored(WER)
    present = [item for item in (of_bundle, of_student) if isinstance(item, Scored)]
    if not present:
        assert isinstance(of_bundle, Missing)
        return of_bundle
    rival = rival_of(run)
    same = {(item.report.test_set_sha256, item.report.text_normalizer) for item in present}
    sets = [present] if len(same) == 1 else [[item] for item in present]
    others = [item for artifact in run.other_reports if isinstance(item := run.scores_of(artifact), Scored)]
    return [_table(items, rival) for items in [*sets, *([item] for item in others)]]


def _table(items: Sequence[Scored], rival: Rival | Missing) -> WerTable:
    report = items[0].report
    own_rival = rival if isinstance(rival, Rival) and items[0].artifact.kind == BUNDLE else None
    pairs = [(item, row) for item in items for row in item.report.rows]
    champions = {
        row.name: found
        for item, row in pairs
        if own_rival is not None and item.artifact.kind == BUNDLE
        if (found := difference(item.report, row, own_rival)) is not None
    }
    theirs = [found.compared.champion_wer for found in champions.values()]
    highest = max([*theirs, *(row.interval_95[1] for _, row in pairs)])
    top = max(highest * 1.02, 0.01)
    record = items[0].row_of_record().name
    groups: dict[str, list[WerRow]] = {}
    for item, row in pairs:
        against = champions.get(row.name) if item.artifact.kind == BUNDLE else None
        shown = WerRow(
            label=row_label(row, item.artifact),
            key=row.name,
            of_record=item is items[0] and row.name == record,
            row=row,
            plot=_plot(row, against, top),
            against=against,
            rtf=_rtf(item.artifact.figures, row),
        )
        groups.setdefault(_group(row), []).append(shown)
    compares = items[0].artifact.kind == BUNDLE
    return WerTable(
        caption=_caption(report),
        groups=list(groups.items()),
        scale=f"0 to {100 * top:.0f} %",
        compared=bool(champions),
        note=rival.reason if isinstance(rival, Missing) and compares else None,
    )


def _caption(report: WerReport) -> str:
    return (
        f"Test set {report.split}: {report.num_utterances:,} utterances, {report.num_words:,} words, "
        f"normaliser {report.text_normalizer}"
    )


def _group(row: Row) -> str:
    if row.runtime == TEACHER:
        return "Teacher, for comparison"
    return "Student in PyTorch" if row.runtime == "torch" else "What ships: the ONNX bundle"


def row_label(row: Row, artifact: Artifact) -> str:
    """A row's name for people: ``greedy, streaming in 320 ms chunks, int8``."""
    if row.runtime == TEACHER:
        return f"teacher {artifact.facts.get('teacher_id') or ''}".strip()
    decoder = row.decoder.replace(CTC_GREEDY, "CTC greedy").replace("_", " ")
    parts = [decoder]
    if "streaming" in row.runtime:
        size_ms = chunk_ms(int(artifact.facts.get("chunk_frames") or 0))
        parts.append("streaming" if size_ms is None else f"streaming in {size_ms} ms chunks")
    elif "chunks" not in decoder and "whole" not in decoder:
        size_ms = _figures(artifact.figures, row).get("chunk_ms")
        parts.append("whole utterances" if size_ms is None else f"in {size_ms} ms chunks")
    if row.runtime != "torch":
        parts.append("int8" if row.runtime.endswith("int8") else "float32")
    return ", ".join(parts)


def _rtf(figures: Mapping[str, Any], row: Row) -> float | None:
    """Seconds of computing a second of audio: a figure of the artifact, as the report itself holds none."""
    value = _figures(figures, row).get("rtf")
    return float(value) if isinstance(value, int | float) else None


def _figures(figures: Mapping[str, Any], row: Row) -> Mapping[str, Any]:
    """What the artifact says of a row beside its report; wer-reports call a row by its decoder alone."""
    rows = figures.get("rows") or {}
    return rows.get(row.name) or rows.get(row.decoder) or {}


def _plot(row: Row, against: Difference | None, top: float) -> Plot:
    def place(share: float) -> float:
        return round(_MARGIN + (PLOT_WIDTH - 2 * _MARGIN) * share / top, 1)

    return Plot(
        low=place(row.interval_95[0]),
        high=place(row.interval_95[1]),
        wer=place(row.wer),
        champion=None if against is None else place(against.compared.champion_wer),
        grid=[place(top * quarter / 4) for quarter in range(5)],
    )
