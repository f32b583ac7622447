"""Objectives from real artifacts: stored indexes and the live teacher agree, untranscribed speech joins training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mvqkd.artifacts import Artifact
from mvqkd.codebook.encode import encode_ci
from mvqkd.config import (
    EncodeCiConfig,
    ExtractTeacherConfig,
    FitQuantizerConfig,
    PrepareDataConfig,
    TrainStudentConfig,
    load_section,
)
from mvqkd.data.batches import Batch, BatchSource
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.prepare import prepare_data
from mvqkd.data.tokens import Tokens
from mvqkd.errors import ArtifactMismatchError, ConfigError
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.student.model import Student
from mvqkd.teacher.extract import extract_teacher
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import TINY_TRAINING
from mvqkd.train.distillation import DistillationObjective
from mvqkd.train.objectives import objective_of
from mvqkd.train.stage import train_student

SPEEDS = TINY_TRAINING["speeds"]
TINY = {**TINY_TRAINING, "num_epochs": 2, "batch_duration_s": 8.0}


def tiny(**changes: object) -> TrainStudentConfig:
    return load_section(TrainStudentConfig, None, {**TINY, **changes})


class Made:
    """Everything up to the indexes, with Whisper tiny.en as teacher."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rows = [json.loads(line) for line in make_corpus(root / "corpus", 16).read_text().splitlines()]
        for row in rows[12:]:
            del row["text"]
            row["split"] = "untranscribed"
        manifest = root / "corpus" / "mixed.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        prepared = PrepareDataConfig(source="manifest", manifest=str(manifest), split_by="prompt")
        self.data = prepare_data(prepared, out=root / "data")
        sample = ExtractTeacherConfig(num_frames=600, device="cpu")
        self.embeddings = extract_teacher(sample, data=self.data.path, out=root / "embeddings")
        fitted = FitQuantizerConfig(num_codebooks=2, codebook_size=16, phase_1_steps=5, batch_size=64, device="cpu")
        self.quantizer = fit_quantizer(fitted, teacher_embeddings=self.embeddings.path, out=root / "quantizer")

    def indexes(self, splits: Sequence[str]) -> Artifact:
        out = self.root / f"indexes-{'-'.join(splits)}"
        return encode_ci(
            EncodeCiConfig(splits=list(splits), speeds=SPEEDS, device="cpu"),
            data=self.data.path,
            teacher_embeddings=self.embeddings.path,
            quantizer=self.quantizer.path,
            out=out,
        )

    def train(self, out: str, indexes: Artifact | None, **changes: object) -> Artifact:
        return train_student(
            tiny(**changes),
            data=self.data.path,
            quantizer=self.quantizer.path,
            codebook_indexes=indexes.path if indexes else None,
            teacher_embeddings=self.embeddings.path,
            out=self.root / out,
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("objectives"))


@pytest.fixture(scope="module")
def indexes(made: Made) -> Artifact:
    return made.indexes(["train", "untranscribed"])


def test_the_teacher_in_the_loop_gives_what_is_stored(made: Made, indexes: Artifact) -> None:
    source = BatchSource(
        speed_copies(load_cuts(made.data, "train"), SPEEDS), Tokens.load(made.data.path), batch_duration_s=8.0, seed=0
    )
    batch = source.collate(source.plan(0)[0])
    targets = []
    for ci_source in ("stored", "teacher"):
        config = tiny(ci_source=ci_source)
        parents, build = objective_of(
            config, made.data, made.quantizer.path, indexes.path, made.embeddings.path, torch.device("cpu")
        )
        assert made.quantizer.id in {parent.id for parent in parents}
        objective = build(Student(config.model, source.tokens.vocab_size))
        assert objective is not None
        targets.append(objective.targets(batch))
    assert torch.equal(*targets)


@pytest.mark.parametrize("changes", [{"objective": "l2"}, {"ci_source": "teacher"}], ids=str)
def test_a_teacher_in_the_loop_is_not_rounded_to_bfloat16(
    made: Made, indexes: Artifact, changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = DistillationObjective.targets

    def targets(objective: DistillationObjective, batch: Batch) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(objective, batch)

    monkeypatch.setattr(DistillationObjective, "targets", targets)
    # At a changed speed: resampling a recording fails in bfloat16, and a teacher would compute other embeddings.
    trained = made.train(f"student-{changes}", None, precision="bfloat16", num_epochs=1, speeds=[1.1], **changes)
    assert trained.figures["num_skipped_batches"] == 0
    assert seen
    assert not any(seen)


def test_untranscribed_speech_joins_training(made: Made, indexes: Artifact) -> None:
    alone = made.train("student-alone", indexes, untranscribed_ratio=0.0)
    joined = made.train("student-joined", indexes, untranscribed_ratio=1.0)
    assert joined.figures["train_hours"] > alone.figures["train_hours"]
    assert joined.figures["num_skipped_batches"] == 0
    assert joined.id != alone.id


def test_indexes_that_lack_the_untranscribed_split_are_refused(made: Made) -> None:
    with pytest.raises(ArtifactMismatchError, match=r"none for untranscribed; add them to encode-ci\.splits"):
        made.train("refused", made.indexes(["train"]), untranscribed_ratio=0.5)


def test_indexes_that_lack_a_speed_are_refused(made: Made, indexes: Artifact) -> None:
    with pytest.raises(ArtifactMismatchError, match=r"none for 0\.9; add them to encode-ci\.speeds"):
        made.train("refused", indexes, speeds=[0.9, 1.0])


def test_without_distillation_untranscribed_speech_teaches_nothing(made: Made) -> None:
    with pytest.raises(ConfigError, match=r"expected 0 with the objective none"):
        made.train("refused", None, objective="none", untranscribed_ratio=0.5)


def test_a_teacher_of_another_quantizer_is_refused(made: Made) -> None:
    other = ExtractTeacherConfig(num_frames=300, layer=2, device="cpu")
    sample = extract_teacher(other, data=made.data.path, out=made.root / "other-embeddings")
    with pytest.raises(ArtifactMismatchError, match=r"layer 2.* got .*layer 3"):
        objective_of(tiny(ci_source="teacher"), made.data, made.quantizer.path, None, sample.path, torch.device("cpu"))
