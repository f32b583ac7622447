"""Load the next thing while the present one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from mvqkd.device import take_one_torch_thread

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(items: Iterable[Item], load: Callable[[Item], Loaded]) -> Generator[Loaded, None, None]:
    """Yield ``load(item)`` in order; one thread is one item ahead of the caller, never more.

    What ``load`` raises is raised where its result would have been yielded. Closing the generator waits for the item
    in hand. ``load`` must not draw from the global random generators, which are the caller's.
    """
    threads = torch.get_num_threads()
    # One: more threads in all than cores make those of the training step sleep where they would wait awake, which costs
    # two fifths of the speed.
    with ThreadPoolExecutor(1, thread_name_prefix="mvqkd-load", initializer=take_one_torch_thread) as pool:
        pool.submit(int).result()
        torch.set_num_threads(threads)
        ahead: Future[Loaded] | None = None
        for item in items:
            ready, ahead = ahead, pool.submit(load, item)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()
