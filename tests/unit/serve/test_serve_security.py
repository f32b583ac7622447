"""Which Host and Origin pass: the guard in front of an application that would answer anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from mvqkd.serve.metrics import Metrics
from mvqkd.serve.security import Guard


def answer(method: str, host: str | None, origin: str | None, **options: Any) -> tuple[int, dict[str, str]]:
    settings = {"is_loopback": True, "allow_origins": [], "metrics": Metrics()} | options
    guard = Guard(PlainTextResponse("yes"), **settings)
    headers = [(name, value.encode()) for name, value in ((b"host", host), (b"origin", origin)) if value is not None]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    kind = "websocket" if method == "WS" else "http"
    scope = {"type": kind, "method": method, "path": "/", "headers": headers, "extensions": {}}
    if kind == "websocket":
        scope["extensions"] = {"websocket.http.response": {}}
    asyncio.run(guard(scope, receive, send))
    named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], named


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8470", 200),
        ("localhost", 200),
        ("LOCALHOST:8470", 200),
        ("[::1]:8470", 200),
        ("localhost.", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:8470@localhost.evil", 421),
        ("[", 421),
        ("", 421),
        (None, 421),
    ],
)
def test_on_loopback_only_its_own_names_are_answered(host: str | None, status: int) -> None:
    assert answer("GET", host, None)[0] == status


def test_elsewhere_any_name_is() -> None:
    assert answer("GET", "asr.example", None, is_loopback=False)[0] == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:8470", "http://localhost:8470", 200),
        ("localhost:8470", None, 200),
        ("localhost:8470", "http://localhost:3000", 403),
        ("localhost:8470", "http://127.0.0.1:8470", 403),
        ("localhost:8470", "null", 403),
        ("localhost:8470", "http://localhost:8470.evil.example", 403),
        ("localhost:8470", "file://localhost:8470", 403),
        ("localhost", "http://localhost", 200),
        ("localhost:80", "http://localhost", 200),
        ("localhost", "https://localhost:443", 200),
        ("localhost:8470", "https://app.example", 200),
        ("localhost:8470", "https://APP.example", 200),
        ("localhost:8470", "http://app.example", 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_pages_of_other_origins_may_send_nothing(method: str, host: str, origin: str | None, status: int) -> None:
    found, headers = answer(method, host, origin, allow_origins=["https://app.example/"])
    assert found == status
    allowed = origin is not None and origin.lower() == "https://app.example"
    assert ("access-control-allow-origin" in headers) == allowed


def test_a_websocket_is_refused_before_it_is_one() -> None:
    metrics = Metrics()
    assert answer("WS", "localhost", "http://evil.example", metrics=metrics)[0] == 403
    assert answer("WS", "evil.example", None, metrics=metrics)[0] == 421
    page = metrics.page().decode()
    assert 'mvqkd_rejected_total{reason="origin"} 1.0' in page
    assert 'mvqkd_rejected_total{reason="host"} 1.0' in page
