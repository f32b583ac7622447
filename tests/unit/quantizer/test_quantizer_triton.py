"""The Triton kernels against the plain search: compiled where there is a CUDA device, else under Triton's interpreter.

The interpreter must be asked for before anything imports triton, hence the test at the end, which runs this file again.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mvqkd.quantizer import triton_search
from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import SearchTables, build_tables, candidates_kept, unary_energy
from mvqkd.quantizer.triton_search import agrees_with_plain, refine_triton, triton_available

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = triton_available() and (INTERPRETED or torch.cuda.is_available())
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")

needs_kernels = pytest.mark.skipif(not RUNS, reason="needs triton and a CUDA device, or TRITON_INTERPRET=1")


def problem(
    num_codebooks: int, size: int, count: int, *, dim: int = 16, integers: bool = False
) -> tuple[SearchTables, Tensor, Tensor, Tensor]:
    """Tables, unary energies, indexes to begin with, and an order of merging."""
    generator = torch.Generator().manual_seed(num_codebooks * 1000 + size)
    if integers:
        centers = torch.randint(-2, 3, (num_codebooks, size, dim), generator=generator).float()
        x = torch.randint(-6, 7, (count, dim), generator=generator).float()
    else:
        centers = torch.randn(num_codebooks, size, dim, generator=generator) / num_codebooks**0.5
        x = torch.randn(count, dim, generator=generator)
    indexes = torch.randint(0, size, (count, num_codebooks), generator=generator)
    order = torch.randperm(num_codebooks, generator=generator)
    tables = build_tables(centers.to(DEVICE))
    return tables, unary_energy(x.to(DEVICE), tables), indexes.to(DEVICE), order.to(DEVICE)


@needs_kernels
@pytest.mark.parametrize(
    ("num_codebooks", "size", "count"),
    [(1, 16, 5), (1, 256, 3), (2, 4, 7), (3, 16, 4), (4, 2, 3), (5, 4, 3), (7, 16, 2), (4, 256, 3), (9, 16, 1)],
)
@pytest.mark.parametrize("keep_best", [False, True])
def test_chooses_what_the_plain_search_chooses(num_codebooks: int, size: int, count: int, keep_best: bool) -> None:
    tables, unary, indexes, shuffled = problem(num_codebooks, size, count)
    for order in (torch.arange(num_codebooks, device=DEVICE), shuffled):
        found = refine_triton(unary, indexes, tables, 2, keep_best=keep_best, order=order)
        assert found.dtype == torch.int64
        plain = refine_plain(unary, indexes, tables, 2, keep_best=keep_best, order=order)
        assert found.tolist() == plain.tolist()


@needs_kernels
@pytest.mark.parametrize("iterations", range(5))
def test_every_pass_counts_until_a_vector_rests(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # few channels: some vectors rest early, others are made worse by a pass or never rest
    tables, unary, indexes, order = problem(6, 8, 3, dim=2)
    last, best = (
        [refine_plain(unary, indexes, tables, passes, keep_best=keep_best, order=order) for passes in range(5)]
        for keep_best in (False, True)
    )
    moves = [(before != after).any(1) for before, after in itertools.pairwise(last)]
    assert not moves[2].all()
    assert moves[3].any()
    assert (last[2] != best[2]).any()
    # two blocks, neither a multiple of what a program takes
    monkeypatch.setattr(triton_search, "VECTORS_TOGETHER", 2)
    for keep_best, expected in ((False, last[iterations]), (True, best[iterations])):
        found = refine_triton(unary, indexes, tables, iterations, keep_best=keep_best, order=order)
        assert found.tolist() == expected.tolist()


@needs_kernels
def test_the_input_stays_as_it_is() -> None:
    tables, unary, indexes, order = problem(2, 4, 3)
    before = unary.clone(), indexes.clone()
    found = refine_triton(unary, indexes, tables, 1, keep_best=False, order=order)
    assert (found != indexes).any()
    assert torch.equal(unary, before[0])
    assert torch.equal(indexes, before[1])


@needs_kernels
def test_rows_of_a_larger_tensor() -> None:
    tables, unary, indexes, order = problem(2, 4, 6)
    expected = refine_plain(unary[::2], indexes[::2], tables, 2, keep_best=False, order=order)
    found = refine_triton(unary[::2], indexes[::2], tables, 2, keep_best=False, order=order)
    assert found.tolist() == expected.tolist()


@needs_kernels
def test_no_vectors() -> None:
    tables, unary, indexes, order = problem(2, 4, 3)
    assert refine_triton(unary[:0], indexes[:0], tables, 2, keep_best=True, order=order).shape == (0, 2)


def stable_pass(unary: Tensor, old: list[int], tables: SearchTables) -> list[int]:
    """A pass of one vector over lists; of equal energies the earlier candidate stays, in the order of the indexes."""
    size = tables.codebook_size
    pairwise, unary = tables.pairwise.double().cpu(), unary.double().cpu()
    old_rows = [n * size + index for n, index in enumerate(old)]

    def energy(rows: tuple[int, ...]) -> float:
        """Of a group's entries, the other codebooks at their old ones, less that of the old choice."""
        first = min(row // size for row in rows)
        whole = [*old_rows[:first], *rows, *old_rows[first + len(rows) :]]
        return total(whole) - total(old_rows)

    def total(rows: list[int]) -> float:
        return float(unary[rows].sum() + pairwise[rows][:, rows].sum() / 2)

    def cut(candidates: list[tuple[int, ...]], keep: int) -> list[tuple[int, ...]]:
        energies = [energy(rows) for rows in candidates]
        kept = sorted(range(len(candidates)), key=energies.__getitem__)[:keep]
        return [candidates[at] for at in sorted(kept)]

    groups = [cut([(n * size + k,) for k in range(size)], candidates_kept(1, size)) for n in range(len(old))]
    while len(groups) > 1:
        pairs = zip(groups[0::2], groups[1::2], strict=False)
        products = [[e + o for e, o in itertools.product(even, odd)] for even, odd in pairs]
        keep = 1 if len(groups) == 2 else candidates_kept(len(products[0][0]), size)
        groups = [cut(product, keep) for product in products] + groups[len(groups) - len(groups) % 2 :]
    return [row % size for row in cut(groups[0], 1)[0]]


@needs_kernels
@pytest.mark.parametrize(("num_codebooks", "size"), [(1, 16), (2, 16), (3, 4), (4, 16)])
def test_of_equal_energies_the_lower_indexes_are_kept(num_codebooks: int, size: int) -> None:
    # integer channels: sums are exact, and many candidates are equally good
    tables, unary, indexes, _ = problem(num_codebooks, size, 4, dim=3, integers=True)
    order = torch.arange(num_codebooks, device=DEVICE)
    found = refine_triton(unary, indexes, tables, 1, keep_best=False, order=order)
    expected = [stable_pass(unary[b], indexes[b].tolist(), tables) for b in range(len(indexes))]
    assert found.tolist() == expected


@needs_kernels
def test_energies_beyond_float32_give_a_choice_nevertheless() -> None:
    tables, unary, indexes, order = problem(3, 16, 3)
    unary[0, :20] = float("inf")
    unary[1, :] = float("nan")
    unary[2, 30:] = 3e38
    found = refine_triton(unary, indexes, tables, 2, keep_best=False, order=order)
    assert found.min() >= 0
    assert found.max() < 16


@needs_kernels
def test_the_self_check_tells_right_from_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, _, _, _ = problem(3, 16, 1)
    assert agrees_with_plain(tables, DEVICE, vectors=4, iterations=1)

    def worse(unary: Tensor, indexes: Tensor, *_: object, keep_best: bool, order: Tensor) -> Tensor:
        return indexes.clone()

    monkeypatch.setattr(triton_search, "refine_triton", worse)
    assert not agrees_with_plain(tables, DEVICE, vectors=4, iterations=1)


@pytest.mark.slow
@pytest.mark.skipif(RUNS or not triton_available(), reason="the tests above ran, or triton is not installed")
def test_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
