"""Progress of long work: a bar with rate and time left on a terminal, plain periodic lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LOG = logging.getLogger("mvqkd.progress")
LINE_INTERVAL_S = 15.0


def track(
    iterable: Iterable[T], stage: str, *, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Yield from ``iterable`` and show how far it is.

    Args:
        stage: what is running; begins the bar or the line.
        total: expected number of items; None shows a count and rate only.
        initial: items that an earlier, killed run has done already.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, desc=stage, total=total, unit=unit, initial=initial, dynamic_ncols=True, leave=False)
    else:
        yield from _track_in_lines(iterable, stage, total, unit, initial)


def _track_in_lines(iterable: Iterable[T], stage: str, total: int | None, unit: str, initial: int) -> Iterator[T]:
    started = time.monotonic()
    next_line = started + LINE_INTERVAL_S
    done = initial
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now >= next_line:
            next_line = now + LINE_INTERVAL_S
            rate = (done - initial) / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            _LOG.info("%s: %d%s %s, %.1f %s/s%s", stage, done, f"/{total}" if total else "", unit, rate, unit, left)
