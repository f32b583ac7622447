"""Keep other web sites out: checks of Host and Origin before anything else, strict headers on every answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mvqkd.serve.metrics import Metrics

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SAFE_METHODS = frozenset({"GET", "HEAD"})
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """ASGI middleware.

    Host: on loopback only this machine's own names are answered, or a site whose name is made to point to 127.0.0.1
    could read everything (DNS rebinding). Origin: a browser states which site a page is from; pages of other sites
    may neither open a stream nor upload. Programs that are no browser send no Origin and pass.

    Args:
        is_loopback: whether the server is bound to this machine only.
        allow_origins: further origins, such as ``https://app.example``.
    """

    def __init__(self, app: ASGIApp, *, is_loopback: bool, allow_origins: Iterable[str], metrics: Metrics) -> None:
        self._app = app
        self._is_loopback = is_loopback
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allow_origins)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if self._is_loopback and _name_and_port(f"//{headers.get('host', '')}")[0] not in _LOOPBACK_NAMES:
            await self._refuse(scope, send, 421, "host")
            return
        is_safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
        if not (is_safe or origin is None or self._is_allowed(origin, headers.get("host", ""))):
            await self._refuse(scope, send, 403, "origin")
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer.setdefault(name, value)
                if origin is not None and origin.lower() in self._allowed:
                    answer["access-control-allow-origin"] = origin
                    answer["access-control-allow-headers"] = "content-type"
                    answer["cross-origin-resource-policy"] = "cross-origin"
                    answer.add_vary_header("origin")
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _is_allowed(self, origin: str, host: str) -> bool:
        if origin.lower() in self._allowed:
            return True
        # Scheme aside: behind a proxy that ends TLS the server cannot know that it is https.
        scheme = urlsplit(origin).scheme
        return scheme in _DEFAULT_PORTS and _name_and_port(origin) == _name_and_port(f"{scheme}://{host}")

    async def _refuse(self, scope: Scope, send: Send, status: int, reason: str) -> None:
        self._metrics.rejected.labels(reason).inc()
        body = json.dumps({"error": {"code": reason, "message": f"this {reason} is not served"}}).encode()
        prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        await send({"type": f"{prefix}.start", "status": status, "headers": headers})
        await send({"type": f"{prefix}.body", "body": body})


def _name_and_port(url: str) -> tuple[str, int | None]:
    """Host name and port of a URL; the name is "" where there is no sense in it."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").rstrip("."), parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", None
