"""The search for codebook indexes: refine passes that never touch the channels.

The squared error of a choice of one entry per codebook is a sum of terms of one and of two entries:

    |x - sum_n c[n, i_n]|^2 = |x|^2 + sum_n u[n, i_n] + sum_{n<m} p[(n, i_n), (m, i_m)]
    u[n, k] = |c[n, k]|^2 - 2 <x, c[n, k]>        one matrix product per block of vectors
    p[a, b] = 2 <c_a, c_b>                        once per quantizer (twice the Gram matrix)

Called energies below (the error without the constant |x|^2). With both tables at hand a refine pass only looks
numbers up. ``refine`` is the interface that a compiled kernel would replace; its arguments hold all it needs.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.2 (the search); the energy form is this project's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Rows of one matrix product: always this many (the last block is padded), so that a vector's energies do not
# depend on how many others came with it.
UNARY_BLOCK = 256
# Vectors refined together: bounds memory (about 150 kB a vector) and amortises the cost of a torch call. On a CPU the
# tables of a block should stay in its cache; a GPU wants far more to do at once.
REFINE_BLOCK = 256
CUDA_BLOCK = 4096


@dataclass(frozen=True)
class SearchTables:
    """What a search needs to know of the centers.

    Shapes: M = num_codebooks * codebook_size entries, entry (n, k) at row n * codebook_size + k.
    Attributes:
        centers: (M, D) effective centers, in the precision of the matrix product with the vectors.
        squared_norm: float32 (M,).
        pairwise: float32 (M, M), 2 <c_a, c_b>; zero where a and b belong to the same codebook, so that a sum of
            the rows of the chosen entries is, for every entry, its interaction with all *other* codebooks.
    """

    centers: Tensor
    squared_norm: Tensor
    pairwise: Tensor
    num_codebooks: int
    codebook_size: int

    @property
    def offsets(self) -> Tensor:
        """int64 (N,): row of each codebook's first entry."""
        return torch.arange(self.num_codebooks, device=self.pairwise.device) * self.codebook_size


def build_tables(centers: Tensor, *, precise: bool = True) -> SearchTables:
    """Precompute the tables of a set of centers.

    Args:
        centers: float (N, K, D).
        precise: take matrix products in float64. The energies are rounded to float32 afterwards, so that the
            order of summation, which depends on batch size and thread count, does not show. Training goes without.
    """
    num_codebooks, codebook_size, dim = centers.shape
    flat = centers.detach().reshape(num_codebooks * codebook_size, dim)
    flat = flat.double() if precise else flat.float()
    pairwise = torch.zeros(
        num_codebooks, codebook_size, num_codebooks, codebook_size, dtype=torch.float32, device=flat.device
    )
    # Only products of different codebooks are needed, and each once.
    for n in range(num_codebooks - 1):
        rest = (flat[n * codebook_size : (n + 1) * codebook_size] @ flat[(n + 1) * codebook_size :].T).mul_(2).float()
        rest = rest.view(codebook_size, num_codebooks - n - 1, codebook_size)
        pairwise[n, :, n + 1 :] = rest
        pairwise[n + 1 :, :, n] = rest.permute(1, 2, 0)
    pairwise = pairwise.flatten(2).flatten(0, 1)
    squared_norm = flat.square().sum(1).float()
    return SearchTables(flat, squared_norm, pairwise, num_codebooks, codebook_size)


def unary_energy(x: Tensor, tables: SearchTables) -> Tensor:
    """Energy of every entry taken alone, |c|^2 - 2 <x, c>.

    Args:
        x: float32 (B, D).
    Returns:
        float32 (B, M).
    """
    out = torch.empty(len(x), len(tables.squared_norm), dtype=torch.float32, device=x.device)
    rows = CUDA_BLOCK if x.is_cuda else UNARY_BLOCK
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        padded = functional.pad(block.to(tables.centers.dtype), (0, 0, 0, rows - len(block)))
        out[start : start + len(block)] = (padded @ tables.centers.T)[: len(block)]
    return out.mul_(-2).add_(tables.squared_norm)


def relative_energy(indexes: Tensor, unary: Tensor, tables: SearchTables) -> Tensor:
    """Squared error of a choice of entries, less |x|^2.

    Args:
        indexes: int64 (B, N).
        unary: float32 (B, M), from ``unary_energy``.
    Returns:
        float32 (B,).
    """
    entries = indexes + tables.offsets
    conditional = unary + functional.embedding_bag(entries, tables.pairwise, mode="sum")
    # Every pair is counted from both of its sides in the conditional energies, hence the mean with the unaries.
    return (conditional.gather(1, entries) + unary.gather(1, entries)).sum(1) / 2


