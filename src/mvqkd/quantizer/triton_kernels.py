"""Triton kernels of a refine pass. Imported on first use only: triton comes with a CUDA build of torch.

Notation: b vector, p place in the order of merging, n codebook, m old choices. A group covers neighbouring places;
its candidates are an energy each and, for every place, an index within that place's codebook.

Every program works for one vector, and the vectors are the fastest axis of each grid: programs that run at the same
time then look up the same few megabytes of the pairwise table, whatever the size of the whole.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Energies that are not finite are taken for this: they must not break the count of the lowest.
WORST = tl.constexpr(3.0e38)
NO_INDEX = tl.constexpr(2**30)


@triton.jit
def lowest(energy, KEEP: tl.constexpr):
    """Choose the KEEP lowest of a tile, exactly; of equal ones those of lower row-major index.

    Bisection between energies until as many as wanted lie at or below the middle: about a dozen counts, whatever
    KEEP, where a sort takes several times the instructions.

    Args:
        energy: finite float32 (R, C).
    Returns:
        bool (R, C), and the place of each chosen one among the chosen, int32 (R, C), in row-major order.
    """
    high = tl.max(energy)
    low = tl.min(energy)
    # Two units in the last place below the lowest: nothing lies at or below it.
    low -= tl.maximum(tl.abs(low) * 2.4e-7, 1e-30)
    count = tl.sum((energy <= high).to(tl.int32))
    middle = 0.5 * low + 0.5 * high
    while (count > KEEP) & (middle > low) & (middle < high):
        below = tl.sum((energy <= middle).to(tl.int32))
        enough = below >= KEEP
        high = tl.where(enough, middle, high)
        count = tl.where(enough, below, count)
        low = tl.where(enough, low, middle)
        middle = 0.5 * low + 0.5 * high
    chosen = energy <= high
    if count > KEEP:
        # No number lies between low and high: what is above low is equal.
        surely = energy <= low
        missing = KEEP - tl.sum(surely.to(tl.int32))
        chosen = surely | (chosen & (energy > low) & (places(chosen & (energy > low)) < missing))
    return chosen, places(chosen)


@triton.jit
def places(chosen):
    """Row-major rank of every True of a bool (R, C) among them, int32 (R, C)."""
    ones = chosen.to(tl.int32)
    of_row = tl.sum(ones, axis=1)
    rows_before = tl.cumsum(of_row, axis=0) - of_row
    return tl.cumsum(ones, axis=1) - 1 + rows_before[:, None]


@triton.jit
def first_lowest(energy, R: tl.constexpr, C: tl.constexpr):
    """``lowest`` of one: where a float32 (R, C) has its minimum, at the lowest index."""
    index = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    at = tl.min(tl.where(energy == tl.min(energy), index, NO_INDEX))
    return index == at, tl.zeros([R, C], tl.int32)


@triton.jit
def finite(energy):
    return tl.where(tl.abs(energy) < WORST, energy, WORST)


@triton.jit
def leaf_kernel(
    unary,  # float32 (B, M)
    pairwise,  # float32 (M, M)
    current,  # int64 (B, N)
    order,  # int64 (N,)
    active,  # int8 (B,)
    energies,  # out: float32 (N, B, KEEP), less the energy of the old choice
    indexes,  # out: uint8 (N, B, KEEP)
    num_vectors,
    N: tl.constexpr,
    K: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The best entries of one codebook, all others held at the old choice. Grid: (B, N)."""
    b = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1)
    if tl.load(active + b) == 0:
        return
    n = tl.load(order + p).to(tl.int32)
    k = tl.arange(0, K)
    old_of_all = current + b * N
    interaction = tl.zeros([K], tl.float32)
    for first in range(0, N, ROWS):
        m = first + tl.arange(0, ROWS)
        row = m * K + tl.load(old_of_all + m, mask=m < N, other=0).to(tl.int32)
        row_start = row.to(tl.int64) * (N * K) + n * K
        rows = tl.load(pairwise + row_start[:, None] + k[None, :], mask=(m < N)[:, None], other=0.0)
        interaction += tl.sum(rows, axis=0)
    energy = finite(tl.load(unary + b * (N * K) + n * K + k) + interaction)
    old = tl.load(old_of_all + n).to(tl.int32)
    before = tl.sum(tl.where(k == old, energy, 0.0))
    tile = energy[None, :]
    if KEEP == 1:
        chosen, place = first_lowest(tile, 1, K)
    else:
        chosen, place = lowest(tile, KEEP)
    out = (p * num_vectors + b) * KEEP + place
    tl.store(energies + out, tile - before, mask=chosen)
    tl.store(indexes + out, k[None, :].to(tl.uint8), mask=chosen)


