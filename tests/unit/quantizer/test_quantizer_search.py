"""The refine pass against a direct computation in the space of the channels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mvqkd.quantizer import search as search_module
from mvqkd.quantizer import triton_search
from mvqkd.quantizer.compiled_search import refine_compiled
from mvqkd.quantizer.plain_search import refine_pass, refine_plain
from mvqkd.quantizer.search import FAST_PASSES, refine, search
from mvqkd.quantizer.tables import build_tables, candidates_kept, pack, relative_energy, unary_energy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small operations: a second thread waits more than it works, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def squared_error(x: Tensor, centers: Tensor, indexes: Tensor) -> Tensor:
    """|x - sum of the chosen centers|^2, the definition."""
    chosen = torch.stack([centers[n, indexes[:, n]] for n in range(len(centers))])
    return (x.double() - chosen.double().sum(0)).square().sum(1)


def direct_pass(x: Tensor, centers: Tensor, indexes: Tensor) -> Tensor:
    """A refine pass of one vector written down as ALGORITHM states it: differences of D channels, lists, sorting."""
    num_codebooks, size, _ = centers.shape
    centers, x = centers.double(), x.double()
    error = sum(centers[n, indexes[n]] for n in range(num_codebooks)) - x
    energy = float(error @ error)
    groups = []
    for n in range(num_codebooks):
        delta = centers[n] - centers[n, indexes[n]]
        errors = (error + delta).square().sum(1)
        best = errors.argsort()[: min(candidates_kept(1, size), size)]
        groups.append([(float(errors[k]), (int(k),), delta[k]) for k in best])
    while len(groups) > 1:
        merged = []
        for even, odd in zip(groups[0::2], groups[1::2], strict=False):
            pairs = [
                (e_error + o_error - energy + 2 * float(e_delta @ o_delta), e_choice + o_choice, e_delta + o_delta)
                for (e_error, e_choice, e_delta), (o_error, o_choice, o_delta) in itertools.product(even, odd)
            ]
            kept = candidates_kept(len(pairs[0][1]), size)
            merged.append(sorted(pairs, key=lambda pair: pair[0])[:kept])
        groups = merged + groups[len(groups) - len(groups) % 2 :]
    return torch.tensor(min(groups[0], key=lambda pair: pair[0])[1])


def problem(num_codebooks: int, size: int, dim: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_codebooks, size, dim, generator=generator) / num_codebooks**0.5
    x = torch.randn(count, dim, generator=generator)
    indexes = torch.randint(0, size, (count, num_codebooks), generator=generator)
    return centers, x, indexes


SIZES = [(1, 16, 5), (2, 4, 6), (3, 16, 8), (7, 16, 9), (4, 16, 8), (8, 256, 24), (16, 16, 20)]


@pytest.mark.parametrize(("num_codebooks", "size", "dim"), SIZES)
def test_energies_are_the_squared_error(num_codebooks: int, size: int, dim: int) -> None:
    centers, x, indexes = problem(num_codebooks, size, dim, 7)
    tables = build_tables(centers)
    energy = relative_energy(indexes, unary_energy(x, tables), tables)
    torch.testing.assert_close(
        energy.double() + x.double().square().sum(1), squared_error(x, centers, indexes), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("num_codebooks", "size", "dim"), SIZES)
def test_a_pass_does_what_the_direct_form_does(num_codebooks: int, size: int, dim: int) -> None:
    centers, x, indexes = problem(num_codebooks, size, dim, 6)
    tables = build_tables(centers)
    proposal, change = refine_pass(unary_energy(x, tables), indexes, tables, torch.arange(len(centers)))
    expected = torch.stack([direct_pass(x[b], centers, indexes[b]) for b in range(len(x))])
    assert proposal.tolist() == expected.tolist()
    exact = squared_error(x, centers, proposal) - squared_error(x, centers, indexes)
    torch.testing.assert_close(change.double(), exact, rtol=1e-4, atol=1e-4)


def test_a_pass_over_two_small_codebooks_finds_the_best_pair() -> None:
    # Every entry of 4 is a candidate, so the merged pair is searched exhaustively.
    centers, x, indexes = problem(2, 4, 6, 20)
    tables = build_tables(centers)
    proposal, _ = refine_pass(unary_energy(x, tables), indexes, tables, torch.arange(len(centers)))
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))
    errors = torch.stack([squared_error(x, centers, choice.expand(len(x), 2)) for choice in every])
    assert proposal.tolist() == every[errors.argmin(0)].tolist()


def test_tables_without_float64_agree() -> None:
    centers, x, _ = problem(4, 16, 32, 9)
    precise, quick = build_tables(centers), build_tables(centers, precise=False)
    torch.testing.assert_close(quick.pairwise, precise.pairwise, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(unary_energy(x, quick), unary_energy(x, precise), rtol=1e-4, atol=1e-4)


def test_energies_without_onednn_agree() -> None:
    centers, x, _ = problem(4, 16, 33, 300)
    tables = build_tables(centers)
    plain = dataclasses.replace(tables, packed=None)
    assert tables.packed is not None or pack(torch.ones(2, 2)) is None
    torch.testing.assert_close(unary_energy(x, tables), unary_energy(x, plain), rtol=1e-5, atol=1e-5)


def test_no_interaction_within_a_codebook() -> None:
    centers, _, _ = problem(4, 16, 8, 1)
    pairwise = build_tables(centers).pairwise.view(4, 16, 4, 16)
    assert pairwise.diagonal(dim1=0, dim2=2).abs().max() == 0
    torch.testing.assert_close(pairwise[1, 3, 2, 5], 2 * centers[1, 3] @ centers[2, 5])
    torch.testing.assert_close(pairwise[2, 5, 1, 3], 2 * centers[1, 3] @ centers[2, 5])


def test_refining_never_makes_a_vector_worse() -> None:
    centers, x, indexes = problem(8, 16, 12, 400)
    tables = build_tables(centers)
    unary = unary_energy(x, tables)
    errors = [squared_error(x, centers, refine(unary, indexes, tables, count)) for count in range(7)]
    for earlier, later in itertools.pairwise(errors):
        assert (later <= earlier + 1e-4).all()
    assert errors[5].sum() < 0.9 * errors[1].sum() < 0.9 * errors[0].sum()


def test_stopping_early_changes_nothing_and_the_best_is_kept() -> None:
    centers, x, indexes = problem(8, 16, 12, 400)
    tables = build_tables(centers)
    unary = unary_energy(x, tables)
    current, last_seen, best, best_error = indexes, [indexes], indexes.clone(), squared_error(x, centers, indexes)
    for _ in range(6):
        current, _ = refine_pass(unary, current, tables, torch.arange(8))
        last_seen.append(current)
        error = squared_error(x, centers, current)
        better = error < best_error - 1e-4
        best[better], best_error[better] = current[better], error[better]
    # the problem must hold a vector that a pass made worse, and one that came to rest
    assert (squared_error(x, centers, current) > best_error + 1e-3).any()
    assert (last_seen[3] == last_seen[4]).all(1).any()
    found = refine(unary, indexes, tables, 6)
    torch.testing.assert_close(squared_error(x, centers, found), best_error, rtol=1e-4, atol=1e-4)
    assert refine(unary, indexes, tables, 6, keep_best=False).tolist() == current.tolist()


COMPILED_SIZES = [
    (1, 16),
    (1, 256),
    (2, 32),
    (3, 16),
    (4, 256),
    (5, 256),
    (8, 16),
    (8, 256),
    (9, 16),
    (13, 64),
    (16, 256),
]


@pytest.mark.parametrize(("num_codebooks", "size"), COMPILED_SIZES)
@pytest.mark.parametrize("keep_best", [True, False])
def test_the_compiled_search_is_the_plain_one(num_codebooks: int, size: int, keep_best: bool) -> None:
    centers, x, indexes = problem(num_codebooks, size, 24, 100, seed=num_codebooks)
    tables = build_tables(centers)
    unary = unary_energy(x, tables)
    for iterations, seed in ((1, 0), (5, 1)):
        order = torch.randperm(num_codebooks, generator=torch.Generator().manual_seed(seed))
        options = {"keep_best": keep_best, "order": order}
        plain = refine_plain(unary, indexes, tables, iterations, **options)
        found = refine_compiled(unary, indexes, tables, iterations, **options)
        assert found.tolist() == plain.tolist()


@pytest.mark.parametrize("num_codebooks", [32, 64, 100, 128])
def test_the_compiled_search_takes_many_codebooks(num_codebooks: int) -> None:
    centers, x, indexes = problem(num_codebooks, 16, 24, 3)
    tables = build_tables(centers)
    unary, order = unary_energy(x, tables), torch.arange(num_codebooks)
    plain = refine_plain(unary, indexes, tables, 2, keep_best=False, order=order)
    assert refine_compiled(unary, indexes, tables, 2, keep_best=False, order=order).tolist() == plain.tolist()


def test_equal_energies_go_to_the_first() -> None:
    # All entries alike: every choice is as good as any other.
    centers = torch.ones(4, 256, 3)
    tables = build_tables(centers)
    unary, indexes = unary_energy(torch.ones(2, 3), tables), torch.full((2, 4), 7)
    found = refine_compiled(unary, indexes, tables, 1, keep_best=False, order=torch.arange(4))
    assert found.tolist() == [[0] * 4] * 2


def test_threads_do_not_change_the_indexes() -> None:
    centers, x, indexes = problem(8, 256, 24, 1000)
    tables = build_tables(centers)
    unary = unary_energy(x, tables)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(refine(unary, indexes, tables, 3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_a_search_for_the_best_goes_on_and_the_fast_one_stops() -> None:
    centers, x, first = problem(8, 256, 24, 500)
    tables = build_tables(centers)
    unary = unary_energy(x, tables)
    error = {
        mode: float(squared_error(x, centers, search(unary, first, tables, mode, 5)).sum())
        for mode in ("fast", "exact", "best")
    }
    assert error["best"] < 0.99 * min(error["exact"], error["fast"]), error
    assert torch.equal(search(unary, first, tables, "fast", 5), refine(unary, first, tables, FAST_PASSES))
    assert torch.equal(search(unary, first, tables, "fast", 1), refine(unary, first, tables, 1))
    every = [squared_error(x, centers, search(unary, first, tables, mode, 5)) for mode in ("best", "exact")]
    assert (every[0] <= every[1] + 1e-4).all()
    with pytest.raises(ValueError, match="one of exact, best, fast"):
        search(unary, first, tables, "quick", 5)


@pytest.mark.parametrize(
    ("available", "answer", "said"),
    [
        (False, True, "not installed"),
        (True, False, "other indexes"),
        (True, OSError("no\ncc"), "OSError: no"),
    ],
)
def test_a_device_without_working_kernels_falls_back_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    available: bool,
    answer: bool | Exception,
    said: str,
) -> None:
    def agrees(*_: object) -> bool:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(triton_search, "triton_available", lambda: available)
    monkeypatch.setattr(triton_search, "agrees_with_plain", agrees)
    monkeypatch.setattr(search_module, "_TRITON_WORKS", {})
    tables, device = build_tables(problem(2, 16, 4, 1)[0]), torch.device("cuda:0")
    assert not search_module._triton_works(device, tables)
    assert not search_module._triton_works(device, tables)
    assert said in caplog.text
    assert len(caplog.records) == 1


def test_no_passes_and_no_vectors() -> None:
    centers, x, indexes = problem(4, 16, 8, 5)
    tables = build_tables(centers)
    assert refine(unary_energy(x, tables), indexes, tables, 0).tolist() == indexes.tolist()
    assert refine(unary_energy(x[:0], tables), indexes[:0], tables, 3).shape == (0, 4)


@pytest.mark.parametrize(
    ("size", "kept"),
    [(256, {1: 16, 2: 16, 4: 32, 8: 32, 16: 64, 32: 64, 64: 128, 256: 128}), (16, {1: 8, 2: 8, 4: 16, 16: 32})],
)
def test_candidates_double_with_every_fourfold_length(size: int, kept: dict[int, int]) -> None:
    assert {length: candidates_kept(length, size) for length in kept} == kept
