"""How good a quantizer is: error on held-out embeddings, use of its entries, bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mvqkd.quantizer.model import Quantizer

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class QuantizerReport:
    """Figures of a quantizer.

    Attributes:
        relative_error: sum |x - decode(encode(x))|^2 / sum |x - mean|^2 over held-out frames, channels normalised.
        relative_error_teacher_space: the same with the channels as the teacher gives them.
        relative_error_by_iteration: after 0, 1, ... refine passes; the last one is ``relative_error``.
        held_out_frames: frames that the errors were measured on.
        entropy: bits of every codebook's indexes; at most log2(codebook_size).
        used_entries: entries of every codebook that some frame chose.
        dead_entries: entries that no frame chose, in all codebooks together.
        usage_frames: frames that entropy and use were measured on.
        bytes_per_frame: of packed indexes.
        compression_ratio: bytes of a float32 embedding over bytes_per_frame.
    """

    relative_error: float
    relative_error_teacher_space: float
    relative_error_by_iteration: list[float]
    held_out_frames: int
    entropy: list[float]
    used_entries: list[int]
    dead_entries: int
    usage_frames: int
    bytes_per_frame: int
    compression_ratio: float


def report(quantizer: Quantizer, held_out: Tensor, usage: Tensor, iterations: int) -> QuantizerReport:
    """Measure a quantizer.

    Args:
        held_out: float (B, D), B at least 1; frames that the quantizer was not fitted on.
        usage: float (B', D), frames to measure the use of entries on, besides ``held_out``.
        iterations: refine passes at encoding.
    """
    held_out = held_out.float().to(quantizer.mean.device)
    by_iteration = [quantizer.encode(held_out, iterations=count) for count in range(iterations + 1)]
    normalized = quantizer.normalize(held_out)
    errors = [relative_error(normalized, quantizer.normalize(quantizer.decode(indexes))) for indexes in by_iteration]
    counts = count_entries(
        quantizer, torch.cat([by_iteration[-1], quantizer.encode(usage.float(), iterations=iterations)])
    )
    used = (counts > 0).sum(1)
    return QuantizerReport(
        relative_error=errors[-1],
        relative_error_teacher_space=relative_error(held_out, quantizer.decode(by_iteration[-1])),
        relative_error_by_iteration=errors,
        held_out_frames=len(held_out),
        entropy=[round(bits, 4) for bits in entropy_bits(counts)],
        used_entries=used.tolist(),
        dead_entries=int(counts.numel() - used.sum()),
        usage_frames=len(held_out) + len(usage),
        bytes_per_frame=quantizer.bytes_per_frame,
        compression_ratio=FLOAT32_BYTES * quantizer.dim / quantizer.bytes_per_frame,
    )


def relative_error(x: Tensor, reconstruction: Tensor) -> float:
    """sum |x - reconstruction|^2 / sum |x - mean|^2 of float (B, D); 0 where there is neither error nor variation."""
    error = (x - reconstruction).double().square().sum()
    variation = (x - x.mean(0)).double().square().sum()
    if variation == 0:
        return 0.0 if error == 0 else float(error)
    return round(float(error / variation), 6)


def count_entries(quantizer: Quantizer, indexes: Tensor) -> Tensor:
    """int64 (N, K): how often each entry occurs in uint8 (B, N)."""
    counts = torch.zeros(quantizer.num_codebooks, quantizer.codebook_size, dtype=torch.long, device=indexes.device)
    rows = indexes.long().T
    return counts.scatter_add_(1, rows, torch.ones_like(rows)).cpu()


def entropy_bits(counts: Tensor) -> list[float]:
    """Entropy in bits of every row of int64 (N, K)."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return [float(bits) for bits in torch.special.entr(shares).sum(1) / torch.log(torch.tensor(2.0)).double()]
