"""The decoding thread: takes every stream that has a chunk waiting into one call of the recogniser.

Batches form by themselves: what arrives while one call runs is in the next. A stream alone is decoded at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from mvqkd.serve.decoding import StreamDecoding
from mvqkd.serve.mailbox import Mailbox, Message
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.protocol import CLOSE_INTERNAL, ClientFault

_log = logging.getLogger(__name__)

Deliveries = list[tuple[Mailbox, list[Message]]]


class DecodingWorker:
    """Owns the only thread that calls a ``StreamingRecognizer``.

    Args:
        metrics: batch sizes, times and faults are counted there.
        max_batch: streams in one call.
    """

    def __init__(self, metrics: Metrics, max_batch: int) -> None:
        self._metrics = metrics
        self._max_batch = max_batch
        self._touched: queue.SimpleQueue[StreamDecoding | None] = queue.SimpleQueue()
        # A dict keeps the order of arrival, a set would not.
        self._active: dict[StreamDecoding, None] = {}
        self._deliveries: Deliveries = []
        self._send: Callable[[Deliveries], object] = lambda _: None
        self._thread = threading.Thread(target=self._run, name="mvqkd-decoding", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; messages are delivered on ``loop``."""
        self._send = lambda deliveries: loop.call_soon_threadsafe(_deliver, deliveries)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; if it does not, nothing will ever be decoded."""
        return self._thread.is_alive()

    def touch(self, decoding: StreamDecoding) -> None:
        """Say that a stream has new audio, has ended or was cancelled. Thread-safe."""
        self._touched.put(decoding)

    def stop(self) -> None:
        """End the thread after the call that runs; streams that are open get no more messages."""
        self._touched.put(None)
        self._thread.join()

    def _run(self) -> None:
        # No stream is a variable here: waiting must not keep the last one and its model in memory.
        while self._collect():
            self._round()
            if self._deliveries:
                deliveries, self._deliveries = self._deliveries, []
                try:
                    self._send(deliveries)
                except RuntimeError:  # the loop has been closed: nobody is there to read
                    return
                del deliveries

    def _round(self) -> None:
        """Advance every stream that has a chunk by one."""
        ready = [decoding for decoding in list(self._active) if self._is_ready(decoding)]
        for batch in _batches(ready, self._max_batch):
            self._decode(batch)
        # Those not in `ready` have nothing left; they come back when they are touched.
        self._active = {decoding: None for decoding in ready if decoding in self._active}

    def _collect(self) -> bool:
        """Wait for streams to look at; False when the thread is to end."""
        try:
            touched = self._touched.get(block=not self._active)
            while True:
                if touched is None:
                    return False
                self._active[touched] = None
                touched = self._touched.get_nowait()
        except queue.Empty:
            return True

    def _is_ready(self, decoding: StreamDecoding) -> bool:
        mailbox = decoding.mailbox
        if mailbox.cancelled:
            return False
        try:
            ready = decoding.fill()
            messages = decoding.last_messages() if decoding.is_done else []
        except Exception:
            self._fail([decoding])
            return False
        if messages or mailbox.is_waiting:
            self._deliveries.append((mailbox, messages))
        return ready

    def _decode(self, batch: list[StreamDecoding]) -> None:
        started = time.monotonic()
        try:
            batch[0].model.recognizer.decode([decoding.audio for decoding in batch])
            ended = time.monotonic()
            for decoding in batch:
                decoding.decode_s += (ended - started) / len(batch)
                self._metrics.chunk_latency_seconds.observe(ended - decoding.arrived)
                self._deliveries.append((decoding.mailbox, decoding.after_chunk()))
        except Exception:
            self._fail(batch)
            return
        self._metrics.batch_size.observe(len(batch))
        self._metrics.decode_seconds.observe(ended - started)

    def _fail(self, batch: list[StreamDecoding]) -> None:
        """Give these streams up and go on with the others."""
        _log.exception("decoding failed for %d streams", len(batch))
        self._metrics.worker_errors.inc()
        fault = ClientFault(
            "stream",
            code="internal",
            close_code=CLOSE_INTERNAL,
            expected="a result",
            got="a fault in the server",
            next_step="connect again; the server's log says more",
        )
        for decoding in batch:
            self._active.pop(decoding, None)
            self._deliveries.append((decoding.mailbox, [fault.message()]))


def _batches(ready: list[StreamDecoding], max_batch: int) -> Iterator[list[StreamDecoding]]:
    """Streams of one model together, at most ``max_batch`` at once."""
    by_model: dict[int, list[StreamDecoding]] = {}
    for decoding in ready:
        by_model.setdefault(id(decoding.model), []).append(decoding)
    for group in by_model.values():
        for first in range(0, len(group), max_batch):
            yield group[first : first + max_batch]


def _deliver(deliveries: Deliveries) -> None:
    for mailbox, messages in deliveries:
        mailbox.deliver(messages)
