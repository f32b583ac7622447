"""The stage train-student: artifacts in, a student checkpoint out."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.data.batches import BatchSource
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.sources import DEV, TRAIN, UNTRANSCRIBED
from mvqkd.data.tokens import Tokens
from mvqkd.device import resolve_device
from mvqkd.errors import ConfigError
from mvqkd.student.checkpoint import save_student, student_facts
from mvqkd.student.model import Student
from mvqkd.train.distillation import DistillationObjective
from mvqkd.train.distributed import Ranks, join_ranks
from mvqkd.train.loop import Trainer
from mvqkd.train.objectives import objective_of
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
    on_row: Callable[[Mapping[str, float]], None] | None = None,
) -> Artifact:
    """Train a student on the ``train`` split; resumes where a killed run with the same inputs stopped.

    Started as one of several ranks (see ``mvqkd.train.distributed``) it trains together with the others, which may be
    more or fewer than the killed run had. Rank 0 alone writes; all return the artifact.

    Args:
        codebook_indexes, quantizer: needed by the objective mvq; the indexes must be of this quantizer and data.
        teacher_embeddings: needed by l1, l2, and mvq with ``ci_source: teacher``: its teacher runs beside the student.
        on_row: is given every row of the training history as it is made.
    Raises:
        ConfigError, ArtifactError, FrameAlignmentError, TrainingError.
    """
    with join_ranks(resolve_device(config.device)) as (ranks, device):
        _set_threads(config.num_threads, ranks)
        manifest = load_artifact(data, "cut-manifest")
        parents, build_objective = objective_of(
            config, manifest, quantizer, codebook_indexes, teacher_embeddings, device
        )
        tokens = Tokens.load(manifest.path)
        source = BatchSource(
            speed_copies(load_cuts(manifest, TRAIN), config.speeds),
            tokens,
            batch_duration_s=config.batch_duration_s,
            seed=config.seed,
            untranscribed=_untranscribed(config, manifest),
            untranscribed_ratio=config.untranscribed_ratio,
        )
        if source.num_dropped and ranks.is_main:
            _LOG.info("train-student: %d cuts left out: their symbols do not fit into their frames", source.num_dropped)
        dev = _dev_source(config, manifest, tokens) if config.early_stop_epochs else None

        torch.manual_seed(config.seed)
        student = Student(config.model, tokens.vocab_size)
        _normalise_input(student, source)
        objective = build_objective(student)
        partial = _partial(config, out, parents) if ranks.is_main else None
        directory = partial.path if partial is not None else None
        trainer = Trainer(config, student, objective, source, directory, device, ranks=ranks, dev=dev, on_row=on_row)
        weights, state = trainer.run()
        artifact = None
        if partial is not None:
            save_student(student, partial.path, weights)
            _copy_tokens(manifest.path, partial.path)
            facts = {
                **student_facts(student),
                "objective": config.objective,
                "text_normalizer": manifest.facts["text_normalizer"],
                "token_type": manifest.facts["token_type"],
                **_taught_by(parents),
            }
            artifact = partial.commit(facts=facts, figures=_figures(student, objective, source, state))
        return cast(Artifact, ranks.share(artifact))


def _taught_by(parents: list[Artifact]) -> dict[str, Any]:
    """The teacher behind an objective, for whoever reads the student's card; nothing without distillation."""
    named = {"teacher_id": "teacher_id", "teacher_licence": "teacher_licence", "layer": "teacher_layer"}
    for parent in reversed(parents):
        if "teacher_id" in parent.facts:
            return {name: parent.facts[fact] for fact, name in named.items() if fact in parent.facts}
    return {}


def _untranscribed(config: TrainStudentConfig, data: Artifact) -> Any:
    if not config.untranscribed_ratio:
        return ()
    if config.objective == "none":
        raise ConfigError(
            "train-student.untranscribed_ratio",
            expected="0 with the objective none: speech without text teaches by distillation alone",
            got=f"{config.untranscribed_ratio:g}",
            next_step="set it to 0, or choose --objective mvq",
        )
    return speed_copies(load_cuts(data, UNTRANSCRIBED), config.speeds)


def _partial(config: TrainStudentConfig, out: Path, parents: list[Artifact]) -> PartialArtifact:
    return PartialArtifact(
        out, "student-checkpoint", stage="train-student", config=config.model_dump(mode="json"), parents=parents
    )


def _dev_source(config: TrainStudentConfig, data: Artifact, tokens: Tokens) -> BatchSource:
    """Batches of the dev split, which decides when training ends."""
    if not data.facts["splits"].get(DEV):
        raise ConfigError(
            "train-student.early_stop_epochs",
            expected=f"data with a split {DEV}",
            got=f"the splits {', '.join(sorted(data.facts['splits']))}",
            next_step="set prepare-data.dev_share above 0 and run prepare-data again, or leave early_stop_epochs 0",
        )
    return BatchSource(load_cuts(data, DEV), tokens, batch_duration_s=config.batch_duration_s, seed=config.seed)


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
    # A row of a skipped step has no losses.
    last = [row for row in state.history if "loss" in row][-SMOOTHING_ROWS:]
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
        "data_wait_share": round(state.data_wait_share, 4),
        "audio_s_per_s": round(state.audio_s_per_s, 2),
        **means,
        **({"distillation_chance_level": objective.chance_level} if objective is not None else {}),
    }


def _set_threads(num_threads: int, ranks: Ranks) -> None:
    torch.set_num_threads(num_threads or max(1, len(os.sched_getaffinity(0)) // ranks.local_size))
