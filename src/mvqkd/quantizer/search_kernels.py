"""The compiled functions of ``compiled_search``: numba turns these bodies into machine code.

Arrays come from the caller, which keeps them alive: addresses are taken of them. Compiled code is kept on disk and
compiled anew when this file changes; after a change of ``lanes`` alone, delete the folder __pycache__. That is also why
all kernels share one long module: numba's cache does not see changes of the modules that a kernel is inlined from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from mvqkd.quantizer import lanes
from mvqkd.quantizer.tables import LANES, candidates_kept

MOST_SLOTS = 16
# Steps of the search for a threshold; what is left above it is then removed one by one.
BISECTIONS = 12
_OPTIONS = {"nogil": True, "fastmath": True, "error_model": "numpy"}  # energies are finite: sums may be reordered


def _inlined(function: Callable[..., Any]) -> Any:
    """Compile as part of what calls it."""
    return numba.njit(forceinline=True, **_OPTIONS)(function)


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at first use, and keep the result on disk."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(**_OPTIONS)(function)


@_inlined
def _at(base: Any, position: Any) -> Any:
    """Address of a float32 (or uint32) of an array that begins at ``base``."""
    return base + np.uintp(position) * np.uintp(4)


_kept = _inlined(candidates_kept)


@_inlined
def _count_up_to(values: Any, width: Any, limit: Any) -> Any:
    limits = lanes.splat(limit)
    count = 0
    for i in range(0, width, LANES):
        count += lanes.count_up_to(lanes.load(_at(values, i)), limits)
    return count


@_inlined
def _positions_up_to(values: Any, width: Any, limit: Any, out: Any) -> Any:
    limits = lanes.splat(limit)
    count = 0
    for i in range(0, width, LANES):
        count += lanes.compress_up_to(lanes.load(_at(values, i)), limits, i, _at(out, count))
    return count


@_inlined
def _lowest(values: Any, width: Any) -> Any:
    low = lanes.load(values)
    for i in range(LANES, width, LANES):
        low = lanes.lower(low, lanes.load(_at(values, i)))
    return lanes.lowest(low)


@_inlined
def _select(values: Any, width: Any, keep: Any, chosen: Any, energy: Any) -> Any:
    """Put the positions and values of the ``keep`` lowest of ``values[:width]`` into ``chosen``; ties to the first.

    Every lane holds a number that is its lowest, so ``keep`` lanes' highest is a threshold that lets enough through.
    It is tightened by counting, which costs far less than moving numbers about.
    """
    base = np.uintp(values.ctypes.data)
    low = lanes.load(base)
    if keep <= LANES:
        for i in range(LANES, width, LANES):
            low = lanes.lower(low, lanes.load(_at(base, i)))
        minimum, limit = lanes.lowest(low), lanes.highest(low)
    elif keep <= 2 * LANES:  # width is a multiple of 64 where more than LANES are kept
        other = lanes.load(_at(base, LANES))
        for i in range(2 * LANES, width, 2 * LANES):
            low = lanes.lower(low, lanes.load(_at(base, i)))
            other = lanes.lower(other, lanes.load(_at(base, i + LANES)))
        minimum = min(lanes.lowest(low), lanes.lowest(other))
        limit = max(lanes.highest(low), lanes.highest(other))
    else:
        minimum = _lowest(base, width)
        limit = minimum
        for i in range(width):
            limit = max(limit, values[i])
    passing = _count_up_to(base, width, limit)
    for _ in range(BISECTIONS):
        if passing <= keep + 1:
            break
        middle = minimum + (limit - minimum) * np.float32(0.5)
        count = _count_up_to(base, width, middle)
        if count >= keep:
            limit, passing = middle, count
        else:
            minimum = middle
    count = _positions_up_to(base, width, limit, np.uintp(chosen.ctypes.data))
    for i in range(count):
        energy[i] = values[chosen[i]]
    while count > keep:
        worst = 0
        for i in range(1, count):
            if energy[i] >= energy[worst]:
                worst = i
        count -= 1
        for i in range(worst, count):
            chosen[i] = chosen[i + 1]
            energy[i] = energy[i + 1]
    return count


@_inlined
def _conditional(unary: Any, table: Any, old: Any, out: Any, entries: Any) -> Any:
    """Energy of every entry with the others held at the old choice."""
    for i in range(0, entries, LANES):
        energy = lanes.load(_at(unary, i))
        for n in range(len(old)):
            energy = lanes.add(energy, lanes.load(_at(table, old[n] * entries + i)))
        lanes.store(_at(out, i), energy)


@_inlined
def _merge_codebooks(
    table: Any, entries: Any, old_a: Any, old_b: Any, at_a: Any, at_b: Any, in_b: Any, energy_a: Any, energy_b: Any,
    count_a: Any, count_b: Any, odd: Any, merged: Any,
) -> Any:  # fmt: skip
    """Energies of all pairs of candidates of two single codebooks, into ``merged``."""
    from_a, from_b = _at(table, old_a * entries), _at(table, old_b * entries)
    between_old = lanes.splat(lanes.scalar(_at(from_a, old_b)))
    even = lanes.add(lanes.sub(lanes.load(energy_a), lanes.gather(from_b, at_a)), between_old)
    lanes.store(np.uintp(odd.ctypes.data), lanes.sub(lanes.load(energy_b), lanes.gather(from_a, at_b)))
    for t in range(count_b):
        pairwise = lanes.gather(_at(table, np.int64(in_b[t]) * entries), at_a)
        # Where fewer than 16 candidates are kept, the next row overwrites the lanes that are too many.
        lanes.store(_at(merged, t * count_a), lanes.add(lanes.add(pairwise, even), lanes.splat(odd[t])))


@_inlined
def _in_use(slots: Any, start: Any, end: Any, count: Any, candidates: Any, rank: Any, entries: Any) -> Any:
    """Number the entries that a group's candidates are made of; ``entries`` gets them, then sixteen repetitions."""
    used: Any = 0
    for n in range(start, end):
        mask = np.uint32(0)
        for i in range(count):
            mask |= np.uint32(1) << np.uint32(slots[n, i])
        for slot in range(MOST_SLOTS):
            rank[n, slot] = used
            entries[used] = candidates[n, slot]
            used += np.int64((mask >> np.uint32(slot)) & np.uint32(1))
    for i in range(used, used + LANES):
        entries[i] = entries[0]
    return used


