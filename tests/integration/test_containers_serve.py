"""`mvqkd serve` in its image, restricted and without network: health, an upload, a stream, an orderly end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from mvqkd.testing.tones import make_tone_bundle, say
from tests.containers.engine import Engine, readable_folder
from tests.containers.requirement import required_engine

pytestmark = pytest.mark.slow

_GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8470" + sys.argv[1], timeout=20).read().decode())
"""
_UPLOAD = """
import pathlib, urllib.request
body = pathlib.Path("/data/a.wav").read_bytes()
print(urllib.request.urlopen("http://127.0.0.1:8470/v1/transcribe", data=body, timeout=60).read().decode())
"""
_STREAM = """
import json, soundfile
from websockets.sync.client import connect

samples, rate = soundfile.read("/data/a.wav", dtype="int16")
with connect("ws://127.0.0.1:8470/v1/stream", proxy=None) as client:
    client.send(json.dumps({"type": "start", "sample_rate": rate, "format": "s16le"}))
    for first in range(0, len(samples), rate // 10):
        client.send(samples[first : first + rate // 10].tobytes())
    client.send(json.dumps({"type": "end"}))
    print(json.dumps([json.loads(message) for message in client]))
"""


@dataclass(frozen=True)
class Server:
    """A container that serves; it has no network, so that clients run beside the server in it."""

    engine: Engine
    container: str

    def python(self, code: str, *arguments: str) -> str:
        return self.engine.call("exec", self.container, "python3", "-c", code, *arguments).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, which spells tones, and a.wav, which says CAB."""
    root = readable_folder(tmp_path_factory.mktemp("serve"))
    make_tone_bundle(root / "bundle")
    soundfile.write(root / "a.wav", say("CAB"), 16_000)
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with _serving(folder) as server:
        yield server


@contextmanager
def _serving(folder: Path) -> Iterator[Server]:
    """The image as it starts by itself, once its own health check holds."""
    engine, image = required_engine("serve")
    with engine.background(image, volumes=[f"{folder}:/data:ro"]) as container:
        deadline = time.monotonic() + 60
        while engine.call("healthcheck", "run", container, check=False).returncode:
            assert time.monotonic() < deadline, engine.call("logs", container).stderr
            time.sleep(0.5)
        yield Server(engine, container)


def test_it_is_healthy_and_ready(server: Server) -> None:
    assert json.loads(server.python(_GET, "/healthz"))
    assert json.loads(server.python(_GET, "/readyz"))
    assert "mvqkd_model_info" in server.python(_GET, "/metrics")


def test_an_upload_is_transcribed(server: Server) -> None:
    assert json.loads(server.python(_UPLOAD))["text"] == "CAB"


def test_a_stream_is_transcribed(server: Server) -> None:
    messages = json.loads(server.python(_STREAM))
    assert messages[0]["type"] == "ready"
    assert messages[-1]["type"] == "end"
    assert messages[-1]["text"] == "CAB"


def test_transcribe_without_a_server(folder: Path) -> None:
    engine, image = required_engine("serve")
    for options in ([], ["--stream"]):
        done = engine.run(image, "transcribe", "--bundle", "bundle", *options, "a.wav", volumes=[f"{folder}:/data:ro"])
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "CAB"), done.stderr


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    engine, image = required_engine("serve")
    done = engine.run(image, volumes=[f"{readable_folder(tmp_path)}:/data:ro"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mvqkd serve: ")
    assert "Traceback" not in done.stderr


def test_health_check_fails_where_the_port_does_not_answer(folder: Path) -> None:
    engine, image = required_engine("serve")
    command = ["serve", "--host", "0.0.0.0", "--port", "8471", "--bundle", "/data/bundle"]
    with engine.background(image, *command, volumes=[f"{folder}:/data:ro"]) as container:
        assert engine.call("healthcheck", "run", container, check=False).returncode == 1


def test_it_ends_in_order_when_it_is_stopped(folder: Path) -> None:
    with _serving(folder) as server:
        server.engine.call("stop", "--time=25", server.container)
        code = server.engine.call("inspect", "--format={{.State.ExitCode}}", server.container).stdout.strip()
    assert code == "0", "as process 1 it must handle SIGTERM itself"
