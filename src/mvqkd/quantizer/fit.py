"""Fit a quantizer: gradient steps on its centers and logits, in two phases.

Phase 1 has twice the codebooks with 16 entries each; phase 2 begins by multiplying neighbouring pairs out into
256 entries (each new entry the sum of two) and goes on with a fresh optimizer and a learning rate of its own.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.3. Its learning rates are made for 20,000 steps; in a twentieth of
these they leave the error a quarter higher. The defaults here were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import DataError, TrainingError
from mvqkd.progress import track
from mvqkd.quantizer.model import Quantizer
from mvqkd.quantizer.search import refine
from mvqkd.quantizer.tables import SearchTables, build_tables, unary_energy

SMALL_CODEBOOK_SIZE = 16
ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-9
WEIGHT_DECAY = 1e-6
# The indexes to learn from are searched with centers up to so many steps old: their products cost a third of a step
# otherwise. Measured: no difference in the error.
TABLES_LIFETIME_STEPS = 4
# A channel that varies less than this share of its magnitude is rounding noise around a constant.
CONSTANT_CHANNEL = 1e-5


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: squared error relative to the variance, cross-entropy (nats), entropy deficit (0..1)."""

    reconstruction: Tensor
    logprob: Tensor
    entropy_deficit: Tensor


def fit(embeddings: Tensor, config: FitQuantizerConfig, *, device: str | torch.device = "cpu") -> Quantizer:
    """Fit a quantizer to embeddings; equal inputs and thread counts give equal bits.

    Args:
        embeddings: float (B, D), B at least ``config.codebook_size``; float16 is fine, steps convert their batch.
    Returns:
        The fitted quantizer, on ``device``.
    Raises:
        DataError: too few embeddings, or NaN or infinity among them.
        TrainingError: a loss is not finite.
    """
    _check_embeddings(embeddings, config.codebook_size)
    generator = torch.Generator().manual_seed(config.seed)
    mean, std = channel_statistics(embeddings)
    two_phases = config.codebook_size > SMALL_CODEBOOK_SIZE
    quantizer = Quantizer(
        embeddings.shape[1],
        config.num_codebooks * (2 if two_phases else 1),
        SMALL_CODEBOOK_SIZE,
        mean=mean,
        std=std,
        generator=generator,
    ).to(device)
    phases = [(config.phase_1_steps, config.learning_rate)]
    if two_phases:
        phases.append((config.phase_2_steps, config.phase_2_learning_rate))
    for number, (steps, learning_rate) in enumerate(phases, start=1):
        if number == 2:
            quantizer = multiply_out(quantizer, generator=generator)
        _run_phase(
            quantizer, embeddings, config, steps, learning_rate, generator, f"fit-quantizer {number}/{len(phases)}"
        )
    return quantizer.requires_grad_(False)


def channel_statistics(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, float32 (D,) each; a constant channel's deviation is exactly 0.

    Args:
        embeddings: float (B, D).
    """
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64)
    for block in torch.split(embeddings, 16_384):
        total += block.double().sum(0)
    mean = total / len(embeddings)
    squares = torch.zeros_like(total)
    for block in torch.split(embeddings, 16_384):
        squares += (block.double() - mean).square().sum(0)
    std = (squares / len(embeddings)).sqrt()
    constant = std <= CONSTANT_CHANNEL * mean.abs()
    return mean.float(), std.masked_fill(constant, 0.0).float()


def step_losses(quantizer: Quantizer, normalized: Tensor, tables: SearchTables, passes: int) -> StepLosses:
    """Losses of a batch.

    The reconstruction loss has gradients for the centers only, the other two for the logits only.

    Args:
        normalized: float32 (B, D), in the codec's own space.
        tables: of the quantizer's centers, or of what they were a few steps ago.
        passes: refine passes that find the indexes to learn from.
    """
    logits = quantizer.logits(normalized)
    with torch.no_grad():
        indexes = refine(unary_energy(normalized, tables), logits.argmax(2), tables, passes)
    error = (normalized - quantizer.sum_of_centers(indexes)).square().sum()
    variation = (normalized - normalized.mean(0)).square().sum()
    log_probs = logits.log_softmax(2)
    logprob = functional.nll_loss(log_probs.flatten(0, 1), indexes.flatten())
    mean_probs = log_probs.exp().mean(0)  # (N, K)
    entropy = -(mean_probs * mean_probs.clamp(min=1e-20).log()).sum(1)
    deficit = 1 - entropy.mean() / math.log(quantizer.codebook_size)
    # Normalised channels have a variation near 1 each; of constant channels only, it is 0 and the error counts as is.
    return StepLosses(error / variation.clamp(min=1e-6 * normalized.numel()), logprob, deficit)


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


def _run_phase(
    quantizer: Quantizer,
    embeddings: Tensor,
    config: FitQuantizerConfig,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    name: str,
) -> None:
    optimizer = torch.optim.Adam(
        quantizer.parameters(), lr=learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
    device = quantizer.mean.device
    batches = _batches(len(embeddings), config.batch_size, steps, generator)
    for step, rows in enumerate(track(batches, name, total=steps, unit="step")):
        passes = 1 + int(torch.randint(0, 2, (), generator=generator))
        if step % TABLES_LIFETIME_STEPS == 0:
            tables = build_tables(quantizer.effective_centers(), precise=False)
        losses = step_losses(quantizer, quantizer.normalize(embeddings[rows].to(device)), tables, passes)
        loss = losses.reconstruction + losses.logprob + config.entropy_scale * losses.entropy_deficit
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"{name}, step {step + 1}",
                expected="a finite loss",
                got=f"reconstruction {losses.reconstruction.item():g}, logprob {losses.logprob.item():g}",
                next_step="lower fit-quantizer.learning_rate",
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def _batches(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each step: a fresh permutation an epoch, the last short batch dropped; all rows if there are few."""
    order = torch.empty(0, dtype=torch.long)
    size = min(batch_size, count)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count, generator=generator)
        yield order[:size]
        order = order[size:]


def _check_embeddings(embeddings: Tensor, codebook_size: int) -> None:
    if embeddings.dim() != 2 or not embeddings.is_floating_point():
        raise DataError(
            "teacher embeddings",
            expected="float embeddings of shape (B, D)",
            got=f"{embeddings.dtype} {tuple(embeddings.shape)}",
            next_step="re-run extract-teacher",
        )
    if len(embeddings) < codebook_size:
        raise DataError(
            "teacher embeddings",
            expected=f"at least {codebook_size} frames to fit codebooks of {codebook_size} entries on",
            got=f"{len(embeddings)}",
            next_step="raise extract-teacher.num_frames or use more audio",
        )
    for start in range(0, len(embeddings), 16_384):
        finite = embeddings[start : start + 16_384].isfinite().all(1)
        if not bool(finite.all()):
            raise DataError(
                f"teacher embeddings, frame {start + int((~finite).nonzero()[0])}",
                expected="finite numbers",
                got="NaN or infinity",
                next_step="check the teacher and the audio, then re-run extract-teacher",
            )
