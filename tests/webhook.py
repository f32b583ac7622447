"""A webhook on loopback that remembers what it was told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """``statuses`` are answered in turn, 204 when none is left; ``messages`` and ``tokens`` are what came."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def webhook(*statuses: int) -> Iterator[Webhook]:
    """Serve until the block ends."""
    heard = Webhook(statuses=list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            heard.tokens.append(self.headers.get("Authorization"))
            self.send_response(heard.statuses.pop(0) if heard.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        heard.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield heard
        finally:
            server.shutdown()
            thread.join()
