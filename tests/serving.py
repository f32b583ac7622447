"""Another small bundle, and real servers in processes of their own, for the tests of ``mvqkd serve``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.data.tokens import Tokens
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.testing.tones import LETTERS, say

Floats = NDArray[np.float32]


def make_other_bundle(bundle: Path, out: Path) -> Artifact:
    """The same graphs, but every symbol has another name: what it says is different in each letter."""
    partial = PartialArtifact(out, "onnx-bundle", stage="export-onnx", config={"other": True})
    for file in bundle.rglob("*.onnx"):
        target = partial.path / file.relative_to(bundle)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    symbols = Tokens.load(bundle).symbols
    Tokens([*symbols[:3], *(symbol.lower() for symbol in symbols[3:])]).save(partial.path)
    return partial.commit()


def speech(seconds: float, seed: int = 0) -> Floats:
    """Words in tones, float32 (n,), 16 kHz, exactly as long as asked; no pause is as long as an endpoint's."""
    rng = np.random.default_rng(seed)
    num_words = int(seconds) * 2 + 4
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(2, 6))) for _ in range(num_words)]
    return say(" ".join(words))[: round(seconds * SAMPLE_RATE_HZ)]


@dataclass
class Server:
    """A server process and how to talk to it."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        return self.ask(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(urllib.request.Request(self.url + path, data=body, headers=named))

    def ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; the sum of all with these labels; 0 where there is none yet."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if (
                found
                and found[1] == name
                and all(f'{key}="{value}"' in (found[2] or "") for key, value in labels.items())
            ):
                total += float(found[3])
        return total

    @contextmanager
    def stream(self, **start: Any) -> Iterator[ClientConnection]:
        """A connection that has said start and heard ready."""
        with self.connect() as client:
            client.send(json.dumps({"type": "start"} | start))
            ready = receive(client)
            assert ready["type"] == "ready", ready
            yield client

    @contextmanager
    def connect(self, **options: Any) -> Iterator[ClientConnection]:
        address = self.url.replace("http", "ws") + "/v1/stream"
        with connect(address, open_timeout=20, proxy=None, **options) as client:
            yield client

    def transcribe(self, samples: Floats, **start: Any) -> list[dict[str, Any]]:
        """Stream everything at once; all messages after ready."""
        with self.stream(**start) as client:
            for block in np.array_split(samples, max(1, len(samples) // 8000)):
                client.send(block.astype("<f4").tobytes())
            client.send('{"type": "end"}')
            return rest(client)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


def rest_until_closed(client: ClientConnection) -> list[dict[str, Any]]:
    """Every message until the connection ends, however it does."""
    messages = []
    try:
        while True:
            messages.append(receive(client))
    except ConnectionClosed:
        return messages


def receive(client: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(client.recv(timeout=20))
    return message


def rest(client: ClientConnection) -> list[dict[str, Any]]:
    """Every message until the server closes."""
    return [json.loads(message) for message in client]


@contextmanager
def serving(bundle: Path | str, directory: Path, *options: str, **environment: str) -> Iterator[Server]:
    """A server on a free port of loopback, started in ``directory``; ended by SIGTERM if it still runs."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "server.log"
    command = [sys.executable, "-m", "mvqkd", "serve", "--bundle", str(bundle), "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while not (found := re.search(r" at (http://\S+) ", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(process, found[1], log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
