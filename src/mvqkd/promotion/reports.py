"""Read what the gate judges: WER reports, parity and costs, as they lie inside artifacts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvqkd.artifacts import Artifact
from mvqkd.errors import ArtifactCorruptError
from mvqkd.promotion.candidate import Costs, Scores, Utterances

REPORT_FILE = "wer.json"
PARITY_FILE = "parity.json"
BUNDLE_FILE = "bundle.json"

# The bundle's row that decides: what ships, decoded the plainest way.
RECORD_DECODER = "greedy"
RECORD_RUNTIME = "onnxruntime"
STREAMING_RUNTIME = "onnxruntime-streaming"
# Further test sets are decoded by torch alone.
OTHERS_RUNTIME = "torch"


class ReportRow(BaseModel):
    """Score of one decoder on one runtime; ``wer`` and ``cer`` are shares, ``interval_95`` bounds the WER."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    decoder: str
    runtime: str
    wer: float | None = None
    cer: float | None = None
    insertions: int = Field(0, alias="ins")
    deletions: int = Field(0, alias="del")
    substitutions: int = Field(0, alias="sub")
    interval_95: tuple[float, float] | None = None


class ReportUtterance(BaseModel):
    """Normalised texts of one utterance; ``hyp`` maps a row's name to its text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    ref: str
    hyp: dict[str, str]
    speaker: str | None = None


class Report(BaseModel):
    """A WER report: which test set, which normaliser, one row a decoder, and every utterance's texts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    test_set_sha256: str
    text_normalizer: str
    split: str = "test"
    num_utterances: int
    num_words: int = 0
    rows: tuple[ReportRow, ...]
    utterances: tuple[ReportUtterance, ...] = Field((), exclude=True, repr=False)

    def row(self, runtime: str, decoder: str | None = None) -> ReportRow | None:
        """First row of that runtime (and decoder, when given)."""
        for row in self.rows:
            if row.runtime == runtime and decoder in (None, row.decoder):
                return row
        return None

    @property
    def record(self) -> ReportRow | None:
        """The row of record: greedy decoding of the ONNX bundle; None in a report of another runtime."""
        return self.row(RECORD_RUNTIME, RECORD_DECODER)


def read_report(artifact: Artifact) -> Report:
    """Read the WER report of a wer-report or onnx-bundle artifact.

    Raises:
        ArtifactCorruptError: it is missing or does not read as a report.
    """
    try:
        return Report.model_validate(_read_json(artifact, REPORT_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _unreadable(artifact, REPORT_FILE, f"field {field}: {first['msg']}") from error


def read_scores(artifact: Artifact, report: Report, row: ReportRow | None, *, utterances: bool = True) -> Scores:
    """What a row says, with the word errors of every utterance.

    Args:
        report: of that artifact; ``row`` is one of its rows, None where it has none of the wanted decoder.
        utterances: False leaves them out, where nothing is to be compared.
    Raises:
        ArtifactCorruptError: the texts do not have the errors that the row counts.
    """
    return Scores(
        test_set=report.split,
        test_set_sha256=report.test_set_sha256,
        text_normalizer=report.text_normalizer,
        num_utterances=report.num_utterances,
        wer=None if row is None else row.wer,
        utterances=_word_errors(artifact, report, row) if utterances and row is not None else None,
    )


def _word_errors(artifact: Artifact, report: Report, row: ReportRow) -> Utterances | None:
    import kaldialign

    if not report.utterances or any(row.name not in utterance.hyp for utterance in report.utterances):
        return None
    texts = [(utterance.ref.split(), utterance.hyp[row.name].split()) for utterance in report.utterances]
    errors = np.array([kaldialign.edit_distance(ref, hyp)["total"] for ref, hyp in texts], dtype=np.int64)
    words = np.array([len(ref) for ref, _ in texts], dtype=np.int64)
    counted = row.insertions + row.deletions + row.substitutions
    if (int(errors.sum()), int(words.sum())) != (counted, report.num_words):
        raise ArtifactCorruptError(
            f"{artifact.kind} {artifact.path} ({artifact.short_id}), file {REPORT_FILE}, row {row.name}",
            expected=f"texts with {counted} errors in {report.num_words} words, as the row counts",
            got=f"{errors.sum()} errors in {words.sum()} words",
            next_step=f"re-run {artifact.stage}",
        )
    return Utterances(
        ids=tuple(utterance.id for utterance in report.utterances),
        words=words,
        errors=errors,
        speakers=tuple(utterance.speaker for utterance in report.utterances),
    )


def read_parity(artifact: Artifact) -> bool | None:
    """Whether the bundle's graphs passed the parity test; None when its report states no verdict.

    Raises:
        ArtifactCorruptError: the parity report is missing or no JSON object.
    """
    verdict = _read_json(artifact, PARITY_FILE).get("ok")
    return verdict if isinstance(verdict, bool) else None


def read_lineage(bundle: Artifact) -> dict[str, str]:
    """Kind -> id of every artifact that the bundle's student was made from, as bundle.json states it.

    Raises:
        ArtifactCorruptError: bundle.json is missing or states no lineage.
    """
    lineage = _read_json(bundle, BUNDLE_FILE).get("lineage")
    if not isinstance(lineage, dict):
        raise _unreadable(bundle, BUNDLE_FILE, "no lineage")
    return {str(kind): str(artifact_id) for kind, artifact_id in lineage.items()}


def read_costs(bundle: Artifact) -> Costs:
    """What the bundle and its descriptions state; what they do not state is None.

    Raises:
        ArtifactCorruptError: bundle.json is missing or no JSON object.
    """
    described = _read_json(bundle, BUNDLE_FILE)
    record = described.get("variants", {}).get("offline", {}).get("float32", {})
    files = [bundle.files[name] for _, name in sorted(record.items()) if name in bundle.files]
    latency, rtf = described.get("streaming", {}).get("latency_s"), bundle.figures.get("rtf")
    return Costs(
        bundle_bytes=sum(entry["size_bytes"] for entry in bundle.files.values()),
        graph_bytes=sum(entry["size_bytes"] for entry in files) if files else None,
        graphs=tuple(entry["sha256"] for entry in files),
        rtf=None if rtf is None else float(rtf),
        latency_s=None if latency is None else float(latency),
    )


def has_streaming_graphs(bundle: Artifact) -> bool:
    """Whether bundle.json lists graphs that decode a chunk at a time.

    Raises:
        ArtifactCorruptError: bundle.json is missing or no JSON object.
    """
    return "streaming" in _read_json(bundle, BUNDLE_FILE).get("variants", {})


def _read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    try:
        value = json.loads((artifact.path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(artifact, name, str(error)) from error
    if not isinstance(value, dict):
        raise _unreadable(artifact, name, f"a JSON {type(value).__name__}")
    return value


def _unreadable(artifact: Artifact, name: str, got: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"{artifact.kind} {artifact.path} ({artifact.short_id}), file {name}",
        expected="a readable report",
        got=got,
        next_step=f"re-run {artifact.stage} with this version of mvqkd",
    )
