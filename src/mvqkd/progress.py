"""Progress of long work: a bar with rate and time left on a terminal, plain periodic lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_LOG = logging.getLogger("mvqkd.progress")
LINE_INTERVAL_S = 15.0


class Progress:
    """Shows how far a stage is; use as a context manager and call ``advance``.

    Args:
        stage: what is running; begins the bar or the line.
        total: expected amount; None shows a count and rate only.
        unit: what is counted.
        initial: what an earlier, killed run has done already.
    """

    def __init__(self, stage: str, *, total: float | None = None, unit: str = "it", initial: float = 0) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self._initial = initial
        self._started = time.monotonic()
        self._next_line = self._started + LINE_INTERVAL_S
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self.stage,
                total=self.total,
                unit=self.unit,
                initial=self._initial,
                dynamic_ncols=True,
                leave=False,
                bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
                if self.total
                else None,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count ``amount`` more; ``note`` (a loss, say) is shown beside the rate."""
        self.done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_INTERVAL_S
            _LOG.info("%s", self._line(note))

    def _line(self, note: str) -> str:
        rate = (self.done - self._initial) / max(1e-9, time.monotonic() - self._started)
        line = f"{self.stage}: {self.done:.0f}"
        if self.total:
            line += f"/{self.total:.0f}"
        line += f" {self.unit}, {rate:.1f} {self.unit}/s"
        if self.total and rate > 0:
            line += f", {max(0.0, (self.total - self.done) / rate):.0f} s left"
        return f"{line}, {note}" if note else line


def track(
    iterable: Iterable[T], stage: str, *, total: int | None = None, unit: str = "it", initial: int = 0
) -> Iterator[T]:
    """Yield from ``iterable`` and show how far it is; arguments as for ``Progress``."""
    with Progress(stage, total=total, unit=unit, initial=initial) as progress:
        for item in iterable:
            yield item
            progress.advance()
