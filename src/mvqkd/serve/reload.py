"""Follow the registry: when an alias moves, load the new bundle beside the old one, then swap."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from mvqkd.errors import MvqkdError
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.models import ModelSlot

_log = logging.getLogger(__name__)


class Reloader:
    """Looks at the sources every ``period_s``, or when asked to.

    Directories are looked at only when asked: a directory that a stage is about to replace is nothing to poll.
    """

    def __init__(self, slots: Iterable[ModelSlot], metrics: Metrics, period_s: float) -> None:
        self._slots = list(slots)
        self._metrics = metrics
        self._period_s = period_s
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Look now, at directories too (SIGHUP)."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._period_s)
            force = self._asked.is_set()
            self._asked.clear()
            for slot in self._slots:
                if force or slot.source.has_alias:
                    await self._update(slot, force=force)

    async def _update(self, slot: ModelSlot, *, force: bool) -> None:
        swaps = self._metrics.swaps
        try:
            if await asyncio.to_thread(slot.update, force=force):
                swaps.labels(slot.source.name, "swapped").inc()
        except MvqkdError as error:
            swaps.labels(slot.source.name, "failed").inc()
            _log.error("%s stays as it is: %s", slot.source.name, error)
        except Exception:
            # Whatever a new bundle does wrong must not end the server that serves the old one.
            swaps.labels(slot.source.name, "failed").inc()
            _log.exception("%s stays as it is", slot.source.name)