@triton.jit
def merge_kernel(
    pairwise,  # float32 (M, M)
    current,  # int64 (B, N)
    order,  # int64 (N,)
    active,  # int8 (B,)
    even_energies,  # float32, EVEN candidates: (B, EVEN) a group, from the first even group on
    even_indexes,  # uint8, (B, EVEN) a place
    odd_energies,  # the same of the odd groups
    odd_indexes,
    energies,  # out: float32 (pairs, B, KEEP)
    indexes,  # out: uint8 (pairs * (EVEN_LENGTH + ODD_LENGTH), B, KEEP)
    num_vectors,
    start,  # place where the first pair begins
    N: tl.constexpr,
    K: tl.constexpr,
    EVEN: tl.constexpr,
    ODD: tl.constexpr,
    EVEN_LENGTH: tl.constexpr,
    ODD_LENGTH: tl.constexpr,
    KEEP: tl.constexpr,
):
    """All pairs of candidates of two groups, cut to the best. Grid: (B, pairs).

    Of several pairs in one launch, all groups have equal sizes and follow each other in one buffer.
    """
    b = tl.program_id(0).to(tl.int64)
    pair = tl.program_id(1)
    if tl.load(active + b) == 0:
        return
    length: tl.constexpr = EVEN_LENGTH + ODD_LENGTH
    old_of_all = current + b * N
    even_order = order + start + pair * length
    odd_order = even_order + EVEN_LENGTH
    i = tl.arange(0, EVEN)
    j = tl.arange(0, ODD)
    even = even_indexes + (pair * length * num_vectors + b) * EVEN + i
    odd = odd_indexes + (pair * length * num_vectors + b) * ODD + j

    # The energies of both sides hold their interaction with the old choice of the other: it is taken out.
    between = tl.zeros([EVEN, ODD], tl.float32)
    even_to_old = tl.zeros([EVEN], tl.float32)
    odd_to_old = tl.zeros([ODD], tl.float32)
    old_to_old = 0.0
    for e in range(EVEN_LENGTH):
        codebook = tl.load(even_order + e)
        rows = pairwise + codebook * K * (N * K)
        even_rows = rows + tl.load(even + e * num_vectors * EVEN).to(tl.int64) * (N * K)
        old_row = rows + tl.load(old_of_all + codebook) * (N * K)
        for o in range(ODD_LENGTH):
            codebook = tl.load(odd_order + o)
            odd_columns = codebook * K + tl.load(odd + o * num_vectors * ODD).to(tl.int64)
            old_column = codebook * K + tl.load(old_of_all + codebook)
            between += tl.load(even_rows[:, None] + odd_columns[None, :])
            even_to_old += tl.load(even_rows + old_column)
            odd_to_old += tl.load(old_row + odd_columns)
            old_to_old += tl.load(old_row + old_column)

    even_energy = tl.load(even_energies + (pair * 2 * num_vectors + b) * EVEN + i)
    odd_energy = tl.load(odd_energies + (pair * 2 * num_vectors + b) * ODD + j)
    energy = even_energy[:, None] + odd_energy[None, :] + between
    energy = finite(energy - (even_to_old[:, None] + odd_to_old[None, :]) + old_to_old)
    if KEEP == 1:
        chosen, place = first_lowest(energy, EVEN, ODD)
    else:
        chosen, place = lowest(energy, KEEP)
    tl.store(energies + (pair * num_vectors + b) * KEEP + place, energy, mask=chosen)
    out = indexes + (pair * length * num_vectors + b) * KEEP + place
    for e in range(EVEN_LENGTH):
        even_index = tl.load(even + e * num_vectors * EVEN)
        tl.store(out + e * num_vectors * KEEP, tl.broadcast_to(even_index[:, None], [EVEN, ODD]), mask=chosen)
    for o in range(ODD_LENGTH):
        odd_index = tl.load(odd + o * num_vectors * ODD)
        at = out + (EVEN_LENGTH + o) * num_vectors * KEEP
        tl.store(at, tl.broadcast_to(odd_index[None, :], [EVEN, ODD]), mask=chosen)


@triton.jit
def finish_kernel(
    root_energy,  # float32 (B,), of the pass's choice less that of the old one
    root_indexes,  # uint8 (N, B), by place
    order,  # int64 (N,)
    current,  # in and out: int64 (B, N)
    gain,  # in and out: float32 (B,), energy of the current choice less that of the first
    active,  # in and out: int8 (B,), 0 where a pass has changed nothing
    best,  # in and out: int64 (B, N)
    best_gain,  # in and out: float32 (B,)
    num_vectors,
    N: tl.constexpr,
    PLACES: tl.constexpr,
    VECTORS: tl.constexpr,
    KEEP_BEST: tl.constexpr,
):
    """Take a pass's choice over, and drop the vectors that came to rest. Grid: blocks of VECTORS."""
    b = tl.program_id(0).to(tl.int64) * VECTORS + tl.arange(0, VECTORS)
    p = tl.arange(0, PLACES)
    running = tl.load(active + b, mask=b < num_vectors, other=0) != 0
    used = running[:, None] & (p < N)[None, :]
    n = tl.load(order + p, mask=p < N, other=0)
    choice = tl.load(root_indexes + p[None, :] * num_vectors + b[:, None], mask=used, other=0).to(tl.int64)
    at = b[:, None] * N + n[None, :]
    old = tl.load(current + at, mask=used, other=0)
    total = tl.load(gain + b, mask=running, other=0.0) + tl.load(root_energy + b, mask=running, other=0.0)
    least = tl.load(best_gain + b, mask=running, other=0.0)
    moved = tl.max((choice != old).to(tl.int32), axis=1) != 0
    taken = used & moved[:, None]
    better = moved & (total < least)
    # Several threads hold the same elements: all must have read them before one of them writes.
    tl.debug_barrier()
    tl.store(active + b, moved.to(tl.int8), mask=running)
    tl.store(current + at, choice, mask=taken)
    if KEEP_BEST:
        tl.store(gain + b, total, mask=running)
        tl.store(best_gain + b, total, mask=running & better)
        tl.store(best + at, choice, mask=taken & better[:, None])
