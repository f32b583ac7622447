"""The search for codebook indexes: one interface over a compiled kernel, a GPU kernel and plain torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import LANES, SearchTables, relative_energy

_LOG = logging.getLogger(__name__)
SearchMode = Literal["exact", "best", "fast"]
FAST_PASSES = 2
# "best" goes on from where the passes end: rounds, each with half of the codebooks set to arbitrary entries, another
# pairing, and so many passes. Further rounds gain ever less.
BEST_ROUNDS = 6
BEST_PASSES = 3


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
    if mode == "exact":
        return refine(unary, first, tables, iterations, keep_best=False)
    return _search_on(unary, refine(unary, first, tables, iterations), tables)


def _search_on(unary: Tensor, best: Tensor, tables: SearchTables) -> Tensor:
    """Leave local minima: refine again from arbitrary starts near the best choice, keep what is better.

    The starts are the same for every vector, so a result does not depend on the others in the batch.
    """
    num_codebooks, device = tables.num_codebooks, unary.device
    generator = torch.Generator().manual_seed(0)
    energy = relative_energy(best, unary, tables)
    for _ in range(BEST_ROUNDS):
        order = torch.randperm(num_codebooks, generator=generator)
        entries = torch.randint(0, tables.codebook_size, (num_codebooks,), generator=generator)
        replaced = torch.randperm(num_codebooks, generator=generator) < (num_codebooks + 1) // 2
        start = torch.where(replaced.to(device), entries.to(device), best)
        found = refine(unary, start, tables, BEST_PASSES, order=order.to(device))
        found_energy = relative_energy(found, unary, tables)
        better = found_energy < energy
        best = torch.where(better.unsqueeze(1), found, best)
        energy = torch.where(better, found_energy, energy)
    return best


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
    return _backend(tables)(unary, indexes, tables, iterations, keep_best=keep_best, order=order)


def _backend(tables: SearchTables) -> Callable[..., Tensor]:
    """The fastest search that there is for these tables. Imports are local: a compiler takes a second to load."""
    device = tables.pairwise.device
    if device.type == "cpu" and tables.codebook_size % LANES == 0:
        from mvqkd.quantizer.compiled_search import refine_compiled

        return refine_compiled
    if device.type == "cuda" and _triton_works(device, tables):
        from mvqkd.quantizer.triton_search import refine_triton

        return refine_triton
    return refine_plain


_TRITON_WORKS: dict[torch.device, bool] = {}


def _triton_works(device: torch.device, tables: SearchTables) -> bool:
    """Whether the kernels agree with plain torch on this device: asked once, with the first tables that come."""
    if device not in _TRITON_WORKS:
        trouble = _trouble_with_triton(device, tables)
        if trouble is not None:
            _LOG.warning("%s: the search for codebook indexes runs in plain torch, slower: %s", device, trouble)
        _TRITON_WORKS[device] = trouble is None
    return _TRITON_WORKS[device]


def _trouble_with_triton(device: torch.device, tables: SearchTables) -> str | None:
    from mvqkd.quantizer.triton_search import agrees_with_plain, triton_available

    if not triton_available():
        return "triton is not installed"
    try:
        agrees = agrees_with_plain(tables, device)
    except Exception as error:  # whatever its compiler meets on a machine that was not foreseen
        return f"triton failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None if agrees else "triton's kernels give other indexes on this device"
