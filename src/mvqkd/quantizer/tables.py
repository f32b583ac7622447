"""What a search for codebook indexes looks up: the energies of single entries and of pairs.

The squared error of a choice of one entry per codebook is a sum of terms of one and of two entries:

    |x - sum_n c[n, i_n]|^2 = |x|^2 + sum_n u[n, i_n] + sum_{n<m} p[(n, i_n), (m, i_m)]
    u[n, k] = |c[n, k]|^2 - 2 <x, c[n, k]>        one matrix product per block of vectors
    p[a, b] = 2 <c_a, c_b>                        once per quantizer (twice the Gram matrix)

Called energies below (the error without the constant |x|^2). With both tables at hand a refine pass only looks
numbers up: the channels never appear again.

Source: Guo et al. 2022, arXiv 2211.00508, section 3.2 (the search); the energy form is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Rows of one matrix product: always this many (the last block is padded), so that a vector's energies do not
# depend on how many others came with it.
UNARY_BLOCK = 256
CUDA_BLOCK = 4096
# Numbers that compiled code takes at a time; it works on whole ones.
LANES = 16


@dataclass(frozen=True)
class SearchTables:
    """What a search needs to know of the centers.

    Shapes: M = num_codebooks * codebook_size entries, entry (n, k) at row n * codebook_size + k.
    Attributes:
        products: float32 (D, M), effective centers times -2: what vectors are multiplied with.
        squared_norm: float32 (M,).
        pairwise: float32 (M, M), 2 <c_a, c_b>; zero where a and b belong to the same codebook, so that a sum of
            the rows of the chosen entries is, for every entry, its interaction with all *other* codebooks.
        packed: ``products`` as ``pack`` returns it.
    """

    products: Tensor
    squared_norm: Tensor
    pairwise: Tensor
    num_codebooks: int
    codebook_size: int
    packed: Tensor | None = None

    @property
    def offsets(self) -> Tensor:
        """int64 (N,): row of each codebook's first entry."""
        return torch.arange(self.num_codebooks, device=self.pairwise.device) * self.codebook_size


def build_tables(centers: Tensor, *, precise: bool = True) -> SearchTables:
    """Precompute the tables of a set of centers.

    Args:
        centers: float (N, K, D).
        precise: take the products in float64 and round once. Training, which builds tables often, does with float32.
    """
    num_codebooks, codebook_size, dim = centers.shape
    flat = centers.detach().reshape(num_codebooks * codebook_size, dim)
    flat = flat.double() if precise else flat.float()
    pairwise = torch.zeros(
        num_codebooks, codebook_size, num_codebooks, codebook_size, dtype=torch.float32, device=flat.device
    )
    # Only products of different codebooks are needed, and each once.
    for n in range(num_codebooks - 1):
        rest = product(flat[n * codebook_size : (n + 1) * codebook_size], flat[(n + 1) * codebook_size :])
        rest = rest.mul_(2).float()
        rest = rest.view(codebook_size, num_codebooks - n - 1, codebook_size)
        pairwise[n, :, n + 1 :] = rest
        pairwise[n + 1 :, :, n] = rest.permute(1, 2, 0)
    pairwise = pairwise.flatten(2).flatten(0, 1)
    squared_norm = flat.square().sum(1).float()
    products = (flat * -2).float().T
    return SearchTables(products, squared_norm, pairwise, num_codebooks, codebook_size, pack(products))


def unary_energy(x: Tensor, tables: SearchTables) -> Tensor:
    """Energy of every entry taken alone, |c|^2 - 2 <x, c>.

    Args:
        x: float32 (B, D).
    Returns:
        float32 (B, M).
    """
    out = torch.empty(len(x), len(tables.squared_norm), dtype=torch.float32, device=x.device)
    return product_by_blocks(x, tables.products, tables.squared_norm, out, tables.packed)


def product_by_blocks(x: Tensor, matrix: Tensor, bias: Tensor, out: Tensor, packed: Tensor | None = None) -> Tensor:
    """x @ matrix + bias into ``out``, so that a row's result does not depend on how many others there are.

    Args:
        x: float32 (B, D).
        matrix: float32 (D, M).
        bias: float32 (M,).
        packed: the matrix as ``pack`` returns it.
    """
    rows = CUDA_BLOCK if x.is_cuda else UNARY_BLOCK
    for start in range(0, len(x), rows):
        block, target = x[start : start + rows], out[start : start + rows]
        if len(block) < rows:
            block = functional.pad(block, (0, 0, 0, rows - len(block)))
        result = torch.addmm(bias, block, matrix) if packed is None else packed_product(block, packed, bias)
        target.copy_(result[: len(target)])
    return out


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of float (B, D) and (M, D); of float32 on a CPU as oneDNN takes it, which is as exact and faster."""
    packed = pack(b.T) if a.dtype == torch.float32 else None
    return a @ b.T if packed is None else packed_product(a, packed)


def pack(matrix: Tensor) -> Tensor | None:
    """A matrix (D, M) as oneDNN wants it, for ``packed_product``; None where torch goes without oneDNN.

    On AMD processors with AVX-512 the usual product, which is MKL's, takes twice the time.
    """
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no types here
    if matrix.device.type != "cpu" or not available or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    return matrix.T.contiguous().to_mkldnn()


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ matrix + bias, float32 (B, M), of float32 (B, D) and what ``pack`` made of the matrix."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return result


def relative_energy(indexes: Tensor, unary: Tensor, tables: SearchTables) -> Tensor:
    """Squared error of a choice of entries, less |x|^2.

    Args:
        indexes: int64 (B, N).
        unary: float32 (B, M), from ``unary_energy``.
    Returns:
        float32 (B,).
    """
    entries = indexes + tables.offsets
    pairs = entries.unsqueeze(2) * len(tables.squared_norm) + entries.unsqueeze(1)  # (B, N, N)
    pairwise = tables.pairwise.view(-1).index_select(0, pairs.flatten()).view_as(pairs)
    # Every pair of codebooks is there twice.
    return unary.gather(1, entries).sum(1) + pairwise.sum((1, 2)) / 2


def candidates_kept(length: int, codebook_size: int) -> int:
    """Candidates kept of a group of ``length`` codebooks: 16, or 8 of small ones, doubled for each fourfold length."""
    kept = 8 if codebook_size <= 16 else 16
    while length >= 4 and kept < 128:
        length //= 4
        kept *= 2
    return kept
