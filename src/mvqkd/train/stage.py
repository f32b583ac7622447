"""The stage train-student: artifacts in, a student checkpoint out."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.batches import FEATURE_CACHE_BYTES, BatchSource
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.features import ArrayCache
from mvqkd.data.tokens import Tokens
from mvqkd.errors import ArtifactMismatchError, ConfigError
from mvqkd.student.checkpoint import save_student, student_facts
from mvqkd.student.model import Student
from mvqkd.teacher.base import resolve_device
from mvqkd.train.distillation import CodebookObjective, DistillationObjective, RegressionObjective
from mvqkd.train.loop import Trainer
from mvqkd.train.state import TrainerState

_LOG = logging.getLogger("mvqkd.train")

# Utterances whose frames give the mean and deviation of the encoder's input.
NORMALISATION_CUTS = 500
SMOOTHING_ROWS = 10


def train_student(
    config: TrainStudentConfig,
    *,
    data: Path,
    out: Path,
    quantizer: Path | None = None,
    codebook_indexes: Path | None = None,
    teacher_embeddings: Path | None = None,
) -> Artifact:
    """Train a student on the ``train`` split; resumes where a killed run with the same inputs stopped.

    Args:
        codebook_indexes, quantizer: needed by the objective mvq; the indexes must be of this quantizer and data.
        teacher_embeddings: needed by l1 and l2, which run that teacher beside the student.
    Raises:
        ConfigError, ArtifactError, FrameAlignmentError, TrainingError.
    """
    _set_threads(config.num_threads)
    device = torch.device(resolve_device(config.device))
    manifest = load_artifact(data, "cut-manifest")
    parents, read_objective = _objective(config, manifest, quantizer, codebook_indexes, teacher_embeddings, device)
    partial = PartialArtifact(
        out, "student-checkpoint", stage="train-student", config=config.model_dump(mode="json"), parents=parents
    )
    tokens = Tokens.load(manifest.path)
    cuts = speed_copies(load_cuts(manifest, "train"), config.speeds)
    source = BatchSource(cuts, tokens, batch_duration_s=config.batch_duration_s, seed=config.seed)
    if source.num_dropped:
        _LOG.info("train-student: %d cuts left out: their symbols do not fit into their frames", source.num_dropped)

    torch.manual_seed(config.seed)
    student = Student(config.model, tokens.vocab_size)
    _normalise_input(student, source)
    objective = read_objective(student)
    trainer = Trainer(config, student, objective, source, partial.path, device)
    weights, state = trainer.run()

    save_student(student, partial.path, weights)
    _copy_tokens(manifest.path, partial.path)
    facts = {
        **student_facts(student),
        "objective": config.objective,
        "text_normalizer": manifest.facts["text_normalizer"],
        "token_type": manifest.facts["token_type"],
    }
    return partial.commit(facts=facts, figures=_figures(student, objective, source, state))


def _objective(
    config: TrainStudentConfig,
    data: Artifact,
    quantizer: Path | None,
    codebook_indexes: Path | None,
    teacher_embeddings: Path | None,
    device: torch.device,
) -> tuple[list[Artifact], Callable[[Student], DistillationObjective | None]]:
    """Parents of the student and a function that builds its objective."""
    if config.distillation_layer is not None and config.distillation_layer > config.model.num_encoder_layers:
        raise ConfigError(
            "train-student.distillation_layer",
            expected=f"a layer in 1 .. {config.model.num_encoder_layers}",
            got=str(config.distillation_layer),
            next_step="change it or train-student.model.num_encoder_layers",
        )
    if config.objective == "none":
        return [data], lambda student: None
    if config.objective == "mvq":
        return _codebook_objective(
            config, data, _needed(config, "quantizer", quantizer), _needed(config, "codebook-indexes", codebook_indexes)
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
    if missing := sorted(set(config.speeds) - set(indexes.facts["speeds"])):
        raise ArtifactMismatchError(
            f"codebook-indexes {indexes.path} ({indexes.short_id})",
            expected=f"indexes of every speed trained on ({config.speeds})",
            got=f"none for {missing}",
            next_step="add them to encode-ci.speeds and re-run it: perturbed audio has indexes of its own",
        )
    store = CodebookIndexStore(indexes)

    def build(student: Student) -> DistillationObjective:
        return CodebookObjective(
            lambda cut: store.read(str(cut.id)),
            Fraction(indexes.facts["rate_hz"]),
            hidden_dim=student.config.encoder_dim,
            num_codebooks=int(indexes.facts["num_codebooks"]),
            codebook_size=int(indexes.facts["codebook_size"]),
            delta_frames=config.delta_frames,
        )

    return [data, fitted, indexes], build


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
        embeddings, lengths = teacher.embed([load_audio(cut)])
        return embeddings[0, : int(lengths[0])].cpu().numpy().astype(np.float16)

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


def _normalise_input(student: Student, source: BatchSource) -> None:
    """Set the encoder's feature mean and deviation from the first cuts in id order."""
    cuts = sorted(source.cuts, key=lambda cut: str(cut.id))
    chosen = cuts[:: max(1, len(cuts) // NORMALISATION_CUTS)]
    frames = np.concatenate([source.features(cut) for cut in chosen])
    student.encoder.feature_mean.copy_(torch.from_numpy(frames.mean(axis=0)))
    student.encoder.feature_std.copy_(torch.from_numpy(frames.std(axis=0)).clamp(min=1e-3))


def _copy_tokens(source: Path, target: Path) -> None:
    for name in ("tokens.txt", "bpe.model"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _figures(
    student: Student, objective: DistillationObjective | None, source: BatchSource, state: TrainerState
) -> dict[str, Any]:
    """Numbers of the training run; losses are means over the last rows of the history."""
    last = state.history[-SMOOTHING_ROWS:]
    means = {
        f"final_{name}": float(np.mean([row[name] for row in last]))
        for name in ("loss", "transducer_loss", "ctc_loss", "distillation_loss")
        if last and name in last[0]
    }
    return {
        "num_parameters": student.num_parameters(),
        "num_steps": state.step,
        "num_skipped_batches": state.num_bad_batches,
        "num_cuts": len(source.cuts),
        "train_hours": round(source.total_duration_s / 3600, 4),
        "median_step_s": float(np.median(state.step_times_s)) if state.step_times_s else 0.0,
        **means,
        **({"distillation_chance_level": objective.chance_level} if objective is not None else {}),
    }


def _set_threads(num_threads: int) -> None:
    torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
