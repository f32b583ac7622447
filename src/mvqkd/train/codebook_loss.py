"""The codebook loss without its logits: their products, softmax and gradients in one go.

Autograd keeps the logits of every frame in float32, their logarithms and the gradients of both, and reads each from
memory again: on a CPU that takes longer than the matrix products. Here the logits of a block of frames become their own
gradients in the cache and are gone before the next block. The backward pass only scales what is ready by then.

Shapes: F frames, H hidden channels, K codebooks, C entries a codebook.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits that exist at a time: products want many, and two megabytes still are near a core.
BLOCK_LOGITS = 2**20
# Those of them that are in float32: half a megabyte. A GPU takes a block at once.
SOFTMAX_LOGITS = {"cpu": 2**17}


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
        factors, weights, biases = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
        of_hidden, of_weight, of_bias = torch.empty_like(factors), torch.zeros_like(weight), torch.zeros_like(bias)
        summed = torch.zeros((), device=hidden.device)
        frames = max(1, BLOCK_LOGITS // len(weight))
        for start in range(0, len(factors), frames):
            block = slice(start, start + frames)
            logits = torch.addmm(biases, factors[block], weights.T)
            summed += _into_gradients(logits.view(indexes[block].numel(), -1), indexes[block].reshape(-1, 1))
            if any(ctx.needs_input_grad):
                torch.mm(logits, weights, out=of_hidden[block])
                of_weight += logits.T @ factors[block]
                of_bias += logits.sum(0, dtype=torch.float32)
        scale = 1 / indexes.numel()
        ctx.save_for_backward(of_hidden.to(hidden.dtype).mul_(scale), of_weight.mul_(scale), of_bias.mul_(scale))
        return summed * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(gradient * grads[0] for gradient in ctx.saved_tensors), None, None


def _into_gradients(logits: Tensor, indexes: Tensor) -> Tensor:
    """Overwrite logits (B, C) by the gradients of their summed cross-entropy; returns that sum, float32."""
    rows = max(1, SOFTMAX_LOGITS.get(logits.device.type, logits.numel()) // logits.size(1))
    smallest = torch.finfo(torch.float32).tiny
    summed = torch.zeros((), device=logits.device)
    for part, wanted in zip(torch.split(logits, rows), torch.split(indexes, rows), strict=True):
        probabilities = part.softmax(1, dtype=torch.float32)
        of_wanted = probabilities.gather(1, wanted)
        summed -= of_wanted.clamp(min=smallest).log().sum()
        probabilities.scatter_(1, wanted, of_wanted - 1)
        part.copy_(probabilities)
    return summed
