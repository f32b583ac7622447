"""The codebook loss without its logits: their products, softmax and gradients in one go.

Autograd keeps the logits of every frame in float32, their logarithms and the gradients of both, and reads each from
memory again: on a CPU that takes longer than the matrix products. Here the logits become their own gradients, block by
block in the cache, while they are computed. The gradients are ready before the backward pass, which only scales them.

Shapes: F frames, H hidden channels, K codebooks, C entries a codebook.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits that are in float32 at a time: half a megabyte stays in a core's cache; a GPU wants more work at once.
BLOCK_LOGITS = {"cpu": 2**17}
BLOCK_LOGITS_ELSEWHERE = 2**24


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, indexes: Tensor) -> Tensor:
    """Mean cross-entropy of the indexes, given logits ``hidden @ weight.T + bias``.

    Equal to ``cross_entropy(linear(hidden, weight, bias).float())`` up to rounding, but that a single index counts 87
    nats at most, where float32 has no smaller probability; its gradient is not cut. Not differentiable twice.

    Args:
        hidden: (F, H); F at least 1.
        weight, bias: (K * C, H) and (K * C,).
        indexes: int64 (F, K), each in 0 .. C - 1.
    Returns:
        float32 scalar.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, indexes, dtype)  # type: ignore[no-untyped-call]  # as autograd.Function is
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, indexes: Tensor, dtype: torch.dtype) -> Tensor:
        factors, weights = hidden.to(dtype), weight.to(dtype)
        logits = torch.addmm(bias.to(dtype), factors, weights.T)
        summed = _into_gradients(logits.view(indexes.numel(), -1), indexes.reshape(-1, 1))
        scale = 1 / indexes.numel()
        if any(ctx.needs_input_grad):
            gradients = logits
            ctx.save_for_backward(
                (gradients @ weights).to(hidden.dtype) * scale,
                (gradients.T @ factors).to(weight.dtype) * scale,
                gradients.sum(0, dtype=torch.float32).to(bias.dtype) * scale,
            )
        return summed * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * grads[0] for gradient in ctx.saved_tensors), None, None


def _into_gradients(logits: Tensor, indexes: Tensor) -> Tensor:
    """Overwrite logits (F * K, C) by the gradients of their summed cross-entropy; returns that sum, float32."""
    num_logits = BLOCK_LOGITS.get(logits.device.type, BLOCK_LOGITS_ELSEWHERE)
    rows = max(1, num_logits // logits.size(1))
    smallest = torch.finfo(torch.float32).tiny
    summed = torch.zeros((), device=logits.device)
    for block, wanted in zip(torch.split(logits, rows), torch.split(indexes, rows), strict=True):
        probabilities = block.softmax(1, dtype=torch.float32)
        of_wanted = probabilities.gather(1, wanted)
        summed -= of_wanted.clamp(min=smallest).log().sum()
        probabilities.scatter_(1, wanted, of_wanted - 1)
        block.copy_(probabilities)
    return summed
