"""What the event loop and the decoding thread hand each other for one stream."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.serve.protocol import EndReason

Floats = NDArray[np.float32]
Message = dict[str, Any]


def _nobody() -> None:
    """Wake nobody: before a stream is decoded, and after."""


class Mailbox:
    """Audio one way, messages the other.

    Every attribute has one writing thread: ``put``, ``finish``, ``cancel``, ``deliver`` and ``next_messages`` belong to
    the event loop, ``take`` to the decoding thread. No lock is held while anybody works.

    Args:
        max_queue_s: audio in here before ``put`` waits.

    ``wake`` is called after each change; set it so that the decoding thread looks at the stream.
    """

    def __init__(self, max_queue_s: float) -> None:
        self.wake: Callable[[], None] = _nobody
        self.cancelled = False
        self.end_reason: EndReason | None = None
        self.is_waiting = False
        self._max_samples = round(max_queue_s * SAMPLE_RATE_HZ)
        self._blocks: deque[tuple[Floats, float]] = deque()
        # Two counters that only grow, one a thread: their difference needs no lock.
        self._put_samples = 0
        self._taken_samples = 0
        self._space = asyncio.Event()
        self._news = asyncio.Event()
        self._outgoing: list[Message] = []

    @property
    def queued_s(self) -> float:
        """Audio that waits to be decoded."""
        return (self._put_samples - self._taken_samples) / SAMPLE_RATE_HZ

    @property
    def accepted_s(self) -> float:
        """Audio put in so far."""
        return self._put_samples / SAMPLE_RATE_HZ

    async def put(self, samples: Floats) -> None:
        """Add float32 (n,) at 16 kHz; waits while the queue is full. Nothing is taken in after ``finish``."""
        arrived = time.monotonic()
        while self._is_full():
            self._space.clear()
            self.is_waiting = True
            # Once more: the other thread may have made space before it could see that somebody waits.
            if self._is_full():
                await self._space.wait()
            self.is_waiting = False
        if self.end_reason is None and not self.cancelled and samples.size:
            self._put_samples += samples.size
            self._blocks.append((samples, arrived))
            self.wake()

    def finish(self, reason: EndReason) -> None:
        """No more audio; what was put in is still decoded. The first reason stays."""
        if self.end_reason is None:
            self.end_reason = reason
            self._space.set()
            self.wake()

    def cancel(self) -> None:
        """The stream is over, however it ended: forget the audio."""
        self.cancelled = True
        self._blocks.clear()
        self._space.set()
        self.wake()
        # `wake` knows the stream's decoding, which knows this: a circle would keep its megabytes until some collection.
        self.wake = _nobody

    def deliver(self, messages: list[Message]) -> None:
        """Add messages for the client. A newer partial takes the place of one that was not sent yet."""
        for message in messages:
            if self._outgoing and self._outgoing[-1]["type"] == message["type"] == "partial":
                self._outgoing[-1] = message
            else:
                self._outgoing.append(message)
        if messages:
            self._news.set()
        self._space.set()

    async def next_messages(self) -> list[Message]:
        """Wait for messages and take all of them."""
        await self._news.wait()
        self._news.clear()
        messages, self._outgoing = self._outgoing, []
        return messages

    def take(self) -> tuple[Floats, float] | None:
        """The next block and the time (``time.monotonic``) of its arrival; None: there is none now."""
        try:
            samples, arrived = self._blocks.popleft()
        except IndexError:
            return None
        self._taken_samples += samples.size
        return samples, arrived

    def _is_full(self) -> bool:
        full = self._put_samples - self._taken_samples >= self._max_samples
        return full and self.end_reason is None and not self.cancelled
