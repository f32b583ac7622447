"""Fit a quantizer: gradient steps on its centers and logits, in two phases.

Phase 1 has twice the codebooks with 16 entries each; phase 2 begins by multiplying neighbouring pairs out into
256 entries (each new entry the sum of two) and goes on with a fresh optimizer and a learning rate of its own.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.3. Its learning rates are made for 20,000 steps; in a twentieth of
these they leave the error a quarter higher. The defaults here were measured.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvqkd.artifacts import content_hash
from mvqkd.config import FitQuantizerConfig
from mvqkd.device import bfloat16_is_fast
from mvqkd.errors import DataError
from mvqkd.quantizer.embedding_source import (
    EmbeddingSource,
    EmbeddingStream,
    SourceStatistics,
    TensorSource,
    channel_statistics,
)
from mvqkd.quantizer.fit_phase import Phase, Training, run_phase
from mvqkd.quantizer.fit_state import FitPosition, StateFile
from mvqkd.quantizer.model import Quantizer
from mvqkd.quantizer.report import CurvePoint

SMALL_CODEBOOK_SIZE = 16
# Held-out frames that the error curve is measured on: the same ones each time, so that its points compare.
EVALUATION_FRAMES = 512

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A fitted quantizer and how it came about.

    Attributes:
        quantizer: on the device it was fitted on, without gradients.
        error_curve: held-out error while fitting, at few refine passes; empty without held-out frames.
        steps: taken in each phase.
        stopped_early: a phase ended before its last step because its error no longer fell.
        wall_s, cpu_s: of all runs, where a killed fit went on.
    """

    quantizer: Quantizer
    error_curve: list[CurvePoint]
    steps: list[int]
    stopped_early: bool
    wall_s: float
    cpu_s: float


def fit(
    source: Tensor | EmbeddingStream,
    config: FitQuantizerConfig,
    *,
    device: str | torch.device = "cpu",
    held_out: Tensor | None = None,
    resume_dir: Path | None = None,
) -> Fit:
    """Fit a quantizer to embeddings; equal inputs and thread counts give equal bits.

    Args:
        source: float (B, D), B at least ``config.codebook_size``, or a stream of such blocks; float16 is fine, steps
            convert their batch.
        held_out: float (B', D), to record the error curve on and to stop early by; B' at least 1.
        resume_dir: where checkpoints go; a fit that was killed goes on from the last one and ends with the bits of an
            undisturbed one. Checkpoints of other data or another config are not used. The last one stays.
    Returns:
        The fitted quantizer and its history.
    Raises:
        DataError: too few embeddings, NaN or infinity among them, or blocks that do not fit together.
        TrainingError: a loss is not finite.
    """
    frames: EmbeddingSource = source if isinstance(source, EmbeddingStream) else TensorSource(source)
    statistics = channel_statistics(frames, digest=resume_dir is not None)
    if statistics.count < config.codebook_size:
        raise DataError(
            "teacher embeddings",
            expected=f"at least {config.codebook_size} frames to fit codebooks of {config.codebook_size} entries on",
            got=f"{statistics.count}",
            next_step="raise extract-teacher.num_frames or use more audio",
        )
    phases = _phases(config)
    generator = torch.Generator().manual_seed(config.seed)
    quantizer = _initial(statistics, config, len(phases), generator).to(device)
    training = Training(
        config,
        quantizer,
        frames,
        statistics.count,
        held_out=_evaluation_frames(held_out, quantizer),
        generator=generator,
        dtype=_product_dtype(config.precision, quantizer.mean.device),
        store=None if resume_dir is None else StateFile(resume_dir, _state_key(config, statistics, held_out)),
    )
    _resume(training)
    while training.position.phase <= len(phases):
        run_phase(training, phases[training.position.phase - 1])
        if training.position.phase <= len(phases):
            training.quantizer = multiply_out(training.quantizer, generator=generator)
        training.checkpoint()
    training.note_time()
    position = training.position
    return Fit(
        quantizer=training.quantizer.requires_grad_(False),
        error_curve=position.curve,
        steps=position.steps_taken,
        stopped_early=position.stopped_early,
        wall_s=position.wall_s,
        cpu_s=position.cpu_s,
    )


