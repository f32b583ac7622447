"""How a server starts, changes its bundle and ends: signals to real processes, a real registry."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.mlflow_store import import_mlflow
from mvqkd.adapters.registry import TAG_BUNDLE
from mvqkd.artifacts import Artifact
from tests.serving import Server, make_other_bundle, receive, rest, rest_until_closed, serving, speech

MODEL = "student"


def test_sigterm_lets_streams_end(bundle: Artifact, tmp_path: Path) -> None:
    """No new ones, ready no more, and the running one gets all its words; then exit code 0."""
    samples = speech(4)
    with serving(bundle.path, tmp_path, "--drain-s", "20") as server:
        undisturbed = server.transcribe(samples)[-1]["text"]
        with server.stream() as client:
            client.send(samples[:30_000].tobytes())
            server.process.send_signal(signal.SIGTERM)
            messages = [receive(client)]
            while messages[-1]["type"] != "draining":
                messages.append(receive(client))
            assert 10 < messages[-1]["finish_within_s"] < 20
            assert server.get("/readyz")[0] == 503
            assert server.get("/healthz")[0] == 200
            assert server.post("/v1/transcribe", b"")[0] == 503
            with server.connect() as late:
                (refusal,) = rest_until_closed(late)
                assert refusal["code"] == "draining"
                assert late.close_code == 1012
            client.send(samples[30_000:].tobytes())
            client.send('{"type": "end"}')
            end = rest(client)[-1]
            assert end["reason"] == "client"
            assert end["text"] == undisturbed
            assert client.close_code == 1000
        assert server.process.wait(10) == 0
        assert "the server has ended" in server.log.read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_streams_that_do_not_end_are_ended_with_what_they_said(
    bundle: Artifact, tmp_path: Path, signum: signal.Signals
) -> None:
    with serving(bundle.path, tmp_path, "--drain-s", "2") as server, server.stream() as client:
        client.send(speech(3).tobytes())
        server.process.send_signal(signum)
        started = time.monotonic()
        end = rest_until_closed(client)[-1]
        assert end["type"] == "end"
        assert end["reason"] == "draining"
        assert len(end["text"]) > 5
        assert end["audio_s"] == 3
        assert client.close_code == 1012
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 4


def test_a_directory_is_read_again_on_sighup(bundle: Artifact, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    other = make_other_bundle(bundle.path, tmp_path / "next")
    with serving(tmp_path / "bundle", tmp_path / "run") as server:
        samples = speech(3)
        before = server.transcribe(samples)[-1]["text"]
        shutil.rmtree(tmp_path / "bundle")
        other.path.rename(tmp_path / "bundle")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: server.metric("mvqkd_model_swaps_total", result="swapped") == 1)
        assert server.transcribe(samples)[-1]["text"] == before.lower() != before
        (tmp_path / "bundle" / "tokens.txt").write_text("<blk> 0\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: server.metric("mvqkd_model_swaps_total", result="failed") >= 1)
        assert server.transcribe(samples)[-1]["text"] == before.lower()
        assert server.metric("mvqkd_model_swaps_total", result="swapped") == 1


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "run").mkdir()
    store = f"sqlite:///{tmp_path}/run/mlflow.db"
    client = import_mlflow().MlflowClient(tracking_uri=store, registry_uri=store)
    client.create_registered_model(MODEL)
    return client


def register(client: Any, bundle: Artifact) -> str:
    made = client.create_model_version(MODEL, source=str(bundle.path), tags={TAG_BUNDLE: bundle.id})
    return str(made.version)


def test_a_moved_alias_is_followed_without_losing_a_word(
    registry: Any, bundle: Artifact, other_bundle: Artifact, tmp_path: Path
) -> None:
    samples = speech(4)
    registry.set_registered_model_alias(MODEL, "champion", register(registry, bundle))
    with serving(f"models:/{MODEL}@champion", tmp_path / "run", "--reload-s", "0.2") as server:
        whole = server.transcribe(samples)[-1]["text"]
        with server.stream() as running:
            running.send(samples[:30_000].tobytes())
            assert receive(running)["type"] == "partial"

            registry.set_registered_model_alias(MODEL, "champion", register(registry, other_bundle))
            server.wait_for(lambda: server.metric("mvqkd_model_info", version="2") == 1)
            assert server.metric("mvqkd_model_info", version="1") == 0
            assert server.metric("mvqkd_models_loaded") == 2
            with server.stream() as fresh:
                fresh.send(samples.tobytes())
                fresh.send('{"type": "end"}')
                assert rest(fresh)[-1]["text"] == whole.lower()

            running.send(samples[30_000:].tobytes())
            running.send('{"type": "end"}')
            assert rest(running)[-1]["text"] == whole
        # The old bundle is let go with its last stream.
        server.wait_for(lambda: server.metric("mvqkd_models_loaded") == 1)

        # A version whose files are not what was registered: the good one goes on, and the metric says so.
        damaged = tmp_path / "damaged"
        shutil.copytree(bundle.path, damaged)
        (damaged / "tokens.txt").write_text((damaged / "tokens.txt").read_text().replace("A", "a"))
        bad = registry.create_model_version(MODEL, source=str(damaged), tags={TAG_BUNDLE: bundle.id})
        registry.set_registered_model_alias(MODEL, "champion", str(bad.version))
        server.wait_for(lambda: server.metric("mvqkd_model_swaps_total", result="failed") >= 1)
        assert server.transcribe(samples)[-1]["text"] == whole.lower()
        assert server.get("/readyz")[0] == 200

        # The alias goes away altogether, then points to a good version again.
        registry.delete_registered_model_alias(MODEL, "champion")
        failed = server.metric("mvqkd_model_swaps_total", result="failed")
        server.wait_for(lambda: server.metric("mvqkd_model_swaps_total", result="failed") > failed)
        registry.set_registered_model_alias(MODEL, "champion", "1")
        server.wait_for(lambda: server.metric("mvqkd_model_info", version="1") == 1)
        assert server.transcribe(samples)[-1]["text"] == whole


def start_and_fail(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "mvqkd", "serve", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_what_cannot_be_served_is_said_in_one_line(bundle: Artifact, tmp_path: Path) -> None:
    assert "artifact.json" in start_and_fail("--bundle", str(tmp_path), cwd=tmp_path)
    assert "mvqkd promote" in start_and_fail("--bundle", "models:/student@champion", cwd=tmp_path)
    with serving(bundle.path, tmp_path / "run") as server:
        port = server.url.rpartition(":")[2]
        assert "another --port" in start_and_fail("--bundle", str(bundle.path), "--port", port, cwd=tmp_path)


def test_listening_beyond_this_machine_is_warned_of(bundle: Artifact, tmp_path: Path) -> None:
    with serving(bundle.path, tmp_path, "--host", "0.0.0.0") as server:
        assert re.search(r"LISTENING ON 0\.0\.0\.0.*no\s+authentication", server.log.read_text())
        # Any host name may be right there.
        status, _ = Server(server.process, server.url.replace("0.0.0.0", "127.0.0.1"), server.log).get(
            "/readyz", Host="asr.example"
        )
        assert status == 200
    with serving(bundle.path, tmp_path / "quiet") as server:
        assert "LISTENING" not in server.log.read_text()


def test_serving_imports_no_torch() -> None:
    code = (
        "import sys, mvqkd.serve.server, mvqkd.cli.serve;"
        "print(json.dumps(sorted({'torch', 'lhotse', 'mlflow', 'numba'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", "import json;" + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
