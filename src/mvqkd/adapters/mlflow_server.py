"""A MLflow server of one's own on loopback: its pages, and its REST interface, on a local store."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mvqkd.adapters.mlflow_store import ARTIFACTS_DIRECTORY, redacted, sqlite_file
from mvqkd.errors import RegistryError

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Server:
    """A running server and the process whose end is the server's end."""

    url: str
    process: subprocess.Popen[bytes]

    def wait(self) -> int:
        """Block until the server ends by itself; returns its exit status."""
        return self.process.wait()


@contextlib.contextmanager
def serve(store_uri: str, port: int) -> Iterator[Server]:
    """Run ``mlflow server`` on 127.0.0.1 until the block ends; yields once it answers.

    Only requests that name this host are answered, and no other site's pages may use it: the store has no password.

    Args:
        store_uri: a SQLAlchemy URI; artifacts of new experiments go beside a sqlite file.
        port: to listen on; 0 picks a free one.
    Raises:
        RegistryError: the port is taken, or the server does not start.
    """
    port = port or _free_port()
    _refuse_taken_port(port)
    names = f"{HOST}:{port},localhost:{port}"
    file = sqlite_file(store_uri)
    artifacts = (file.parent if file else Path.cwd()) / ARTIFACTS_DIRECTORY
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", str(artifacts), "--allowed-hosts", names),
        *("--cors-allowed-origins", ",".join(f"http://{name}" for name in names.split(","))),
        *("--x-frame-options", "DENY", "--uvicorn-opts", "--log-level warning"),
    ]
    # The URI may hold a password: it goes by the environment, which other users cannot read as they can arguments.
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # Were it set, the server would be its own client.
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryFile() as log:
        # A session of its own, so that all of the server's processes can be ended together.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            server = Server(f"http://{HOST}:{port}", process)
            if not _answers(server):
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise RegistryError(
                    f"MLflow server on {redacted(store_uri)}",
                    expected=f"an answer within {START_TIMEOUT_S:.0f} s",
                    got=redacted(lines[-1]) if lines else f"exit status {process.poll()}",
                    next_step="run `mvqkd doctor`, or try another --port",
                )
            yield server
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RegistryError(
                f"port {port} of {HOST}", expected="a free port", got=str(error), next_step="pass another --port"
            ) from error


def _answers(server: Server) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        time.sleep(0.2)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_TIMEOUT_S)
            return
