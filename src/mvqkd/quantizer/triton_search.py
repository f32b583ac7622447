"""The refine passes on a CUDA GPU: the semantics of ``plain_search`` in Triton kernels.

A pass is one launch for the entries of all codebooks, one or two for each level of merging, and one that takes the
choice over: about three for each doubling of the codebooks, without waiting for the device anywhere. Vectors that came
to rest are flagged and their programs end at once.

Of candidates with equal energies the ones with lower indexes are kept, the codebooks compared in the order of merging.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.2 (the search); the energy form is this project's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import SearchTables, candidates_kept, relative_energy

# Vectors refined together. Bounds the candidates' memory, 1.5 kB a vector at 8 codebooks and 25 kB at 64, and is
# enough for a launch to cost little beside its work.
VECTORS_TOGETHER = 16_384
# Pairwise rows summed at a time, vectors a program of the last kernel: tiles that fit into the registers of one warp.
ROWS = 8
FINISH_ELEMENTS = 128
# A tile of up to so many energies stays within one warp: its counts then need no shared memory.
TILE_OF_A_WARP = 1024


def triton_available() -> bool:
    """Whether triton is installed, as it is beside a CUDA build of torch."""
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class _Group:
    """Candidates of neighbouring places in the order of merging.

    Attributes:
        energies: float32 (B, S).
        indexes: uint8 (L, B, S), within the codebook of each place.
        start: first place.
    """

    energies: Tensor
    indexes: Tensor
    start: int

    @property
    def length(self) -> int:
        return self.indexes.shape[0]

    @property
    def candidates(self) -> int:
        return self.indexes.shape[2]

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self.candidates


def refine_triton(
    unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, *, keep_best: bool, order: Tensor
) -> Tensor:
    """``mvqkd.quantizer.search.refine`` on a CUDA device (on any, under Triton's interpreter)."""
    if iterations < 1 or len(indexes) == 0:
        return indexes.clone()
    blocks = zip(torch.split(unary, VECTORS_TOGETHER), torch.split(indexes, VECTORS_TOGETHER), strict=True)
    # Triton launches on the current device, whatever that of its arguments is.
    with _current_device(unary.device):
        return torch.cat([_refine_block(u, i, tables, iterations, keep_best, order) for u, i in blocks])


def agrees_with_plain(tables: SearchTables, device: torch.device, *, vectors: int = 512, iterations: int = 3) -> bool:
    """Whether the kernels choose as well as the plain search, vector by vector, for random energies of these tables.

    A compiler's mistake shows here. Float sums in another order may break a tie otherwise: of a hundred vectors, one
    may end up with another energy.

    Raises:
        Exception: whatever Triton raises where it cannot compile or run a kernel.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (2, vectors, tables.num_codebooks)
    target, first = torch.randint(0, tables.codebook_size, shape, generator=generator).to(device)
    # As of noisy sums of centers, except for what the pairwise table does not hold.
    unary = tables.squared_norm - functional.embedding_bag(target + tables.offsets, tables.pairwise, mode="sum")
    unary += unary.std() * torch.randn(unary.shape, generator=generator).to(device)
    order = torch.randperm(tables.num_codebooks, generator=generator).to(device)
    for keep_best in (False, True):
        ours, plain = (
            relative_energy(refine(unary, first, tables, iterations, keep_best=keep_best, order=order), unary, tables)
            for refine in (refine_triton, refine_plain)
        )
        differs = (ours - plain).abs() > 1e-5 * plain.abs().mean()
        if int(differs.sum()) > vectors // 100:
            return False
    return True


def _refine_block(
    unary: Tensor, indexes: Tensor, tables: SearchTables, iterations: int, keep_best: bool, order: Tensor
) -> Tensor:
    from mvqkd.quantizer.triton_kernels import finish_kernel

    num_vectors, num_codebooks = indexes.shape
    current = indexes.clone(memory_format=torch.contiguous_format)
    active = torch.ones(num_vectors, dtype=torch.int8, device=unary.device)
    order = order.to(unary.device).contiguous()
    search_pass = _Pass(unary.contiguous(), current, order, active, tables)
    best = current.clone() if keep_best else current
    gain, best_gain = torch.zeros(2, num_vectors, device=unary.device)
    places = _power_of_two(num_codebooks)
    together = max(1, FINISH_ELEMENTS // places)
    root = search_pass.root
    for _ in range(iterations):
        search_pass.run()
        finish_kernel[(-(-num_vectors // together),)](
            *(root.energies, root.indexes, order, current, gain, active, best, best_gain, num_vectors),
            N=num_codebooks,
            PLACES=places,
            VECTORS=together,
            KEEP_BEST=keep_best,
            num_warps=1,
        )
    return best


class _Pass:
    """The launches of one pass over a block of vectors, planned once: their buffers serve every pass.

    Attributes:
        root: the one candidate left at the end.
    """

    def __init__(self, unary: Tensor, current: Tensor, order: Tensor, active: Tensor, tables: SearchTables) -> None:
        self._unary = unary
        self._pairwise = tables.pairwise.contiguous()
        self._old = (current, order, active)
        self._num_vectors, num_codebooks = current.shape
        self._sizes = {"N": num_codebooks, "K": tables.codebook_size}
        self._launches: list[Callable[[], object]] = []
        groups = self._leaves(last=num_codebooks == 1)
        while len(groups) > 1:
            pairs = list(zip(groups[0::2], groups[1::2], strict=False))
            merged = []
            for _, alike in groupby(pairs, key=lambda pair: (pair[0].shape, pair[1].shape)):
                merged += self._merged(list(alike), last=len(groups) == 2)
            groups = merged + groups[2 * len(pairs) :]
        (self.root,) = groups

    def run(self) -> None:
        for launch in self._launches:
            launch()

    def _leaves(self, *, last: bool) -> list[_Group]:
        from mvqkd.quantizer.triton_kernels import leaf_kernel

        num_codebooks, size = self._sizes["N"], self._sizes["K"]
        keep = 1 if last else min(candidates_kept(1, size), size)
        groups = self._new_groups(num_codebooks, 0, 1, keep)
        self._launches.append(
            partial(
                leaf_kernel[(self._num_vectors, num_codebooks)],
                *(self._unary, self._pairwise, *self._old, groups[0].energies, groups[0].indexes, self._num_vectors),
                **self._sizes,
                KEEP=keep,
                ROWS=ROWS,
                num_warps=1,
            )
        )
        return groups

    def _merged(self, pairs: list[tuple[_Group, _Group]], *, last: bool) -> list[_Group]:
        """Groups merged of pairs of equal sizes; more than one pair are neighbours in one buffer."""
        from mvqkd.quantizer.triton_kernels import merge_kernel

        even, odd = pairs[0]
        length = even.length + odd.length
        tile = even.candidates * odd.candidates
        keep = 1 if last else min(candidates_kept(length, self._sizes["K"]), tile)
        merged = self._new_groups(len(pairs), even.start, length, keep)
        self._launches.append(
            partial(
                merge_kernel[(self._num_vectors, len(pairs))],
                *(self._pairwise, *self._old, even.energies, even.indexes, odd.energies, odd.indexes),
                *(merged[0].energies, merged[0].indexes, self._num_vectors, even.start),
                **self._sizes,
                EVEN=even.candidates,
                ODD=odd.candidates,
                EVEN_LENGTH=even.length,
                ODD_LENGTH=odd.length,
                KEEP=keep,
                num_warps=max(1, tile // TILE_OF_A_WARP),
            )
        )
        return merged

    def _new_groups(self, count: int, start: int, length: int, candidates: int) -> list[_Group]:
        device = self._unary.device
        energies = torch.empty(count, self._num_vectors, candidates, device=device)
        indexes = torch.empty(count * length, self._num_vectors, candidates, dtype=torch.uint8, device=device)
        return [_Group(energies[g], indexes[g * length : (g + 1) * length], start + g * length) for g in range(count)]


def _power_of_two(count: int) -> int:
    """The lowest power of two that is not below ``count``."""
    return 1 << (count - 1).bit_length()


def _current_device(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
