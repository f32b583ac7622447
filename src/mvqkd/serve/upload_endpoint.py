"""POST ``/v1/transcribe``: a whole recording in, its text out, decoded by the bundle's offline graphs."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from typing import IO, Any

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive

from mvqkd.decode.subtitles import make_cues, render
from mvqkd.decode.transcript import Transcript
from mvqkd.errors import AudioError
from mvqkd.serve.models import LoadedModel
from mvqkd.serve.protocol import ClientFault
from mvqkd.serve.service import Service
from mvqkd.serve.transcribing import transcribe_samples
from mvqkd.serve.upload_audio import decode_upload

_FORMATS = ("json", "text", "srt", "vtt")
_QUERY = {"format", "model", "mix_down"}
_IN_MEMORY_BYTES = 1_000_000
# An upload that drips, a byte now and then, would keep its place: it may take this many times the idle time in all.
_PATIENCE = 10
# The text around the file in a multipart body.
_MULTIPART_MARGIN_BYTES = 16_384


async def transcribe_endpoint(request: Request) -> Response:
    """Receive, decode, answer. The audio lives in memory or in a file without a name, and ends with the request."""
    service: Service = request.app.state.service
    output, model_name, mix_down = _query(request)
    slot = service.slot(model_name)
    with service.upload(), tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
        try:
            async with asyncio.timeout(_PATIENCE * service.settings.idle_s):
                await _receive_upload(request, service, file)
        except TimeoutError:
            raise _too_slow("all of it", f"only a part in {_PATIENCE * service.settings.idle_s:g} s") from None
        with slot.use() as model:
            transcript = await _decode(request, service, model, file, mix_down)
        service.metrics.audio_seconds.labels(model_name, "upload").inc(transcript.duration_s)
        service.metrics.upload_seconds.observe(transcript.wall_s)
    return _answer(transcript, model, output)


def _answer(transcript: Transcript, model: LoadedModel, output: str) -> Response:
    if output == "text":
        return PlainTextResponse(transcript.text + "\n")
    if output == "srt":
        return Response(render(make_cues(transcript.words()), "srt"), media_type="application/x-subrip; charset=utf-8")
    if output == "vtt":
        return Response(render(make_cues(transcript.words()), "vtt"), media_type="text/vtt")
    about = {name: model.describe()[name] for name in ("model", "version", "bundle_id")}
    result = {name: value for name, value in transcript.as_json().items() if name not in ("audio", "rtf")}
    return JSONResponse({**about, **result, "decode_s": round(transcript.wall_s, 4)})


async def _decode(
    request: Request, service: Service, model: LoadedModel, file: IO[bytes], mix_down: bool
) -> Transcript:
    """Decode in the upload thread; a client that leaves meanwhile makes it stop."""
    gone = threading.Event()

    def work() -> Transcript:
        file.seek(0)
        samples = decode_upload(file, max_duration_s=service.settings.max_duration_s, mix_down=mix_down)
        return transcribe_samples(model.transducer, samples, should_stop=gone.is_set)

    working = asyncio.get_running_loop().run_in_executor(service.upload_thread, work)
    # After the body nothing but the end of the connection can come.
    leaving = asyncio.ensure_future(request.receive())
    both: set[asyncio.Future[Any]] = {working, leaving}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    except AudioError as error:
        raise ClientFault(
            error.subject, code="bad_audio", status=422,
            expected=error.expected, got=error.got, next_step=error.next_step,
        ) from error  # fmt: skip
    finally:
        leaving.cancel()
        gone.set()
        # The thread may still read the file, which the caller closes.
        await asyncio.wait({working})


def _query(request: Request) -> tuple[str, str, bool]:
    query = request.query_params
    if unknown := sorted(set(query) - _QUERY):
        raise _malformed("query", ", ".join(sorted(_QUERY)), unknown[0][:40])
    output, mix_down = query.get("format", "json"), query.get("mix_down", "false")
    if output not in _FORMATS:
        raise _malformed("format", " or ".join(_FORMATS), output[:40])
    if mix_down not in ("true", "false"):
        raise _malformed("mix_down", "true or false", mix_down[:40])
    return output, query.get("model", "champion"), mix_down == "true"


async def _receive_upload(request: Request, service: Service, file: IO[bytes]) -> None:
    """Write the uploaded recording to ``file``; stops at the first byte too many.

    Raises:
        ClientFault: too big, too slow, or not a body as it should be.
    """
    limit = service.settings.max_upload_bytes
    declared = request.headers.get("content-length", "0")
    is_multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    margin = _MULTIPART_MARGIN_BYTES if is_multipart else 0
    if declared.isdecimal() and int(declared) > limit + margin:
        raise _too_big(limit)
    bounded = Request(request.scope, _bounded(request.receive, limit + margin, limit, service.settings.idle_s))
    if not is_multipart:
        async for part in bounded.stream():
            file.write(part)
        return
    async with bounded.form(max_files=1, max_fields=4) as form:
        uploads = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(uploads) != 1:
            raise _malformed("multipart body", "one file", f"{len(uploads)} files")
        while part := await uploads[0].read(1 << 16):
            file.write(part)


def _bounded(receive: Receive, stop_bytes: int, limit_bytes: int, idle_s: float) -> Receive:
    """``receive`` that counts what comes, and waits no longer than ``idle_s`` for more."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        try:
            async with asyncio.timeout(idle_s):
                message = await receive()
        except TimeoutError:
            raise _too_slow("more of it", f"nothing for {idle_s:g} s") from None
        received += len(message.get("body", b""))
        if received > stop_bytes:
            raise _too_big(limit_bytes)
        return message

    return bounded


def _too_slow(expected: str, got: str) -> ClientFault:
    return ClientFault("upload", code="idle", status=408, expected=expected, got=got, next_step="send it again")


def _too_big(limit_bytes: int) -> ClientFault:
    return ClientFault(
        "upload",
        code="too_big",
        status=413,
        expected=f"at most {limit_bytes / 1e6:g} MB",
        got="more",
        next_step="cut or compress it, or stream it to /v1/stream",
    )


def _malformed(subject: str, expected: str, got: str) -> ClientFault:
    return ClientFault(
        subject, code="malformed", expected=expected, got=got, next_step="see docs/serving.md for what can be sent"
    )
