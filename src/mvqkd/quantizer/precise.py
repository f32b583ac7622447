"""Mode "exact" in float64: the judge where two float32 searches differ.

Sums of hundreds of float32 numbers depend on their order. Where two candidates are equal up to that, one search keeps
the one and another search the other, and what they end with may lie far apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvqkd.quantizer.model import LOG_SCALE_SPEED, Quantizer
from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import SearchTables


@torch.no_grad()
def encode_precisely(quantizer: Quantizer, x: Tensor, iterations: int = 5) -> Tensor:
    """What ``Quantizer.encode(x, "exact", iterations)`` would give without rounding; slow.

    Args:
        x: float (B, D); normalised in float32, as encode does, so that both search for the same vectors.
    Returns:
        int64 (B, N).
    """
    normalized = quantizer.normalize(x).double()
    scale = (LOG_SCALE_SPEED * quantizer.logits_log_scale.double()).exp()
    logits = normalized * scale @ quantizer.logits_weight.double().T + quantizer.logits_bias.double()
    first = logits.view(len(x), quantizer.num_codebooks, quantizer.codebook_size).argmax(2)
    tables = _tables(quantizer)
    unary = tables.squared_norm + normalized @ tables.products
    order = torch.arange(quantizer.num_codebooks, device=unary.device)
    return refine_plain(unary, first, tables, iterations, keep_best=False, order=order)


def _tables(quantizer: Quantizer) -> SearchTables:
    size = quantizer.codebook_size
    scale = (LOG_SCALE_SPEED * quantizer.centers_log_scale.double()).exp()
    centers = quantizer.centers.double().flatten(0, 1) * scale
    codebook = torch.arange(len(centers), device=centers.device) // size
    pairwise = (2 * centers @ centers.T).masked_fill(codebook[:, None] == codebook[None], 0.0)
    return SearchTables(-2 * centers.T, centers.square().sum(1), pairwise, quantizer.num_codebooks, size)
