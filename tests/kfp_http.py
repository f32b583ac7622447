"""The stand-in of ``tests.kfp_server`` on a port of loopback, with faults to order."""

from __future__ import annotations

import email.parser
import email.policy
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.kfp_server import PREFIX, STATUS, Fault, KfpServer, Refusal, Request, UploadRefusal


class _Handler(BaseHTTPRequestHandler):
    memory: ClassVar[KfpServer]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets, the second of which would wait 40 ms

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        request = Request(
            self.command,
            parts.path,
            {name: values[0] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            self._body(),
        )
        self.memory.requests.append(request)
        fault = self._fault(request)
        if fault is not None:
            if fault.carried_out:
                self.memory.answer(request)
            time.sleep(fault.delay_s)
            self._send(fault.status, fault.body.encode(), fault.headers)
            return
        try:
            status, answer = 200, self.memory.answer(request)
        except Refusal as refusal:
            # The message has every layer of the server in it, the detail is for users.
            status = STATUS[refusal.code]
            detail = {
                "@type": "type.googleapis.com/google.rpc.Status",
                "code": refusal.code,
                "message": refusal.message,
            }
            message = f"Failed to do it: SomeError: {refusal.message}"
            answer = {"code": refusal.code, "message": message, "details": [detail]}
        except UploadRefusal as refusal:
            status, answer = refusal.status, {"error_message": str(refusal), "error_details": str(refusal)}
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_GET = do_POST = do_DELETE = _handle

    def _body(self) -> Any:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            message = parser.parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + data)
            (part,) = [part for part in message.iter_parts() if part.get_param("name", header="content-disposition")]
            assert part.get_param("name", header="content-disposition") == "uploadfile"
            return part.get_filename(), part.get_payload(decode=True)
        return json.loads(data) if data else None

    def _fault(self, request: Request) -> Fault | None:
        for fault in self.memory.faults:
            matched = re.fullmatch(PREFIX + fault.path, request.path)
            if fault.times > 0 and fault.method == request.method and matched:
                fault.times -= 1
                return fault
        return None

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    # A client that waits for no answer must not hold up the end of a test.
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Handshakes that fail are what some tests are about."""


@contextmanager
def serving(memory: KfpServer, certificate: tuple[Path, Path] | None = None) -> Iterator[KfpServer]:
    """Serve on a free port of loopback, over TLS where certificate and key are given."""
    handler = type("Handler", (_Handler,), {"memory": memory})
    server = _QuietServer(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    memory.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
