"""The search for codebook indexes: one interface over a compiled kernel, a GPU kernel and plain torch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import SearchTables

SearchMode = Literal["exact", "best", "fast"]
FAST_PASSES = 2


def search(unary: Tensor, first: Tensor, tables: SearchTables, mode: SearchMode, iterations: int) -> Tensor:
    """Codebook indexes of vectors whose energies are known.

    Args:
        unary: float32 (B, M), from ``unary_energy``.
        first: int64 (B, N), the choice of the logits.
        mode: see ``Quantizer.encode``.
        iterations: refine passes.
    Returns:
        int64 (B, N).
    """
    if mode not in get_args(SearchMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(SearchMode))}, got {mode!r}")
    if mode == "fast":
        return refine(unary, first, tables, min(iterations, FAST_PASSES))
    return refine(unary, first, tables, iterations, keep_best=mode == "best")


def refine(
    unary: Tensor,
    indexes: Tensor,
    tables: SearchTables,
    iterations: int,
    *,
    keep_best: bool = True,
    order: Tensor | None = None,
) -> Tensor:
    """Improve codebook indexes by deterministic passes of a tree search.

    A pass may make a vector worse; the best choice seen is returned. A pass that changes nothing ends the
    search of that vector, exactly: every later pass would change nothing either.

    Shapes: B vectors, N codebooks, M entries.
    Args:
        unary: float32 (B, M), from ``unary_energy``.
        indexes: int64 (B, N), where to start, values in [0, codebook_size).
        iterations: passes at most.
        keep_best: False returns the last choice instead of the best, as the public implementation does.
        order: int64 (N,), a permutation of the codebooks; the tree merges its neighbours. Default: as they are.
    Returns:
        int64 (B, N).
    """
    if order is None:
        order = torch.arange(tables.num_codebooks, device=unary.device)
    if iterations < 1 or len(indexes) == 0:
        return indexes.clone()
    return refine_plain(unary, indexes, tables, iterations, keep_best=keep_best, order=order)
