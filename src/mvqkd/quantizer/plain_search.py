"""The refine pass in plain torch: the reference that the compiled kernels are tested against, and their fallback.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.2 (the search); the energy form is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mvqkd.quantizer.tables import CUDA_BLOCK, SearchTables, candidates_kept

# Vectors refined together: bounds memory and amortises the cost of a torch call. On a CPU the tables of a block
# should stay in its cache; a GPU wants far more to do at once.
REFINE_BLOCK = 256


@dataclass(frozen=True)
class Group:
    """Candidates of neighbouring codebooks.

    Attributes:
        energy: float32 (B, S), of every candidate less that of the old choice, the other groups held at theirs.
        entries: int64 (B, S, L), rows of the tables that a candidate is made of.
        old: int64 (B, 1, L), the same of the old choice.
    """

    energy: Tensor
    entries: Tensor
    old: Tensor


def refine_plain(
    unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, *, keep_best: bool, order: Tensor
) -> Tensor:
    """``mvqkd.quantizer.search.refine`` in plain torch, on any device."""
    if len(indexes) == 0:
        return indexes.clone()
    rows = CUDA_BLOCK if unary.is_cuda else REFINE_BLOCK
    blocks = zip(torch.split(unary, rows), torch.split(indexes, rows), strict=True)
    return torch.cat([_refine_block(u, i, tables, iterations, keep_best, order) for u, i in blocks])


def _refine_block(
    unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, keep_best: bool, order: Tensor
) -> Tensor:
    best = indexes.clone()
    best_gain = torch.zeros(len(indexes), dtype=unary.dtype, device=unary.device)
    gain = best_gain.clone()
    active = torch.arange(len(indexes), device=unary.device)
    current = indexes
    for _ in range(iterations):
        proposal, change = refine_pass(unary, current, tables, order)
        moved = (proposal != current).any(1)
        if not bool(moved.all()):
            active, unary, proposal, change, gain = (t[moved] for t in (active, unary, proposal, change, gain))
        if len(active) == 0:
            break
        gain = gain + change
        better = gain < best_gain[active] if keep_best else torch.ones_like(gain, dtype=torch.bool)
        best[active[better]] = proposal[better]
        best_gain[active[better]] = gain[better]
        current = proposal
    return best


def refine_pass(unary: Tensor, indexes: Tensor, tables: SearchTables, order: Tensor) -> tuple[Tensor, Tensor]:
    """One pass: keep the best entries of each codebook, then merge neighbouring groups of codebooks pairwise.

    The energy of a merged pair of candidates is exact for its own codebooks, the others held at the old indexes;
    after the last merge it is exact. An odd group at the end goes up one level as it is.

    Shapes: B vectors, N codebooks, M entries.
    Args:
        unary: float32 (B, M).
        indexes: int64 (B, N), the old choice.
        order: int64 (N,), a permutation of the codebooks; its neighbours are merged.
    Returns:
        The proposed indexes, int64 (B, N), and the change of the squared error, float32 (B,), negative if better.
    """
    size = tables.codebook_size
    old = indexes + tables.offsets  # (B, N)
    conditional = unary + functional.embedding_bag(old, tables.pairwise, mode="sum")  # (B, M)
    groups = []
    for n in order.tolist():
        energy, chosen = _lowest(conditional[:, n * size : (n + 1) * size], candidates_kept(1, size))
        before = conditional.gather(1, old[:, n : n + 1])
        groups.append(Group(energy - before, (chosen + n * size).unsqueeze(2), old[:, None, n : n + 1]))
    while len(groups) > 1:
        pairs = zip(groups[0::2], groups[1::2], strict=False)
        merged = [_merge(even, odd, tables, last=len(groups) == 2) for even, odd in pairs]
        groups = merged + groups[len(groups) - len(groups) % 2 :]
    energy, chosen = _lowest(groups[0].energy, 1)
    entries = groups[0].entries[torch.arange(len(indexes), device=unary.device), chosen[:, 0]]  # (B, N), as ordered
    proposal = torch.empty_like(indexes).index_copy_(1, order, entries - tables.offsets[order])
    return proposal, energy[:, 0]


def _merge(even: Group, odd: Group, tables: SearchTables, *, last: bool) -> Group:
    """All pairs of candidates of two groups, cut to the best.

    The energies of both sides hold their interaction with the *old* choice of the other: it is taken out.
    """
    pairwise = tables.pairwise
    energy = even.energy.unsqueeze(2) + odd.energy.unsqueeze(1) + _interaction(pairwise, even.entries, odd.entries)
    energy -= _interaction(pairwise, even.entries, odd.old) + _interaction(pairwise, even.old, odd.entries)
    energy += _interaction(pairwise, even.old, odd.old)  # (B, S even, S odd)
    old = torch.cat([even.old, odd.old], dim=2)
    keep = 1 if last else candidates_kept(old.shape[2], tables.codebook_size)
    kept_energy, chosen = _lowest(energy.flatten(1), keep)
    width = odd.energy.shape[1]
    entries = torch.cat([_take(even.entries, chosen // width), _take(odd.entries, chosen % width)], dim=2)
    return Group(kept_energy, entries, old)


def _interaction(pairwise: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum of the pairwise energies between the entries of candidates (B, S, L) and (B, T, L'), as (B, S, T)."""
    total = torch.zeros(len(a), a.shape[1], b.shape[1], device=pairwise.device)
    for left in a.unbind(2):
        for right in b.unbind(2):
            flat = left.unsqueeze(2) * pairwise.shape[1] + right.unsqueeze(1)
            total += pairwise.view(-1).index_select(0, flat.flatten()).view_as(flat)
    return total


def _lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` lowest of float32 (B, S) and their int64 indexes, (B, count) each; all where there are fewer."""
    lowest = values.topk(min(count, values.shape[1]), largest=False)
    return lowest.values, lowest.indices


def _take(entries: Tensor, candidates: Tensor) -> Tensor:
    """entries (B, S, L) at candidates (B, S') as (B, S', L)."""
    return entries.gather(1, candidates.unsqueeze(2).expand(-1, -1, entries.shape[2]))