def refine(unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, *, keep_best: bool = True) -> Tensor:
    """Improve codebook indexes by deterministic passes of a tree search.

    A pass may make a vector worse; the best choice seen is returned. A pass that changes nothing ends the
    search of that vector, exactly: every later pass would change nothing either.

    Shapes: B vectors, N codebooks, M entries.
    Args:
        unary: float32 (B, M), from ``unary_energy``.
        indexes: int64 (B, N), where to start, values in [0, codebook_size).
        iterations: passes at most.
        keep_best: False returns the last choice instead of the best, as the public implementation does.
    Returns:
        int64 (B, N).
    """
    if iterations < 1 or len(indexes) == 0 or tables.num_codebooks == 0:
        return indexes.clone()
    rows = CUDA_BLOCK if unary.is_cuda else REFINE_BLOCK
    blocks = zip(torch.split(unary, rows), torch.split(indexes, rows), strict=True)
    return torch.cat([_refine_block(u, i, tables, iterations, keep_best) for u, i in blocks])


def _refine_block(unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, keep_best: bool) -> Tensor:
    best = indexes.clone()
    best_gain = torch.zeros(len(indexes), device=unary.device)
    gain = best_gain.clone()
    active = torch.arange(len(indexes), device=unary.device)
    current = indexes
    for _ in range(iterations):
        proposal, change = refine_pass(unary, current, tables)
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


def refine_pass(unary: Tensor, indexes: Tensor, tables: SearchTables) -> tuple[Tensor, Tensor]:
    """One pass: keep the best entries of each codebook, then merge neighbouring groups of codebooks pairwise.

    The energy of a merged pair of candidates is exact for its own codebooks, the others held at the old indexes;
    after the last merge it is exact.

    Shapes: B vectors, N codebooks, J candidates kept of each codebook, G groups, S candidates of a group, L codebooks
    of a group.
    Returns:
        The proposed indexes, int64 (B, N), and the change of the squared error, float32 (B,), negative if better.
    """
    num_codebooks, codebook_size = tables.num_codebooks, tables.codebook_size
    batch = len(indexes)
    old = indexes + tables.offsets  # (B, N)
    conditional = unary + functional.embedding_bag(old, tables.pairwise, mode="sum")  # (B, M)
    before = conditional.gather(1, old).unsqueeze(2)  # (B, N, 1)
    kept = min(candidates_kept(1, codebook_size), codebook_size)
    # energy: of each candidate of each group, relative to the group's old choice
    energy, chosen = _lowest(conditional.view(batch, num_codebooks, codebook_size), kept)
    energy = energy - before  # (B, G, S)
    entries = chosen + tables.offsets[:, None]  # (B, N, J)
    slots = torch.arange(kept, device=unary.device).expand(batch, num_codebooks, kept).unsqueeze(3)  # (B, G, S, L)
    # with_old[b, n, j, m]: candidate j of codebook n against the old entry of codebook m
    with_old = _look_up(tables.pairwise, entries.reshape(batch, -1), old).view(batch, num_codebooks, kept, -1)
    old_pairs = _look_up(tables.pairwise, old, old)  # (B, N, N)

    groups, length = num_codebooks, 1
    while groups > 1:
        groups //= 2
        # sides: the even and the odd group of each merge, (B, G, 2 sides, L codebooks, J)
        pairs = entries.view(batch, groups, 2, length * kept)
        table = _look_up(tables.pairwise, pairs[:, :, 0].flatten(0, 1), pairs[:, :, 1].flatten(0, 1))  # (B*G, L*J, L*J)
        sides = slots.view(batch, groups, 2, -1, length)  # (B, G, 2, S, L)
        if length > 1:  # a single codebook's candidates are its slots, in order
            table = _sum_rows(table, sides[:, :, 0].flatten(0, 1), kept)  # (B*G, S even, L*J)
            table = _sum_rows(table.transpose(1, 2), sides[:, :, 1].flatten(0, 1), kept)  # (B*G, S odd, S even)
            table = table.transpose(1, 2)
        cross = table.reshape(batch, groups, *table.shape[1:])  # (B, G, S even, S odd)
        # The energies of both sides hold their interaction with the *old* choice of the other: take it out.
        outer = energy.view(batch, groups, 2, -1) - _with_sibling(with_old, slots, groups, length)
        constant = _between_siblings(old_pairs, groups, length)
        merged = outer[:, :, 0, :, None] + outer[:, :, 1, None, :] + cross + constant
        length *= 2
        width = merged.shape[3]
        keep = candidates_kept(length, codebook_size) if groups > 1 else 1
        energy, chosen = _lowest(merged.flatten(2), min(keep, width * merged.shape[2]))
        even, odd = chosen // width, chosen % width  # (B, G, S)
        slots = torch.cat([_take(sides[:, :, 0], even), _take(sides[:, :, 1], odd)], dim=3)
    best = slots.view(batch, num_codebooks, 1) if num_codebooks > 1 else energy.argmin(2, keepdim=True)
    change = energy.flatten(1).amin(1)
    return entries.gather(2, best).squeeze(2) - tables.offsets, change