@_inlined
def _cross_energies(
    table: Any, entries: Any, old: Any, slots: Any, rank: Any, a: Any, b: Any, end_a: Any, end_b: Any, count_a: Any,
    in_rows: Any, rows: Any, at_columns: Any, columns: Any, cross: Any, summed: Any, turned: Any, with_old: Any,
) -> Any:  # fmt: skip
    """Fill ``turned``: the pairwise energy of every odd entry in use with every even candidate.

    One column more of ``summed`` is that of the even candidates with the old odd choice; ``with_old`` that of the odd
    entries with the old even choice.
    """
    width, most = cross.shape[1], turned.shape[1]
    at_cross, at_summed = np.uintp(cross.ctypes.data), np.uintp(summed.ctypes.data)
    at_turned, at_with_old = np.uintp(turned.ctypes.data), np.uintp(with_old.ctypes.data)
    wide = (columns + LANES) // LANES * LANES  # room for one more
    for row in range(rows):
        of_row = _at(table, np.int64(in_rows[row]) * entries)
        for column in range(0, wide, LANES):
            lanes.store(_at(at_cross, row * width + column), lanes.gather(of_row, _at(at_columns, column)))
        total = np.float32(0)
        for m in range(b, end_b):
            total += lanes.scalar(_at(of_row, old[m]))
        cross[row, columns] = total
    for column in range(0, wide, LANES):
        for i in range(count_a):
            sum_ = lanes.load(_at(at_cross, rank[a, slots[a, i]] * width + column))
            for n in range(a + 1, end_a):
                sum_ = lanes.add(sum_, lanes.load(_at(at_cross, rank[n, slots[n, i]] * width + column)))
            lanes.store(_at(at_summed, i * width + column), sum_)
        for i in range(0, count_a, LANES):
            lanes.transpose(_at(at_summed, i * width + column), width, _at(at_turned, column * most + i), most)
        sum_ = lanes.splat(np.float32(0))
        for n in range(a, end_a):
            sum_ = lanes.add(sum_, lanes.gather(_at(table, old[n] * entries), _at(at_columns, column)))
        lanes.store(_at(at_with_old, column), sum_)


