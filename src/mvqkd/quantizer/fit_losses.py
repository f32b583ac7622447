"""The losses of a fit's step, and the matrix products that most of its time went to.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mvqkd.quantizer.model import LOG_SCALE_SPEED, Quantizer
from mvqkd.quantizer.search import refine
from mvqkd.quantizer.tables import SearchTables, build_tables, unary_energy


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step: squared error relative to the variance, cross-entropy (nats), entropy deficit (0..1)."""

    reconstruction: Tensor
    logprob: Tensor
    entropy_deficit: Tensor

    def total(self, entropy_scale: float) -> Tensor:
        return self.reconstruction + self.logprob + entropy_scale * self.entropy_deficit


def step_losses(
    quantizer: Quantizer, normalized: Tensor, tables: SearchTables, passes: int, dtype: torch.dtype = torch.float32
) -> StepLosses:
    """Losses of a batch.

    The reconstruction loss has gradients for the centers only, the other two for the logits only.

    Args:
        normalized: float32 (B, D), in the codec's own space.
        tables: of the quantizer's centers, or of what they were a few steps ago.
        passes: refine passes that find the indexes to learn from.
        dtype: of the factors of the logits' products; the search takes float32.
    """
    logits = _logits(quantizer, normalized.to(dtype))
    with torch.no_grad():
        # The last choice, not the best seen: a pass that loses a little teaches choices that later passes gain from.
        # Measured: 2 to 3 % lower error at the end.
        indexes = refine(unary_energy(normalized, tables), logits.argmax(2), tables, passes, keep_best=False)
    error = (normalized - _decode(quantizer, indexes)).square().sum()
    variation = (normalized - normalized.mean(0)).square().sum()
    log_probs = logits.log_softmax(2)
    logprob = functional.nll_loss(log_probs.flatten(0, 1), indexes.flatten())
    mean_probs = log_probs.exp().mean(0)  # (N, K)
    entropy = -(mean_probs * mean_probs.clamp(min=1e-20).log()).sum(1)
    deficit = 1 - entropy.mean() / math.log(quantizer.codebook_size)
    # Normalised channels have a variation near 1 each; of constant channels only, it is 0 and the error counts as is.
    return StepLosses(error / variation.clamp(min=1e-6 * normalized.numel()), logprob, deficit)


def held_out_error(quantizer: Quantizer, normalized: Tensor, passes: int, dtype: torch.dtype = torch.float32) -> float:
    """Relative error of float32 (B, D) in the codec's own space, found as cheaply as a step finds its indexes."""
    with torch.no_grad():
        tables = build_tables(quantizer.effective_centers(), precise=False)
        first = _logits(quantizer, normalized.to(dtype)).argmax(2)
        indexes = refine(unary_energy(normalized, tables), first, tables, passes, keep_best=False)
        error = (normalized - _decode(quantizer, indexes)).double().square().sum()
        variation = (normalized - normalized.mean(0)).double().square().sum()
        return float(error / variation) if variation > 0 else float(error)


def _logits(quantizer: Quantizer, x: Tensor) -> Tensor:
    """``Quantizer.logits`` of (B, D) with a gradient for the weights only, and that from one product."""
    product: Tensor = _Product.apply(x, quantizer.logits_weight)  # type: ignore[no-untyped-call]  # as autograd.Function is
    scale = (LOG_SCALE_SPEED * quantizer.logits_log_scale).exp()
    logits = torch.addcmul(quantizer.logits_bias, product, scale)
    return logits.view(-1, quantizer.num_codebooks, quantizer.codebook_size)


def _decode(quantizer: Quantizer, indexes: Tensor) -> Tensor:
    """``Quantizer.sum_of_centers``, scaled after the sum: a gradient of (B, D) instead of all centers."""
    offsets = torch.arange(quantizer.num_codebooks, device=indexes.device) * quantizer.codebook_size
    total = functional.embedding_bag(indexes + offsets, quantizer.centers.flatten(0, 1), mode="sum")
    return total * (LOG_SCALE_SPEED * quantizer.centers_log_scale).exp()


class _Product(torch.autograd.Function):
    """x @ weight.T as float32, from factors in the dtype of x; x has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x @ weight.to(x.dtype).T).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, (grads[0].to(x.dtype).T @ x).float()
