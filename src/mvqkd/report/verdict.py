"""The top of the page: promoted or not, why, and the few figures that a reviewer asks for first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mvqkd.artifacts import Artifact
from mvqkd.decode.report import TEACHER
from mvqkd.promotion.files import DECISION_FILE
from mvqkd.report.comparison import difference, rival_of
from mvqkd.report.lineage import contradictions
from mvqkd.report.run import BUNDLE, DATA, DECISION, EMBEDDINGS, QUANTIZER, WER, Missing, Run, Scored, read_json
from mvqkd.report.speed import speed
from mvqkd.report.text import NO_BREAK, count, duration, figure, interval, percent, points, signed_interval, size

MAX_CHECKS = 200
MAX_SLICES = 40


@dataclass(frozen=True)
class Tile:
    """A figure that matters: its name, its value and what to know about it."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """``word`` is promote, reject or undecided; ``notes`` are what makes the page less than it seems."""

    word: Literal["promote", "reject", "undecided"]
    headline: str
    reason: str
    tiles: list[Tile]
    notes: list[str]


@dataclass(frozen=True)
class Gate:
    """decision.json and the artifact that it lies in; ``about_another``: id of the bundle, if not the one shown."""

    decision: Artifact
    record: Mapping[str, Any]
    about_another: str | None

    @property
    def checks(self) -> list[Mapping[str, Any]]:
        """Rows of the gate: all that failed, then the others in their order, as many as a page should have."""
        rows = sorted(self.record["checks"], key=lambda row: row["verdict"] != "fail")
        return rows[:MAX_CHECKS]

    @property
    def checks_left_out(self) -> int:
        return len(self.record["checks"]) - len(self.checks)

    @property
    def comparison(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Test set -> what was found on it, in (name, value) pairs; nothing in decisions of older versions."""
        return [(str(name), _compared(found)) for name, found in (self.record.get("comparison") or {}).items()]

    @property
    def slices(self) -> list[Mapping[str, Any]]:
        """Parts of the test set, those that got worse most first."""
        return sorted(self.record.get("slices") or [], key=lambda part: -part["difference"])[:MAX_SLICES]

    @property
    def slices_left_out(self) -> int:
        return len(self.record.get("slices") or []) - len(self.slices)


def gate(run: Run) -> Gate | Missing:
    """The gate's decision.

    Raises:
        ArtifactCorruptError: decision.json does not parse.
    """
    decision = run.need(DECISION)
    if isinstance(decision, Missing):
        return Missing("There is no decision yet; `mvqkd gate` makes one.")
    record = read_json(decision, DECISION_FILE)
    if isinstance(record, Missing):
        return record
    bundle = run.get(BUNDLE)
    other = None if bundle is None or bundle.id == record["bundle_id"] else str(record["bundle_id"])
    return Gate(decision, record, other)


def verdict(run: Run, decided: Gate | Missing) -> Verdict:
    """What to say on top."""
    notes = list(contradictions(run))
    tiles = list(_tiles(run))
    if isinstance(decided, Missing):
        return Verdict("undecided", "No decision yet", decided.reason, tiles, notes)
    if decided.about_another is not None:
        bundle = run.artifacts[BUNDLE]
        reason = (
            f"The gate said “{decided.record['decision']}” of bundle {decided.about_another[:12]}; "
            f"the one here, {bundle.short_id}, has not been judged: run `mvqkd gate`."
        )
        return Verdict("undecided", "No decision on this bundle", reason, tiles, notes)
    promoted = decided.record["decision"] == "promote"
    return Verdict(
        "promote" if promoted else "reject",
        "Promote" if promoted else "Reject",
        str(decided.record["reason"]),
        tiles,
        notes,
    )


def _compared(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [
        ("challenger and champion", f"{percent(found['challenger_wer'], 2)}, {percent(found['champion_wer'], 2)}"),
        ("difference in points", points(float(found["difference"]))),
    ]
    # A figure that is no number is text there.
    low, high = (float(end) for end in found["interval_95"])
    shown.append(("its 95 % interval", signed_interval(low, high)))
    if "probability_better" in found:
        shown.append(("resamples in which it is lower", percent(found["probability_better"])))
    names = {
        "p_value": "chance of it between equals",
        "num_utterances": "utterances",
        "num_words": "words",
    }
    return shown + [(label, figure(found[name])) for name, label in names.items() if name in found]


def _tiles(run: Run) -> Iterator[Tile]:
    judged = run.judged()
    if isinstance(judged, Scored):
        row, report = judged.row_of_record(), judged.report
        words = count(report.num_words, "word")
        yield Tile(
            "WER", percent(row.wer), f"{interval(*row.interval_95)} (95{NO_BREAK}%), {words} of split {report.split}"
        )
        yield _against_champion(run, judged)
    of_student = run.scored(WER)
    teacher = of_student.report.row(TEACHER, "teacher") if isinstance(of_student, Scored) else None
    embeddings = run.get(EMBEDDINGS)
    if teacher is not None:
        name = "the teacher" if embeddings is None else f"{embeddings.facts.get('teacher_id')}"
        yield Tile("Teacher's WER", percent(teacher.wer), f"{name}, same test set")
    yield from _costs(run)
    yield from _made_from(run)


def _against_champion(run: Run, judged: Scored) -> Tile:
    name, rival = "Against the champion", rival_of(run)
    if isinstance(rival, Missing):
        return Tile(name, "–", rival.reason)
    found = difference(judged.report, judged.row_of_record(), rival)
    if found is None:
        return Tile(name, "–", "Its report has no such row.")
    detail = (
        f"{signed_interval(found.low, found.high)} (95{NO_BREAK}%): {found.verdict}; "
        f"champion {percent(found.compared.champion_wer)}, "
        f"lower in {percent(found.compared.bootstrap.probability_better)} of resamples"
    )
    return Tile(name, f"{points(found.compared.difference)} points", detail)


def _costs(run: Run) -> Iterator[Tile]:
    bundle, costs = run.get(BUNDLE), speed(run)
    rtf = None if bundle is None else bundle.figures.get("rtf")
    if isinstance(rtf, float) and rtf > 0:
        yield Tile("Real-time factor", f"{rtf:.4f}", f"{1 / rtf:,.0f} s of audio a second, one thread")
    if not isinstance(costs, Missing) and costs.variants:
        # The offline transducer is what the WER of record is of.
        name, float32, int8 = next((row for row in costs.variants if row[0] == "offline"), costs.variants[0])
        small = "" if int8 is None else f", {size(int8)} with int8 encoder"
        yield Tile("Size", size(float32), f"{name}, float32{small}")


def _made_from(run: Run) -> Iterator[Tile]:
    data, quantizer = run.get(DATA), run.get(QUANTIZER)
    if data is not None and "hours" in data.facts:
        hours = {str(name): float(value) for name, value in data.facts["hours"].items()}
        rest = ", ".join(f"{name} {duration(3600 * value)}" for name, value in hours.items() if name != "train")
        yield Tile("Training speech", duration(3600 * hours.get("train", 0.0)), rest)
    if quantizer is not None and "relative_error" in quantizer.figures:
        layer, num_bytes = quantizer.facts.get("layer"), quantizer.facts.get("bytes_per_frame")
        error = f"{quantizer.figures['relative_error']:.3f}"
        yield Tile("Quantizer's error", error, f"relative, held out; layer {layer}, {num_bytes} bytes a frame")