def candidates_kept(length: int, codebook_size: int) -> int:
    """Candidates kept of a group of ``length`` codebooks: 16, or 8 of small ones, doubled for each fourfold length."""
    kept = 8 if codebook_size <= 16 else 16
    while length >= 4 and kept < 128:
        length //= 4
        kept *= 2
    return kept


def _lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` lowest of float32 (..., M) and their int64 indexes, (..., count) each, in no order."""
    if values.is_cuda:
        return tuple(values.topk(count, largest=False, sorted=False))  # type: ignore[return-value]
    if count == 1:
        lowest = values.min(-1, keepdim=True)
        return lowest.values, lowest.indices
    # numpy partitions whole numbers with vector instructions, three times as fast as topk. A key is the float's bits,
    # turned so that they order like the float, above its index: ties go to the lower index.
    bits = values.contiguous().view(torch.int32)
    keys = torch.empty(*values.shape, 2, dtype=torch.int32)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    keys[..., low] = torch.arange(values.shape[-1], dtype=torch.int32)
    torch.bitwise_xor(bits, (bits >> 31).bitwise_and_(0x7FFFFFFF), out=keys[..., high])
    order = keys.view(torch.int64).squeeze(-1).numpy()
    order.partition(count - 1, axis=-1)
    indexes = torch.from_numpy(order[..., :count]) & 0xFFFFFFFF
    return values.gather(-1, indexes), indexes


def _look_up(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """table[rows[b, i], columns[b, j]] as (B, I, J). index_select is the fastest gather torch has on a CPU."""
    flat = rows.unsqueeze(2) * table.shape[1] + columns.unsqueeze(1)
    return table.view(-1).index_select(0, flat.view(-1)).view(flat.shape)


def _sum_rows(table: Tensor, slots: Tensor, kept: int) -> Tensor:
    """Add up, for every candidate, the rows of the slots that it is made of.

    Args:
        table: (P, L * J, W).
        slots: (P, S, L), slot of each of the candidate's codebooks.
    Returns:
        (P, S, W).
    """
    pairs, rows, width = table.shape
    count, length = slots.shape[1:]
    offsets = torch.arange(pairs, device=table.device)[:, None, None] * rows
    offsets = offsets + torch.arange(length, device=table.device) * kept
    bags = (slots + offsets).view(pairs * count, length)
    return functional.embedding_bag(bags, table.reshape(pairs * rows, width), mode="sum").view(pairs, count, width)


def _take(slots: Tensor, candidates: Tensor) -> Tensor:
    """slots (B, G, S, L) at candidates (B, G, S') as (B, G, S', L)."""
    return slots.gather(2, candidates.unsqueeze(3).expand(-1, -1, -1, slots.shape[3]))


def _with_sibling(with_old: Tensor, slots: Tensor, groups: int, length: int) -> Tensor:
    """Interaction of every group's candidates with the old choice of the group it is merged with, (B, G, 2, S)."""
    batch, num_codebooks, kept, _ = with_old.shape
    codebook = torch.arange(num_codebooks, device=slots.device) // length
    sibling = (codebook[:, None] ^ 1) == codebook[None, :]  # (N, N)
    per_slot = (with_old * sibling[:, None, :]).sum(3).view(batch, 2 * groups, length, kept)
    picked = per_slot.gather(3, slots.view(batch, 2 * groups, -1, length).transpose(2, 3))  # (B, 2G, L, S)
    return picked.sum(2).view(batch, groups, 2, -1)


def _between_siblings(old_pairs: Tensor, groups: int, length: int) -> Tensor:
    """Interaction of the old choices of two merged groups, (B, G, 1, 1)."""
    blocks = old_pairs.view(len(old_pairs), groups, 2, length, groups, 2, length).diagonal(dim1=1, dim2=4)
    return blocks[:, 0, :, 1].sum((1, 2)).view(-1, groups, 1, 1)
