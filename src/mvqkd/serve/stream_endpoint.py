"""WebSocket ``/v1/stream``: one client, one stream of audio, words as they come."""

from __future__ import annotations

import asyncio
import json
from typing import NoReturn

from starlette.websockets import WebSocket, WebSocketDisconnect

from mvqkd.serve.decoding import StreamDecoding
from mvqkd.serve.mailbox import Mailbox, Message
from mvqkd.serve.pcm import MessageDecoder
from mvqkd.serve.protocol import (
    CLOSE_CODE_OF_END,
    CLOSE_INTERNAL,
    CLOSE_POLICY,
    ClientFault,
    Start,
    parse_end,
    parse_start,
)
from mvqkd.serve.service import Service


async def stream_endpoint(websocket: WebSocket) -> None:
    """Serve one client until its stream has ended, it has gone, or it did something wrong."""
    service: Service = websocket.app.state.service
    await websocket.accept()
    try:
        with service.stream():
            start = await _start(websocket, service)
            with service.slot(start.model).use() as model:
                mailbox = Mailbox(service.settings.max_queue_s)
                decoding = StreamDecoding(model, mailbox)
                mailbox.wake = lambda: service.worker.touch(decoding)
                with service.conversation(mailbox, start.model):
                    await _send(websocket, {"type": "ready", **model.describe()})
                    code = await _converse(websocket, service, mailbox, start)
        await websocket.close(code)
    except ClientFault as fault:
        service.metrics.rejected.labels(fault.code).inc()
        await _refuse(websocket, fault)
    except WebSocketDisconnect:
        service.metrics.disconnects.inc()


async def _start(websocket: WebSocket, service: Service) -> Start:
    try:
        async with asyncio.timeout(service.settings.start_timeout_s):
            message = await _receive(websocket)
    except TimeoutError:
        raise _idle("a start message", service.settings.start_timeout_s) from None
    if isinstance(message, bytes):
        raise ClientFault(
            "first message",
            code="malformed",
            expected='{"type": "start", ...}',
            got="binary data",
            next_step="send the start message before the audio",
        )
    return parse_start(message)


async def _converse(websocket: WebSocket, service: Service, mailbox: Mailbox, start: Start) -> int:
    """Pass audio in and messages out at once; the code to close with."""
    receiving = asyncio.create_task(_receive_audio(websocket, service, mailbox, start))
    sending = asyncio.create_task(_send_messages(websocket, mailbox))
    try:
        await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            return sending.result()
        await receiving
    finally:
        for task in (receiving, sending):
            task.cancel()
        await asyncio.gather(receiving, sending, return_exceptions=True)


async def _receive_audio(websocket: WebSocket, service: Service, mailbox: Mailbox, start: Start) -> NoReturn:
    """Read until the client goes or errs; waits while the stream's queue is full, which stops the socket."""
    settings, decoder = service.settings, MessageDecoder(start)
    audio_seconds = service.metrics.audio_seconds.labels(start.model, "stream")
    client_ended = False
    loop = asyncio.get_running_loop()
    # Also by the clock: a client that drips, a sample now and then, would keep its place for ever.
    deadline = loop.time() + settings.max_duration_s + settings.idle_s
    while True:
        try:
            # Once the audio has ended, a client may listen for as long as the results take.
            wait_s = None if mailbox.end_reason else settings.idle_s
            async with asyncio.timeout(wait_s):
                message = await _receive(websocket)
        except TimeoutError:
            if mailbox.end_reason:
                continue
            raise _idle("audio or an end message", settings.idle_s) from None
        if client_ended:
            raise ClientFault(
                "message",
                code="malformed",
                expected="nothing after the end message",
                got="one more message",
                next_step="open a new connection for the next stream",
            )
        if isinstance(message, str):
            parse_end(message)
            client_ended = True
            await mailbox.put(decoder.flush())
            mailbox.finish("client")
            continue
        # Audio that comes after the server has ended the stream is read and dropped: the client cannot know yet.
        before_s = mailbox.accepted_s
        await mailbox.put(decoder.decode(message))
        audio_seconds.inc(mailbox.accepted_s - before_s)
        if mailbox.accepted_s >= settings.max_duration_s or loop.time() >= deadline:
            mailbox.finish("max_duration")


async def _send_messages(websocket: WebSocket, mailbox: Mailbox) -> int:
    """Send what the decoding thread has to say; the code to close with after the last of it."""
    while True:
        for message in await mailbox.next_messages():
            await _send(websocket, message)
            if message["type"] == "end":
                assert mailbox.end_reason is not None
                return CLOSE_CODE_OF_END[mailbox.end_reason]
            if message["type"] == "error":
                return CLOSE_INTERNAL


async def _receive(websocket: WebSocket) -> str | bytes:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    data: bytes | None = message.get("bytes")
    return data if data is not None else str(message["text"])


async def _send(websocket: WebSocket, message: Message) -> None:
    await websocket.send_text(json.dumps(message, ensure_ascii=False))


async def _refuse(websocket: WebSocket, fault: ClientFault) -> None:
    try:
        await _send(websocket, fault.message())
        await websocket.close(fault.close_code, fault.code)
    except WebSocketDisconnect:
        pass  # it has gone before it could be told


def _idle(expected: str, waited_s: float) -> ClientFault:
    return ClientFault(
        "client",
        code="idle",
        close_code=CLOSE_POLICY,
        expected=expected,
        got=f"nothing for {waited_s:g} s",
        next_step="connect again when there is audio",
    )
