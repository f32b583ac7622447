"""The server's state: models, open streams, limits, and how it comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from mvqkd.serve.mailbox import Mailbox
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.models import ModelSlot
from mvqkd.serve.protocol import CLOSE_BUSY, CLOSE_POLICY, CLOSE_RESTART, ClientFault, ModelName
from mvqkd.serve.settings import ServeSettings
from mvqkd.serve.worker import DecodingWorker

# A stream is over in minutes, an upload in seconds; both hints spread clients that come back.
_RETRY_AFTER_S = 5
_POLL_S = 0.05


class Service:
    """One server. All methods belong to the event loop.

    Args:
        slots: models by the name that clients use.
    """

    def __init__(self, settings: ServeSettings, slots: Mapping[ModelName, ModelSlot], metrics: Metrics) -> None:
        self.settings = settings
        self.slots: dict[str, ModelSlot] = {str(name): slot for name, slot in slots.items()}
        self.metrics = metrics
        self.worker = DecodingWorker(metrics, settings.max_batch)
        # Whole recordings are decoded one after another, so that they take at most one core from the streams.
        self.upload_thread = ThreadPoolExecutor(1, thread_name_prefix="mvqkd-upload")
        self.is_draining = False
        self._mailboxes: set[Mailbox] = set()
        self._streams = 0
        self._uploads = 0
        metrics.measure_queue(lambda: sum(mailbox.queued_s for mailbox in list(self._mailboxes)))

    def slot(self, model: str) -> ModelSlot:
        """The model of that name.

        Raises:
            ClientFault: this server has none.
        """
        if model not in self.slots:
            raise ClientFault(
                f"model {model}",
                code="no_such_model",
                close_code=CLOSE_POLICY,
                status=404,
                expected=" or ".join(self.slots),
                got=model,
                next_step="name one of these",
            )
        return self.slots[model]

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Hold one of the places for streams.

        Raises:
            ClientFault: all are taken, or the server is ending.
        """
        self._refuse_when_draining()
        if self._streams >= self.settings.max_streams:
            raise _busy("streams", self.settings.max_streams)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Hold one of the places for uploads; as ``stream``."""
        self._refuse_when_draining()
        if self._uploads >= self.settings.max_uploads:
            raise _busy("uploads", self.settings.max_uploads)
        self._uploads += 1
        self.metrics.uploads_open.inc()
        try:
            yield
        finally:
            self._uploads -= 1
            self.metrics.uploads_open.dec()

    @contextmanager
    def conversation(self, mailbox: Mailbox, model: str) -> Iterator[None]:
        """Count a mailbox among the open ones; its stream is cancelled when the block ends.

        Raises:
            ClientFault: the server is ending.
        """
        self._refuse_when_draining()
        self._mailboxes.add(mailbox)
        self.metrics.streams_open.labels(model).inc()
        try:
            yield
        finally:
            mailbox.cancel()
            self._mailboxes.discard(mailbox)
            self.metrics.streams_open.labels(model).dec()

    async def drain(self) -> None:
        """Take nothing new; give what runs ``drain_s`` to end, the last part of it with no more audio coming in."""
        self.is_draining = True
        # Decoding what has arrived takes moments; a slow client gets its last message, too.
        grace_s = min(5.0, self.settings.drain_s / 2)
        last_audio_s = self.settings.drain_s - grace_s
        for mailbox in self._mailboxes:
            mailbox.deliver([{"type": "draining", "finish_within_s": round(last_audio_s, 1)}])
        await self._wait_until_idle(last_audio_s)
        for mailbox in self._mailboxes:
            mailbox.finish("draining")
        await self._wait_until_idle(grace_s)

    def close(self) -> None:
        """End the threads."""
        self.worker.stop()
        self.upload_thread.shutdown(wait=True, cancel_futures=True)

    async def _wait_until_idle(self, at_most_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + at_most_s
        while (self._streams or self._uploads) and loop.time() < deadline:
            await asyncio.sleep(_POLL_S)

    def _refuse_when_draining(self) -> None:
        if self.is_draining:
            raise ClientFault(
                "server",
                code="draining",
                close_code=CLOSE_RESTART,
                status=503,
                retry_after_s=_RETRY_AFTER_S,
                expected="a running server",
                got="one that is about to end",
                next_step=f"connect again in {_RETRY_AFTER_S} s",
            )


def _busy(what: str, limit: int) -> ClientFault:
    return ClientFault(
        "server",
        code="busy",
        close_code=CLOSE_BUSY,
        status=503,
        retry_after_s=_RETRY_AFTER_S,
        expected=f"at most {limit} {what} at once",
        got="one more",
        next_step=f"try again in {_RETRY_AFTER_S} s",
    )
