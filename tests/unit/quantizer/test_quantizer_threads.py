from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch

from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.threads import PARTS_PER_THREAD, in_parts

JOIN_S = 60


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def _parts(rows: int, *, block: int, most: int | None = None) -> list[tuple[int, int]]:
    parts = []
    in_parts(lambda part: parts.append((part.start, part.stop)), rows, block=block, most=most)
    return sorted(parts)


@pytest.mark.parametrize(("rows", "block", "most"), [(1, 4, None), (4, 4, 4), (1000, 64, 128), (1001, 64, None)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_row_is_in_one_part(rows: int, block: int, most: int | None, threads: int) -> None:
    torch.set_num_threads(threads)
    parts = _parts(rows, block=block, most=most)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(rows))
    assert all((stop - start) % block == 0 for start, stop in parts[:-1])
    assert most is None or all(stop - start <= most for start, stop in parts)


def test_no_rows_no_parts() -> None:
    assert _parts(0, block=4) == []


def test_one_thread_takes_as_much_as_it_may() -> None:
    torch.set_num_threads(1)
    assert _parts(1000, block=64) == [(0, 1000)]


def test_each_thread_has_torch_to_itself_and_the_caller_keeps_its_threads() -> None:
    seen = {}
    together = threading.Barrier(2)  # breaks unless two threads are at work at the same time

    def work(part: slice) -> None:
        together.wait(JOIN_S)
        seen[part.start] = torch.get_num_threads(), torch.is_grad_enabled(), threading.current_thread().name

    in_parts(work, 64 * 2 * PARTS_PER_THREAD, block=64)
    assert len({name for *_, name in seen.values()}) == 2
    assert {(count, grad) for count, grad, _ in seen.values()} == {(1, False)}
    assert torch.get_num_threads() == 2


def test_a_part_within_a_part_does_not_wait_for_the_threads_that_wait_for_it() -> None:
    done = []

    def work(part: slice) -> None:
        in_parts(lambda inner: done.append((part.start, inner.start)), 1000, block=64)

    run = threading.Thread(target=lambda: in_parts(work, 1000, block=64), daemon=True)
    run.start()
    run.join(JOIN_S)
    assert not run.is_alive()
    assert len({outer for outer, _ in done}) == 4


def test_an_error_reaches_the_caller() -> None:
    def work(part: slice) -> None:
        if part.start:
            raise ValueError(f"at {part.start}")

    with pytest.raises(ValueError, match="at 256"):
        in_parts(work, 1000, block=256)


def test_encode_in_inference_mode() -> None:
    quantizer, x = Quantizer(32, 4, 256), torch.randn(1500, 32)
    expected = quantizer.encode(x)
    with torch.inference_mode():
        assert torch.equal(quantizer.encode(x), expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    in_parts(lambda part: None, 1000, block=64)  # this process has started its own
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=_fork_parts, args=(results,), daemon=True)
    process.start()
    process.join(JOIN_S)
    alive = process.is_alive()
    if alive:
        process.kill()
    assert not alive
    assert results.get() == 1000


def _fork_parts(results: multiprocessing.SimpleQueue[int]) -> None:
    rows = []
    in_parts(lambda part: rows.append(part.stop - part.start), 1000, block=64)
    results.put(sum(rows))
