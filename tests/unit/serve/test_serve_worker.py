"""The decoding thread with a real recogniser: batches, faults that stay with their stream, swaps of the model."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request

from mvqkd.serve.app import build_app
from mvqkd.serve.decoding import StreamDecoding
from mvqkd.serve.mailbox import Mailbox
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.models import LoadedModel, ModelSlot, ModelSource
from mvqkd.serve.service import Service
from mvqkd.serve.settings import ServeSettings
from mvqkd.serve.worker import DecodingWorker
from mvqkd.testing.tones import make_tone_bundle, say


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource("champion", str(make_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle").path))


async def listen(mailbox: Mailbox) -> dict[str, Any]:
    """The last message."""
    while True:
        for message in await asyncio.wait_for(mailbox.next_messages(), 20):
            if message["type"] in ("end", "error"):
                return message


def sample(metrics: Metrics, name: str) -> float:
    lines = [line for line in metrics.page().decode().splitlines() if line.startswith(name + " ")]
    return float(lines[0].split()[1])


def test_streams_share_calls_and_a_broken_one_falls_alone(
    source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, model = Metrics(), source.load()
    texts = ["ABC DAB", "DAD", "CAB BAD DAB", "BCB"]

    async def scenario() -> list[dict[str, Any]]:
        worker = DecodingWorker(metrics, max_batch=3)
        mailboxes = []
        for text in [*texts, "A"]:
            mailbox = Mailbox(30)
            decoding = StreamDecoding(model, mailbox)
            mailbox.wake = functools.partial(worker.touch, decoding)
            # All are there before the thread begins: they must be taken together.
            await mailbox.put(say(text) if text != "A" else np.full(16_000, np.nan, np.float32))
            mailbox.finish("client")
            mailboxes.append(mailbox)
        worker.start(asyncio.get_running_loop())
        try:
            return [await listen(mailbox) for mailbox in mailboxes]
        finally:
            worker.stop()

    *good, bad = asyncio.run(scenario())
    assert [message["text"] for message in good] == texts
    assert bad["type"] == "error"
    assert bad["code"] == "internal"
    assert "nan" not in bad["message"].lower(), "details stay in the log"
    assert "decoding failed for 1 streams" in caplog.text
    assert sample(metrics, "mvqkd_worker_errors_total") == 1
    calls, advanced = (sample(metrics, f"mvqkd_chunk_batch_size_{what}") for what in ("count", "sum"))
    assert advanced > calls
    assert sample(metrics, 'mvqkd_chunk_batch_size_bucket{le="4.0"}') == calls


def test_a_fault_while_decoding_ends_its_batch_and_not_the_thread(source: ModelSource) -> None:
    metrics, model = Metrics(), source.load()

    async def start(worker: DecodingWorker, *, is_broken: bool) -> Mailbox:
        mailbox = Mailbox(30)
        decoding = StreamDecoding(model, mailbox)
        if is_broken:
            decoding.audio.caches = (np.zeros((1, 1, 1, 1), np.float32),) * 2
        mailbox.wake = functools.partial(worker.touch, decoding)
        await mailbox.put(say("ABC"))
        mailbox.finish("client")
        return mailbox

    async def scenario() -> None:
        worker = DecodingWorker(metrics, max_batch=8)
        together = [await start(worker, is_broken=is_broken) for is_broken in (False, True)]
        worker.start(asyncio.get_running_loop())
        try:
            assert [(await listen(mailbox))["type"] for mailbox in together] == ["error", "error"]
            later = await start(worker, is_broken=False)
            assert (await listen(later))["text"] == "ABC"
        finally:
            worker.stop()

    asyncio.run(scenario())
    assert sample(metrics, "mvqkd_worker_errors_total") == 1


def test_a_stream_is_forgotten_when_it_is_over(source: ModelSource) -> None:
    """At once, not at some collection: it holds megabytes, and its model, which may have been replaced."""
    model = source.load()
    gc.disable()

    async def scenario() -> None:
        worker = DecodingWorker(Metrics(), max_batch=8)
        worker.start(asyncio.get_running_loop())
        try:
            for is_cancelled in (False, True):
                gone = await speak(worker, is_cancelled)
                for _ in range(200):
                    if gone() is None:
                        break
                    await asyncio.sleep(0.01)
                assert gone() is None
        finally:
            gc.enable()
            worker.stop()

    async def speak(worker: DecodingWorker, is_cancelled: bool) -> weakref.ref[StreamDecoding]:
        mailbox = Mailbox(30)
        decoding = StreamDecoding(model, mailbox)
        mailbox.wake = functools.partial(worker.touch, decoding)
        await mailbox.put(say("AB"))
        if not is_cancelled:
            mailbox.finish("client")
            assert (await listen(mailbox))["text"] == "AB"
        mailbox.cancel()
        return weakref.ref(decoding)

    asyncio.run(scenario())


def test_the_old_model_lives_as_long_as_its_last_stream(source: ModelSource, tmp_path: Path) -> None:
    metrics = Metrics()
    models: list[LoadedModel] = []
    versions = itertools.count()

    def load() -> LoadedModel:
        model = source.load()
        model.version = str(next(versions))
        models.append(model)
        return model

    slot = ModelSlot(source, metrics, load)
    old = weakref.ref(models[0])
    with slot.use() as first, slot.use():
        assert slot.update(force=True)
        models.clear()
        with slot.use() as second:
            assert second is not first
        assert sample(metrics, "mvqkd_models_loaded") == 2
        assert old() is first
    del first
    gc.collect()
    assert old() is None
    assert sample(metrics, "mvqkd_models_loaded") == 1
    # Without streams the replaced one goes at once.
    assert slot.update(force=True)
    assert sample(metrics, "mvqkd_models_loaded") == 1


def test_a_dead_decoding_thread_is_no_health() -> None:
    service = Service(ServeSettings(), {}, Metrics())
    app = build_app(service)

    async def status() -> int:
        (route,) = [route for route in app.routes if getattr(route, "path", "") == "/healthz"]
        answer = await route.endpoint(Request({"type": "http", "app": app}))
        return int(answer.status_code)

    async def scenario() -> None:
        service.worker.start(asyncio.get_running_loop())
        assert await status() == 200
        service.close()
        assert await status() == 503

    asyncio.run(scenario())
