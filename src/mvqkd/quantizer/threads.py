"""Rows of a batch shared among threads, each of which does all the work on its part by itself.

torch shares every single operation among its threads, which then wait for each other at its end: with two threads
that made the search for codebook indexes 1.4 times as fast, parts of rows make it 1.9 times as fast.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache
from threading import Barrier

import torch

from mvqkd.device import take_one_torch_thread

# A thread takes its share in so many parts, so that all threads end at about the same time.
PARTS_PER_THREAD = 2
# Whether this thread is one of the pool's.
_OF_POOL: ContextVar[bool] = ContextVar("of_pool", default=False)


def in_parts(work: Callable[[slice], None], rows: int, *, block: int, most: int | None = None) -> None:
    """Call ``work`` with slices that make up ``rows``, on as many threads as torch uses.

    While it works on a part, a thread has torch to itself, with one thread and without gradients. Where there is but
    one part, the caller works on it, with all of torch's threads.

    Args:
        block: the rows of a slice are a multiple of this; only the last slice may have others.
        most: rows of a slice at most, a multiple of ``block``.
    """
    threads = 1 if _OF_POOL.get() else torch.get_num_threads()
    shares = 1 if threads == 1 else PARTS_PER_THREAD * threads
    size = max(1, -(-rows // (block * shares))) * block
    size = size if most is None else min(size, most)
    parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    inference = torch.is_inference_mode_enabled()  # known to the caller's thread only

    def work_alone(part: slice) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
    else:
        list(_pool(threads).map(work_alone, parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mvqkd-search")
    all_started = Barrier(threads)

    def start(_: int) -> None:
        _OF_POOL.set(True)
        take_one_torch_thread()
        all_started.wait()

    list(pool.map(start, range(threads)))
    torch.set_num_threads(threads)
    return pool


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