def multiply_out(quantizer: Quantizer, *, generator: torch.Generator | None = None) -> Quantizer:
    """Merge neighbouring pairs of codebooks: N codebooks of K entries become N/2 of K^2, with equal reconstructions.

    Entry a * K + b of a new codebook is the sum of entry a of the even and entry b of the odd codebook.
    """
    num_codebooks, size = quantizer.num_codebooks // 2, quantizer.codebook_size**2
    merged = Quantizer(
        quantizer.dim, num_codebooks, size, mean=quantizer.mean, std=quantizer.std, generator=generator
    ).to(quantizer.mean.device)

    def pairwise_sums(entries: Tensor) -> Tensor:  # (N, K, ...) -> (N/2, K * K, ...)
        return (entries[0::2].unsqueeze(2) + entries[1::2].unsqueeze(1)).flatten(1, 2)

    shape = (quantizer.num_codebooks, quantizer.codebook_size, -1)
    with torch.no_grad():
        merged.centers.copy_(pairwise_sums(quantizer.centers))
        merged.logits_weight.copy_(pairwise_sums(quantizer.logits_weight.view(shape)).flatten(0, 1))
        merged.logits_bias.copy_(pairwise_sums(quantizer.logits_bias.view(shape)).flatten())
        merged.centers_log_scale.copy_(quantizer.centers_log_scale)
        merged.logits_log_scale.copy_(quantizer.logits_log_scale)
    return merged


def _phases(config: FitQuantizerConfig) -> list[Phase]:
    plan = [(config.phase_1_steps, config.learning_rate)]
    if config.codebook_size > SMALL_CODEBOOK_SIZE:
        plan.append((config.phase_2_steps, config.phase_2_learning_rate))
    return [
        Phase(number, f"fit-quantizer {number}/{len(plan)}", steps, learning_rate)
        for number, (steps, learning_rate) in enumerate(plan, start=1)
    ]


def _initial(
    statistics: SourceStatistics, config: FitQuantizerConfig, num_phases: int, generator: torch.Generator
) -> Quantizer:
    return Quantizer(
        len(statistics.mean),
        config.num_codebooks * num_phases,
        SMALL_CODEBOOK_SIZE,
        mean=statistics.mean,
        std=statistics.std,
        generator=generator,
    )


def _evaluation_frames(held_out: Tensor | None, quantizer: Quantizer) -> Tensor | None:
    """The frames of the error curve, in the codec's own space."""
    if held_out is None:
        return None
    if len(held_out) == 0:
        raise DataError(
            "held-out embeddings",
            expected="at least one frame to measure the error on",
            got="none",
            next_step="raise fit-quantizer.held_out_share, or hold nothing out",
        )
    if channel_statistics(TensorSource(held_out)).mean.shape != quantizer.mean.shape:
        raise DataError(
            "held-out embeddings",
            expected=f"{quantizer.dim} channels, as in the frames to fit on",
            got=f"{held_out.shape[1]}",
            next_step="hold out frames of the same teacher and layer",
        )
    return quantizer.normalize(held_out[:EVALUATION_FRAMES].to(quantizer.mean.device))


def _product_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _state_key(config: FitQuantizerConfig, statistics: SourceStatistics, held_out: Tensor | None) -> str:
    held_out_digest = "" if held_out is None else channel_statistics(TensorSource(held_out), digest=True).digest
    return content_hash([FitPosition.__name__, config.model_dump(mode="json"), statistics.digest, held_out_digest])


def _resume(training: Training) -> None:
    """Go back to the last checkpoint, if there is one that fits."""
    found = training.store.load() if training.store is not None else None
    if found is None:
        return
    training.position, tensors = found

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    config, old = training.config, training.quantizer
    if training.position.phase > 1 and config.codebook_size > SMALL_CODEBOOK_SIZE:
        # The weights come from the checkpoint; only the shape matters here.
        training.quantizer = multiply_out(old, generator=torch.Generator())
    training.quantizer.load_state_dict(part("quantizer."))
    training.generator.set_state(tensors["generator"])
    training.best = part("best.")
    training.restored = {f"adam.{key}": tensor for key, tensor in part("adam.").items()}
