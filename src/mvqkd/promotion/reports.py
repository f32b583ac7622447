"""Read what the gate judges: the WER report and the parity report that lie inside artifacts."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mvqkd.artifacts import Artifact
from mvqkd.errors import ArtifactCorruptError

REPORT_FILE = "wer.json"
PARITY_FILE = "parity.json"
BUNDLE_FILE = "bundle.json"

# The bundle's row that decides: what ships, decoded the plainest way.
RECORD_DECODER = "greedy"
RECORD_RUNTIME = "onnxruntime"


class ReportRow(BaseModel):
    """Score of one decoder on one runtime; ``wer`` and ``cer`` are shares, ``interval_95`` bounds the WER."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decoder: str
    runtime: str
    wer: float | None = None
    cer: float | None = None
    interval_95: tuple[float, float] | None = None


class Report(BaseModel):
    """A WER report without its utterances: which test set, which normaliser, and one row a decoder."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    test_set_sha256: str
    text_normalizer: str
    split: str = "test"
    num_utterances: int
    num_words: int = 0
    rows: tuple[ReportRow, ...]

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