@_inlined
def _merge_groups(
    slots: Any, rank: Any, b: Any, end_b: Any, count_a: Any, count_b: Any, even: Any, odd: Any, turned: Any, merged: Any
) -> Any:
    """Energies of all pairs of candidates of two groups, into ``merged``, from what ``_cross_energies`` left."""
    at_even, at_turned, most = np.uintp(even.ctypes.data), np.uintp(turned.ctypes.data), turned.shape[1]
    for t in range(count_b):
        for i in range(0, count_a, LANES):
            total = lanes.add(lanes.splat(odd[t]), lanes.load(_at(at_even, i)))
            for m in range(b, end_b):
                total = lanes.add(total, lanes.load(_at(at_turned, rank[m, slots[m, t]] * most + i)))
            lanes.store(_at(merged, t * count_a + i), total)


@_inlined
def _refine_pass(unary: Any, table: Any, order: Any, size: Any, s: Any) -> Any:
    """One pass from ``old``; returns which half of ``slots`` and ``energy`` holds the result, as candidate 0."""
    num_codebooks, entries = len(order), len(s.conditional)
    old, candidates, rank, chosen, chosen_energy = s.old, s.candidates, s.rank, s.chosen, s.chosen_energy
    starts, lengths, counts, even, odd, conditional = s.starts, s.lengths, s.counts, s.even, s.odd, s.conditional
    merged = np.uintp(s.merged.ctypes.data)
    at_candidates = np.uintp(candidates.ctypes.data)
    _conditional(unary, table, old, np.uintp(conditional.ctypes.data), entries)
    for n in range(num_codebooks):
        first = order[n] * size
        found = _select(conditional[first : first + size], size, _kept(1, size), chosen, chosen_energy)
        before = conditional[old[n]]
        for j in range(found):
            candidates[n, j] = first + chosen[j]
            s.energy[0, n, j] = chosen_energy[j] - before
            s.slots[0, n, j] = j
        starts[n], lengths[n], counts[n] = n, 1, found
    now, groups = 0, num_codebooks
    while groups > 1:
        energy, slots, next_energy, next_slots = s.energy[now], s.slots[now], s.energy[1 - now], s.slots[1 - now]
        for pair in range(groups // 2):
            a, b = starts[2 * pair], starts[2 * pair + 1]
            end_a, end_b = a + lengths[2 * pair], b + lengths[2 * pair + 1]
            count_a, count_b = counts[2 * pair], counts[2 * pair + 1]
            if end_b - a == 2:
                at_energy = np.uintp(energy.ctypes.data)
                _merge_codebooks(
                    table, entries, old[a], old[b], _at(at_candidates, a * MOST_SLOTS),
                    _at(at_candidates, b * MOST_SLOTS), candidates[b], _at(at_energy, a * energy.shape[1]),
                    _at(at_energy, b * energy.shape[1]), count_a, count_b, odd, merged,
                )  # fmt: skip
            else:
                rows = _in_use(slots, a, end_a, count_a, candidates, rank, s.rows)
                columns = _in_use(slots, b, end_b, count_b, candidates, rank, s.columns)
                _cross_energies(
                    table, entries, old, slots, rank, a, b, end_a, end_b, count_a, s.rows, rows,
                    np.uintp(s.columns.ctypes.data), columns, s.cross, s.summed, s.turned, s.with_old,
                )  # fmt: skip
                between_old = np.float32(0)
                for n in range(a, end_a):
                    for m in range(b, end_b):
                        between_old += lanes.scalar(_at(table, old[n] * entries + old[m]))
                for i in range(count_a):
                    even[i] = energy[a, i] - s.summed[i, columns] + between_old
                for t in range(count_b):
                    odd[t] = energy[b, t]
                    for m in range(b, end_b):
                        odd[t] -= s.with_old[rank[m, slots[m, t]]]
                _merge_groups(slots, rank, b, end_b, count_a, count_b, even, odd, s.turned, merged)
            width = count_a * count_b
            if groups == 2:
                found = 1
                chosen_energy[0] = _lowest(merged, width)
                _positions_up_to(merged, width, chosen_energy[0], np.uintp(chosen.ctypes.data))
            else:
                found = _select(s.merged, width, _kept(end_b - a, size), chosen, chosen_energy)
            shift = 0
            while 1 << shift < count_a:  # a power of two
                shift += 1
            for i in range(found):
                right, left = np.int64(chosen[i]) >> shift, np.int64(chosen[i]) & (count_a - 1)
                next_energy[a, i] = chosen_energy[i]
                for n in range(a, end_a):
                    next_slots[n, i] = slots[n, left]
                for n in range(b, end_b):
                    next_slots[n, i] = slots[n, right]
            starts[pair], lengths[pair], counts[pair] = a, end_b - a, found
        if groups % 2:  # a group without a partner goes up as it is
            last, first = groups - 1, starts[groups - 1]
            for i in range(counts[last]):
                next_energy[first, i] = energy[first, i]
                for n in range(first, first + lengths[last]):
                    next_slots[n, i] = slots[n, i]
            starts[groups // 2], lengths[groups // 2], counts[groups // 2] = first, lengths[last], counts[last]
        groups = (groups + 1) // 2
        now = 1 - now
    if num_codebooks == 1:
        best = 0
        for i in range(counts[0]):
            if s.energy[0, 0, i] < s.energy[0, 0, best]:
                best = i
        s.energy[0, 0, 0], s.slots[0, 0, 0] = s.energy[0, 0, best], s.slots[0, 0, best]
    return now


@_compiled
def refine_rows(
    unary: Any, indexes: Any, pairwise: Any, size: Any, order: Any, iterations: Any, keep_best: Any, s: Any
) -> Any:
    """Refine ``indexes``, int64 (B, N), in place; see ``mvqkd.quantizer.search.refine``. Returns the passes made."""
    passes = 0
    table = np.uintp(pairwise.ctypes.data)
    for row in range(len(indexes)):
        energies = _at(np.uintp(unary.ctypes.data), row * unary.shape[1])
        for n in range(len(order)):
            s.old[n] = order[n] * size + indexes[row, order[n]]
            s.best[n] = s.old[n]
        gain = best_gain = np.float32(0)
        for _ in range(iterations):
            now = _refine_pass(energies, table, order, size, s)
            passes += 1
            moved = False
            for n in range(len(order)):
                entry = np.int64(s.candidates[n, s.slots[now, n, 0]])
                moved |= entry != s.old[n]
                s.old[n] = entry
            if not moved:
                break
            gain += s.energy[now, 0, 0]
            if not keep_best or gain < best_gain:
                best_gain = gain
                for n in range(len(order)):
                    s.best[n] = s.old[n]
        for n in range(len(order)):
            indexes[row, order[n]] = s.best[n] - order[n] * size
    return passes


@_compiled
def choose_rows(rough: Any, margin: Any, x: Any, weight: Any, bias: Any, found: Any, out: Any) -> Any:
    """See ``choose_lowest``."""
    num_codebooks = margin.shape[1]
    size = rough.shape[1] // num_codebooks
    for row in range(len(out)):
        for n in range(num_codebooks):
            values = np.uintp(rough.ctypes.data) + np.uintp(4 * (row * rough.shape[1] + n * size))
            limit = _lowest(values, size) + margin[row, n]
            count = _positions_up_to(values, size, limit, np.uintp(found.ctypes.data))
            best = np.int64(found[0])
            if count > 1:
                lowest = np.float32(np.inf)
                for i in range(count):
                    entry = n * size + np.int64(found[i])
                    product = np.float32(0)
                    for d in range(x.shape[1]):
                        product += x[row, d] * weight[entry, d]
                    if -(product + bias[entry]) < lowest:
                        lowest = -(product + bias[entry])
                        best = np.int64(found[i])
            out[row, n] = best
