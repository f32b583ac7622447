"""The refine pass compiled for the CPU: the same search as ``plain_search``, one vector at a time in cached scratch.

Compiled by numba at first use and kept on disk: no compiler is needed where the package is installed. What makes it
fast, besides the energies: a vector's whole working set stays in the first cache levels; partial selection by counting
instead of sorting; products of candidates are looked up only between entries that survived so far.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.quantizer.search_kernels import MOST_SLOTS, choose_rows, refine_rows
from mvqkd.quantizer.tables import LANES, SearchTables, candidates_kept
from mvqkd.quantizer.threads import in_parts

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Never so few vectors at a time that the calls would show.
FEWEST_ROWS = 64


class Scratch(NamedTuple):
    """Working memory of one thread. Made outside of the compiled code, which takes addresses of it.

    Shapes: N codebooks, K entries each, S most candidates of a group, A most entries that a side of a merge looks up.
    A slot numbers the candidates of one codebook, 0 .. 15; ``old``, ``slots`` and so on are in the order of the tree.
    """

    conditional: Floats  # (N * K,)
    old: Ints  # (N,), entries
    best: Ints  # (N,), entries
    candidates: NDArray[np.uint32]  # (N, 16), entries
    energy: Floats  # (2, N, S), of a group's candidates, at the group's first codebook
    slots: NDArray[np.uint8]  # (2, N, S), what a candidate takes of each codebook
    rank: Ints  # (N, 16), of a slot among those in use on its side of the merge
    rows: NDArray[np.uint32]  # (A + 16,), entries in use on the even side
    columns: NDArray[np.uint32]  # (A + 16,), on the odd side
    cross: Floats  # (A, A + 16), pairwise energies between them; one column more for the other side's old choice
    summed: Floats  # (S, A + 16), the same summed over each even candidate
    turned: Floats  # (A + 16, S), transposed
    even: Floats  # (S,)
    odd: Floats  # (S,)
    with_old: Floats  # (A + 16,)
    merged: Floats  # (S * S,)
    chosen: NDArray[np.uint32]  # (max(S * S, K) + 16,)
    chosen_energy: Floats  # likewise
    starts: Ints  # (N,), of every group
    lengths: Ints  # (N,)
    counts: Ints  # (N,), of its candidates


def refine_compiled(
    unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, *, keep_best: bool, order: Tensor
) -> Tensor:
    """``mvqkd.quantizer.search.refine`` on the CPU, with as many threads as torch uses.

    The codebooks must be of whole lanes: codebook_size a multiple of 16.
    """
    result = indexes.clone(memory_format=torch.contiguous_format)
    rows, found = unary.contiguous().numpy(), result.numpy()
    pairwise, size, permutation = tables.pairwise.numpy(), tables.codebook_size, order.numpy()

    def work(part: slice) -> None:
        scratch = make_scratch(tables.num_codebooks, size)
        refine_rows(rows[part], found[part], pairwise, size, permutation, iterations, keep_best, scratch)

    in_parts(work, len(rows), block=FEWEST_ROWS)
    return result


def choose_lowest(rough: Tensor, margin: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Per codebook, the entry with the lowest of -(weight @ x + bias); equal ones go to the first.

    Shapes: B vectors, N codebooks, M entries, D channels.
    Args:
        rough: float32 (B, M), these numbers up to an error.
        margin: float32 (B, N): an entry whose rough number is more than that above the lowest one is not it.
        x: float32 (B, D).
        weight: float32 (M, D).
        bias: float32 (M,).
    Returns:
        int64 (B, N).
    """
    result = torch.empty(margin.shape, dtype=torch.int64)
    numbers, widths, vectors, out = (t.contiguous().numpy() for t in (rough, margin, x, result))
    parameters = weight.numpy(), bias.numpy()

    def work(part: slice) -> None:
        found = np.zeros(rough.shape[1] // margin.shape[1] + LANES, np.uint32)
        choose_rows(numbers[part], widths[part], vectors[part], *parameters, found, out[part])

    in_parts(work, len(numbers), block=FEWEST_ROWS)
    return result


def make_scratch(num_codebooks: int, codebook_size: int) -> Scratch:
    """Working memory for a quantizer of these sizes."""
    most = max(LANES, candidates_kept(num_codebooks, codebook_size))
    side = 1
    while 2 * side < num_codebooks:
        side *= 2
    looked_up = side * MOST_SLOTS
    wide = looked_up + LANES

    def floats(*shape: int) -> Floats:
        return np.zeros(shape, np.float32)

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    chosen = max(most * most, codebook_size) + LANES
    return Scratch(
        conditional=floats(num_codebooks * codebook_size),
        old=ints(num_codebooks),
        best=ints(num_codebooks),
        candidates=np.zeros((num_codebooks, MOST_SLOTS), np.uint32),
        energy=floats(2, num_codebooks, most),
        slots=np.zeros((2, num_codebooks, most), np.uint8),
        rank=ints(num_codebooks, MOST_SLOTS),
        rows=np.zeros(wide, np.uint32),
        columns=np.zeros(wide, np.uint32),
        cross=floats(looked_up, wide),
        summed=floats(most, wide),
        turned=floats(wide, most),
        even=floats(most),
        odd=floats(most),
        with_old=floats(wide),
        merged=floats(most * most + LANES),
        chosen=np.zeros(chosen, np.uint32),
        chosen_energy=floats(chosen),
        starts=ints(num_codebooks),
        lengths=ints(num_codebooks),
        counts=ints(num_codebooks),
    )
