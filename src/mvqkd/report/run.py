"""The artifacts of one run as the sections of the page read them, and what a section says when it has nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mvqkd.artifacts import Artifact
from mvqkd.decode.report import GREEDY, REPORT_FILE, Row, WerReport
from mvqkd.errors import ArtifactCorruptError

DATA, EMBEDDINGS, QUANTIZER, INDEXES = "cut-manifest", "teacher-embeddings", "quantizer", "codebook-indexes"
STUDENT, WER, BUNDLE = "student-checkpoint", "wer-report", "onnx-bundle"
DECISION, PROMOTION = "promotion-decision", "promotion"
# In the order they are made.
STAGE_OF = {
    DATA: "prepare-data",
    EMBEDDINGS: "extract-teacher",
    QUANTIZER: "fit-quantizer",
    INDEXES: "encode-ci",
    STUDENT: "train-student",
    WER: "evaluate",
    BUNDLE: "export-onnx",
    DECISION: "gate",
    PROMOTION: "promote",
}


@dataclass(frozen=True)
class Missing:
    """Why a section is left out, in a sentence."""

    reason: str


@dataclass(frozen=True)
class Scored:
    """A WER report and the artifact that it lies in."""

    artifact: Artifact
    report: WerReport

    def row_of_record(self) -> Row:
        """Greedy decoding of what ships, or else of the torch student, or else whatever comes first."""
        rows = (self.report.row(GREEDY, "onnxruntime"), self.report.row(GREEDY, "torch"))
        return next((row for row in rows if row is not None), self.report.rows[0])


@dataclass(frozen=True)
class Run:
    """Artifacts of a run by kind, the bundle it is compared with, and reports on further test sets."""

    artifacts: Mapping[str, Artifact]
    champion: Artifact | None = None
    other_reports: Sequence[Artifact] = ()
    _scored: dict[str, Scored | Missing] = field(default_factory=dict, repr=False, compare=False)

    def get(self, kind: str) -> Artifact | None:
        return self.artifacts.get(kind)

    def need(self, kind: str) -> Artifact | Missing:
        """The artifact, or that and how it could be there."""
        artifact = self.get(kind)
        if artifact is not None:
            return artifact
        if kind in (EMBEDDINGS, QUANTIZER, INDEXES) and self.objective == "none":
            return Missing("The student learnt without a teacher (objective none).")
        if kind in (QUANTIZER, INDEXES) and self.objective in ("l1", "l2"):
            return Missing(f"The student learnt from the teacher's embeddings themselves (objective {self.objective}).")
        article = "an" if kind[0] in "aeiou" else "a"
        return Missing(f"There is no {kind} here; `mvqkd {STAGE_OF[kind]}` makes {article} {kind}.")

    @property
    def objective(self) -> str | None:
        """What the student learnt from the teacher; None where no student is here."""
        student = self.get(STUDENT)
        return None if student is None else str(student.facts.get("objective", "none"))

    def scored(self, kind: str) -> Scored | Missing:
        """The WER report of a wer-report or onnx-bundle.

        Raises:
            ArtifactCorruptError: it does not read as one.
        """
        artifact = self.need(kind)
        return artifact if isinstance(artifact, Missing) else self.scores_of(artifact)

    def scores_of(self, artifact: Artifact) -> Scored | Missing:
        """The WER report within an artifact, the run's or another; read once, for several sections ask for it.

        Raises:
            ArtifactCorruptError: it does not read as one.
        """
        if artifact.id not in self._scored:
            self._scored[artifact.id] = scored(artifact)
        return self._scored[artifact.id]

    def judged(self) -> Scored | Missing:
        """The report whose texts the page looks into: of what ships, or else of the torch student."""
        of_bundle = self.scored(BUNDLE)
        if isinstance(of_bundle, Scored):
            return of_bundle
        of_student = self.scored(WER)
        return of_student if isinstance(of_student, Scored) else of_bundle


def scored(artifact: Artifact) -> Scored | Missing:
    """The WER report within an artifact, or that it has no scores."""
    if REPORT_FILE not in artifact.files:
        return Missing(f"{artifact.kind} {artifact.short_id} holds no {REPORT_FILE}.")
    report = WerReport.load(artifact.path)
    return Scored(artifact, report) if report.rows else Missing(f"The {REPORT_FILE} of {artifact.kind} has no rows.")


def read_json(artifact: Artifact, name: str) -> Any | Missing:
    """A JSON file of an artifact.

    Raises:
        ArtifactCorruptError: it does not parse.
    """
    if name not in artifact.files:
        return Missing(f"{artifact.kind} {artifact.short_id} holds no {name}.")
    try:
        return json.loads((artifact.path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(artifact, name, str(error)) from error


def read_json_lines(artifact: Artifact, name: str, limit: int | None = None) -> list[Any]:
    """The first ``limit`` lines of a JSON-lines file of an artifact, all by default; none where it has no such file.

    Raises:
        ArtifactCorruptError: a line does not parse.
    """
    if name not in artifact.files:
        return []
    try:
        with (artifact.path / name).open(encoding="utf-8") as stream:
            return [json.loads(line) for _, line in zip(range(limit or 1 << 62), stream, strict=False)]
    except (OSError, ValueError) as error:
        raise unreadable(artifact, name, str(error)) from error


def unreadable(artifact: Artifact, name: str, got: str) -> ArtifactCorruptError:
    """The error of a file that is not what its kind of artifact holds."""
    return ArtifactCorruptError(
        f"{artifact.kind} {artifact.path} ({artifact.short_id}), file {name}",
        expected="what this version of mvqkd writes",
        got=got,
        next_step=f"re-run {artifact.stage}",
    )
