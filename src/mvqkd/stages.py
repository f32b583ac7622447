"""The stages of the pipeline as data: one row serves the command line, dvc.yaml, components and their tests."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvqkd.artifacts import Artifact
    from mvqkd.config import Section


@dataclass(frozen=True)
class Input:
    """An artifact directory that a stage reads; ``name`` is the function's argument."""

    name: str
    kind: str
    directory: str
    required: bool = True

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Stage:
    """A stage: its function ``module:name``, what it reads and what it writes."""

    name: str
    help: str
    function: str
    inputs: tuple[Input, ...]
    output_kind: str
    output_directory: str
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def config_model(self) -> type[Section]:
        # Imported here because building the sections takes longer than all else that `mvqkd --help` does.
        from mvqkd.config import SECTIONS

        return SECTIONS[self.name]

    def load_function(self) -> Callable[..., Artifact]:
        module, _, name = self.function.partition(":")
        function: Callable[..., Artifact] = getattr(importlib.import_module(module), name)
        return function

    def run(self, config: Section, *, out: Path, inputs: dict[str, Path], **extra: Any) -> Artifact:
        """Run the stage. Missing optional inputs are passed as None."""
        arguments = {item.name: inputs.get(item.name) for item in self.inputs}
        return self.load_function()(config, out=out, **arguments, **extra)


_DATA = Input("data", "cut-manifest", "data")
_EMBEDDINGS = Input("teacher_embeddings", "teacher-embeddings", "teacher-embeddings")
_QUANTIZER = Input("quantizer", "quantizer", "quantizer")
_INDEXES = Input("codebook_indexes", "codebook-indexes", "codebook-indexes")
_STUDENT = Input("student", "student-checkpoint", "student")
_REPORT = Input("wer_report", "wer-report", "wer")
_BUNDLE = Input("bundle", "onnx-bundle", "bundle")
_DECISION = Input("decision", "promotion-decision", "decision")


def _optional(item: Input) -> Input:
    return Input(item.name, item.kind, item.directory, required=False)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "prepare-data",
            "turn recordings and transcripts into checked cuts, splits and tokens",
            "mvqkd.data.prepare:prepare_data",
            (),
            "cut-manifest",
            "data",
        ),
        Stage(
            "extract-teacher",
            "sample frames of the teacher's embeddings to fit a quantizer on",
            "mvqkd.teacher.extract:extract_teacher",
            (_DATA,),
            "teacher-embeddings",
            "teacher-embeddings",
        ),
        Stage(
            "fit-quantizer",
            "fit the multi-codebook quantizer to those embeddings",
            "mvqkd.quantizer.fit_stage:fit_quantizer",
            (_EMBEDDINGS,),
            "quantizer",
            "quantizer",
        ),
        Stage(
            "encode-ci",
            "run teacher and quantizer over the training cuts: codebook indexes (CI), a few bytes a frame",
            "mvqkd.codebook.encode:encode_ci",
            (_DATA, _EMBEDDINGS, _QUANTIZER),
            "codebook-indexes",
            "codebook-indexes",
            {"rank": "number of this process, 0-based", "world_size": "how many processes share the work"},
        ),
        Stage(
            "train-student",
            "train the student to transcribe and to predict the indexes",
            "mvqkd.train.stage:train_student",
            (_DATA, _optional(_INDEXES), _optional(_QUANTIZER), _optional(_EMBEDDINGS)),
            "student-checkpoint",
            "student",
        ),
        Stage(
            "evaluate",
            "decode the test split with the student and count word errors",
            "mvqkd.decode.evaluate:evaluate",
            (_DATA, _STUDENT, _optional(_EMBEDDINGS)),
            "wer-report",
            "wer",
        ),
        Stage(
            "export-onnx",
            "export the student for onnxruntime and sherpa-onnx, prove parity, score what ships",
            "mvqkd.export.stage:export_onnx",
            (_DATA, _STUDENT),
            "onnx-bundle",
            "bundle",
        ),
        Stage(
            "gate",
            "judge the bundle against thresholds and the current champion",
            "mvqkd.promotion.stage:gate",
            (_BUNDLE, _REPORT, _optional(_QUANTIZER)),
            "promotion-decision",
            "decision",
        ),
        Stage(
            "promote",
            "log the run, register the bundle and move the champion alias if the gate said so",
            "mvqkd.adapters.promote:promote",
            (
                _DECISION,
                _BUNDLE,
                _REPORT,
                _STUDENT,
                _DATA,
                _optional(_INDEXES),
                _optional(_QUANTIZER),
                _optional(_EMBEDDINGS),
            ),
            "promotion",
            "promotion",
        ),
    )
}
