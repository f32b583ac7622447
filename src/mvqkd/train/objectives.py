"""From artifacts to a distillation objective: lineage is checked, targets are read from a store or a live teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.batches import FEATURE_CACHE_BYTES
from mvqkd.data.features import ArrayCache
from mvqkd.data.sources import TRAIN, UNTRANSCRIBED
from mvqkd.errors import ArtifactMismatchError, ConfigError
from mvqkd.student.model import Student
from mvqkd.teacher.base import Teacher
from mvqkd.train.distillation import CodebookObjective, DistillationObjective, RegressionObjective


def objective_of(
    config: TrainStudentConfig,
    data: Artifact,
    quantizer: Path | None,
    codebook_indexes: Path | None,
    teacher_embeddings: Path | None,
    device: torch.device,
) -> tuple[list[Artifact], Callable[[Student], DistillationObjective | None]]:
    """Parents of the student and a function that builds its objective.

    Raises:
        ConfigError: an artifact that the objective needs is not given, or there is no such layer.
        ArtifactError: an artifact is missing, corrupt, or of another lineage; indexes lack a speed or a split.
    """
    if config.distillation_layer is not None and config.distillation_layer > config.model.num_encoder_layers:
        raise ConfigError(
            "train-student.distillation_layer",
            expected=f"a layer in 1 .. {config.model.num_encoder_layers}",
            got=str(config.distillation_layer),
            next_step="change it or train-student.model.num_encoder_layers",
        )
    if config.objective == "none":
        return [data], lambda student: None
    if config.objective == "mvq" and config.ci_source == "stored":
        return _codebook_objective(
            config, data, _needed(config, "quantizer", quantizer), _needed(config, "codebook-indexes", codebook_indexes)
        )
    if config.objective == "mvq":
        return _live_codebook_objective(
            config,
            data,
            _needed(config, "quantizer", quantizer),
            _needed(config, "teacher-embeddings", teacher_embeddings),
            device,
        )
    return _regression_objective(config, data, _needed(config, "teacher-embeddings", teacher_embeddings), device)


def _codebook_objective(
    config: TrainStudentConfig, data: Artifact, quantizer: Path, codebook_indexes: Path
) -> tuple[list[Artifact], Callable[[Student], DistillationObjective]]:
    from mvqkd.codebook.store import CodebookIndexStore

    fitted = load_artifact(quantizer, "quantizer")
    indexes = load_artifact(codebook_indexes, "codebook-indexes", verify="size")
    indexes.require_parent(fitted)
    indexes.require_parent(data)
    _refuse_missing(indexes, "speeds", config.speeds, "perturbed audio has indexes of its own")
    _refuse_missing(indexes, "splits", _splits(config), "a student learns from every split that it is trained on")
    store = CodebookIndexStore(indexes)
    build = _codebook_builder(
        config,
        lambda cut: store.read(str(cut.id)),
        Fraction(indexes.facts["rate_hz"]),
        (store.num_codebooks, store.codebook_size),
        store.frame_offsets,
    )
    return [data, fitted, indexes], build


def _splits(config: TrainStudentConfig) -> list[str]:
    return [TRAIN, UNTRANSCRIBED] if config.untranscribed_ratio > 0 else [TRAIN]


def _refuse_missing(indexes: Artifact, name: str, wanted: Sequence[Any], why: str) -> None:
    if missing := sorted(set(wanted) - set(indexes.facts[name])):
        raise ArtifactMismatchError(
            f"codebook-indexes {indexes.path} ({indexes.short_id})",
            expected=f"indexes of all {name} trained on ({', '.join(map(str, wanted))})",
            got=f"none for {', '.join(map(str, missing))}",
            next_step=f"add them to encode-ci.{name} and re-run it: {why}",
        )


def _live_codebook_objective(
    config: TrainStudentConfig, data: Artifact, quantizer: Path, teacher_embeddings: Path, device: torch.device
) -> tuple[list[Artifact], Callable[[Student], DistillationObjective]]:
    """The same objective with the teacher in the loop: nothing stored, everything computed anew in every epoch."""
    from mvqkd.codebook.encode import check_same_teacher
    from mvqkd.quantizer import Quantizer
    from mvqkd.teacher.extract import teacher_of

    fitted = load_artifact(quantizer, "quantizer")
    sample = load_artifact(teacher_embeddings, "teacher-embeddings", verify="size")
    sample.require_parent(data)
    check_same_teacher(fitted, sample)
    teacher = teacher_of(sample, str(device))
    codec = Quantizer.load(fitted.path, device)
    iterations = int(fitted.facts["refine_iterations"])

    def read_indexes(cut: Any) -> NDArray[np.uint8]:
        return codec.encode(_embed(teacher, cut), iterations=iterations).cpu().numpy()

    sizes = codec.num_codebooks, codec.codebook_size
    return [data, fitted, sample], _codebook_builder(config, read_indexes, teacher.rate_hz, sizes)


def _codebook_builder(
    config: TrainStudentConfig,
    read_indexes: Callable[[Any], NDArray[np.uint8]],
    rate_hz: Fraction,
    sizes: tuple[int, int],
    frame_offsets: tuple[int, int] | None = None,
) -> Callable[[Student], DistillationObjective]:
    """What builds the objective mvq, wherever indexes come from; sizes: codebooks, and entries of each."""

    def build(student: Student) -> DistillationObjective:
        return CodebookObjective(
            read_indexes,
            rate_hz,
            hidden_dim=student.config.encoder_dim,
            num_codebooks=sizes[0],
            codebook_size=sizes[1],
            predictor_layers=config.predictor_layers,
            joint_prediction=config.joint_prediction,
            delta_frames=config.delta_frames,
            frame_offsets=frame_offsets,
        )

    return build


def _embed(teacher: Teacher, cut: Any) -> Tensor:
    """Embeddings float32 (T, D) of one cut."""
    embeddings, lengths = teacher.embed([load_audio(cut)])
    return embeddings[0, : int(lengths[0])]


def _regression_objective(
    config: TrainStudentConfig, data: Artifact, teacher_embeddings: Path, device: torch.device
) -> tuple[list[Artifact], Callable[[Student], DistillationObjective]]:
    from safetensors.numpy import load_file

    from mvqkd.teacher.extract import teacher_of

    sample = load_artifact(teacher_embeddings, "teacher-embeddings")
    sample.require_parent(data)
    teacher = teacher_of(sample, str(device))
    values = np.concatenate([load_file(path)["embeddings"] for path in sorted(sample.path.glob("*.safetensors"))])
    frames = torch.from_numpy(values.astype(np.float32))

    def embed(cut: Any) -> NDArray[np.float16]:
        return _embed(teacher, cut).cpu().numpy().astype(np.float16)

    def build(student: Student) -> DistillationObjective:
        return RegressionObjective(
            "l1" if config.objective == "l1" else "l2",
            ArrayCache(embed, lambda cut: str(cut.id), FEATURE_CACHE_BYTES),
            teacher.rate_hz,
            hidden_dim=student.config.encoder_dim,
            mean=frames.mean(dim=0),
            std=frames.std(dim=0),
            delta_frames=config.delta_frames,
        )

    return [data, sample], build


def _needed(config: TrainStudentConfig, kind: str, path: Path | None) -> Path:
    if path is None:
        raise ConfigError(
            f"train-student.objective {config.objective}",
            expected=f"a {kind} artifact",
            got="none",
            next_step=f"pass --{kind} DIR, or choose --objective none",
        )
    return path
