"""What holds for every batch: a vector's indexes are its own affair."""

from __future__ import annotations

import functools
import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.quantizer import Quantizer, plain_search, search, tables

COUNT, DIM = 300, 48


@functools.cache
def scene() -> tuple[Quantizer, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(DIM, 8, 256, generator=generator)
    quantizer.requires_grad_(False).centers.mul_(2)
    x = torch.randn(COUNT, DIM, generator=generator)
    return quantizer, x, quantizer.encode(x)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=60), iterations=st.just(5))
def test_encoding_does_not_depend_on_batch_mates(rows: list[int], iterations: int) -> None:
    quantizer, x, encoded = scene()
    assert torch.equal(quantizer.encode(x[rows], iterations=iterations), encoded[rows])


@settings(max_examples=8, deadline=None)
@given(unary=st.integers(1, 400), block=st.integers(1, 400))
def test_encoding_does_not_depend_on_block_sizes(unary: int, block: int) -> None:
    quantizer, x, encoded = scene()
    saved = tables.UNARY_BLOCK, plain_search.REFINE_BLOCK
    tables.UNARY_BLOCK, plain_search.REFINE_BLOCK = unary, block
    try:
        assert torch.equal(quantizer.encode(x), encoded)
    finally:
        tables.UNARY_BLOCK, plain_search.REFINE_BLOCK = saved


@settings(max_examples=15, deadline=None)
@given(
    num_codebooks=st.integers(1, 9),
    size=st.sampled_from([2, 4, 16]),
    dim=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_refining_never_hurts_and_stays_in_range(num_codebooks: int, size: int, dim: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    quantizer = Quantizer(dim, num_codebooks, size, generator=generator).requires_grad_(False)
    x = torch.randn(20, dim, generator=generator)
    normalized = quantizer.normalize(x)
    first = quantizer.encode(x, iterations=0).long()
    unary = tables.unary_energy(normalized, quantizer.tables())
    errors = []
    for iterations in (0, 1, 3, 5):
        indexes = search.refine(unary, first, quantizer.tables(), iterations)
        assert 0 <= int(indexes.min()) <= int(indexes.max()) < size
        errors.append((x - quantizer.decode(indexes)).square().sum(1))
    errors.append((x - quantizer.decode(quantizer.encode(x, mode="best"))).square().sum(1))
    for earlier, later in itertools.pairwise(errors):
        assert (later <= earlier + 1e-4).all()
