"""A real MLflow server on loopback: what `mvqkd ui` shows, and gate and promote over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvqkd.adapters.mlflow_server import HOST, Server, serve
from mvqkd.adapters.mlflow_store import connect
from mvqkd.adapters.promote import promote
from mvqkd.adapters.registry import champion_bundle, resolve_bundle
from mvqkd.artifacts import load_artifact
from mvqkd.cli.main import run
from mvqkd.config import GateConfig, PromoteConfig
from mvqkd.errors import RegistryError
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_lineage

MODEL = "mvqkd-student"


@pytest.fixture(autouse=True)
def _no_store_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module, on a store of its own; ended by its process id."""
    directory = tmp_path_factory.mktemp("server")
    with serve(f"sqlite:///{directory}/mlflow.db", 0) as running:
        yield running
    assert running.process.poll() is not None


def publish(lineage: Lineage, champion: Path | None = None) -> dict[str, object]:
    root = lineage.root
    gate(
        GateConfig(),
        bundle=lineage.bundle.path,
        wer_report=lineage.wer_report.path,
        quantizer=lineage.quantizer.path,
        champion=champion,
        out=root / "decision",
    )
    made = promote(
        PromoteConfig(),
        decision=root / "decision",
        bundle=lineage.bundle.path,
        wer_report=lineage.wer_report.path,
        student=lineage.student.path,
        data=lineage.data.path,
        out=root / "promotion",
    )
    record: dict[str, object] = json.loads((made.path / "promotion.json").read_text())
    return record


def status(url: str, headers: dict[str, str], body: bytes | None = None) -> int:
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_promote_and_fetch_through_a_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert champion_bundle(MODEL) is None
    lineage = make_lineage(tmp_path / "artifacts")
    record = publish(lineage)
    assert record["version"] == 1
    assert list(tmp_path.glob("ml*")) == []

    bundle = champion_bundle(MODEL)
    assert bundle == tmp_path / "cache" / "mvqkd" / "models" / lineage.bundle.id
    assert load_artifact(bundle, "onnx-bundle").id == lineage.bundle.id
    assert [path.name for path in bundle.parent.iterdir()] == [lineage.bundle.id]
    # The cached copy is verified each time, and fetched again when it is damaged.
    (bundle / "encoder.onnx").write_bytes(b"damaged")
    assert resolve_bundle(f"models:/{MODEL}@champion") == bundle
    assert load_artifact(bundle, "onnx-bundle").id == lineage.bundle.id

    assert publish(lineage, bundle)["decision"] == "promote"
    assert len(connect().search_model_versions(f"name = '{MODEL}'")) == 1


def test_only_this_machine_s_own_pages_may_use_it(server: Server) -> None:
    search = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{server.url}/api/2.0/mlflow/experiments/create"
    json_type = {"Content-Type": "application/json"}
    assert status(f"{server.url}/", {}) == 200
    assert status(search, {}) == 200
    assert status(search, {"Host": "rebound.example"}) == 403
    assert status(create, {**json_type, "Origin": "http://evil.example"}, b'{"name": "x"}') == 403
    assert status(create, {**json_type, "Origin": server.url}, b'{"name": "made by its own page"}') == 200


def test_server_that_is_down_is_one_line_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind((HOST, 0))  # bound but not listening: connections are refused
        port = reserved.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@{HOST}:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI") as caught:
            champion_bundle(MODEL)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ui_answers_and_ends_with_its_parent(tmp_path: Path, server: Server) -> None:
    # The module's store, copied: making a new one would only cost time.
    source = Path(server_database(server))
    shutil.copyfile(source, tmp_path / "mlflow.db")
    process = subprocess.Popen(
        [sys.executable, "-m", "mvqkd", "ui", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("starting MLflow on sqlite:////")
        line = process.stdout.readline()
        assert line.startswith("MLflow is at http://127.0.0.1:"), line
        url = line.split()[3]
        with urllib.request.urlopen(f"{url}/", timeout=60) as answer:
            assert b"MLflow" in answer.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == "MLflow has ended\n"
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{url}/health", timeout=5)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def server_database(server: Server) -> str:
    """Path of the server's own sqlite file, from its environment."""
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    uri = next(entry for entry in environment if entry.startswith(b"MLFLOW_BACKEND_STORE_URI="))
    return os.fsdecode(uri).partition("sqlite:///")[2]


def test_ui_without_a_store_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ui"]) == 1
    assert "mlflow.db: expected the database that `mvqkd promote` writes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ui_on_a_taken_port_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["ui", "--port", str(port)]) == 1
    assert f"port {port} of 127.0.0.1: expected a free port" in capsys.readouterr().err


def test_ui_with_a_server_configured_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret@mlflow.example")
    assert run(["ui"]) == 0
    shown = capsys.readouterr().out
    assert "open https://***@mlflow.example" in shown
