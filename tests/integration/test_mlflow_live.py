"""Live metrics of training: into the injected run while it runs, and never in training's way."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.live_metrics import MAX_WAITING, LiveMetrics, live_metrics
from mvqkd.adapters.mlflow_store import connect, import_mlflow
from tests.registry_store import embedded_store

ROW = {"step": 20, "epoch": 1, "loss": 3.5, "audio_s_per_s": 110.0}


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{embedded_store(tmp_path, monkeypatch)}")
    client = connect()
    run = client.create_run(client.create_experiment("live"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return str(run.info.run_id)


def test_rows_become_metrics_over_steps(run_id: str) -> None:
    log = live_metrics("train-student")
    assert log is not None
    log(ROW)
    log({**ROW, "step": 40, "loss": 2.5, "gradient_norm": math.inf})
    assert log.flush(60)
    history = connect().get_metric_history(run_id, "train-student.loss")
    assert [(point.step, point.value) for point in history] == [(20, 3.5), (40, 2.5)]
    metrics = connect().get_run(run_id).data.metrics
    assert {name for name in metrics if not name.startswith("system/")} == {
        f"train-student.{name}" for name in ("epoch", "loss", "audio_s_per_s")
    }


def test_what_training_takes_of_the_machine_is_there_too(run_id: str) -> None:
    log = live_metrics("train-student")
    assert log is not None
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    log(ROW)
    assert log.flush(60)
    metrics = connect().get_run(run_id).data.metrics
    assert 1 < metrics["system/process_cpu_percentage"] < 10_000
    assert 50 < metrics["system/process_memory_megabytes"] < 100_000


def test_without_an_injected_run_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert live_metrics("train-student") is None


def test_a_store_that_fails_costs_one_warning(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # no such run
    log = live_metrics("train-student")
    assert log is not None
    with caplog.at_level(logging.WARNING):
        log(ROW)
        assert not log.flush(60)
        log(ROW)
        assert not log.flush(0)
    assert sum("no more live metrics" in message for message in caplog.messages) == 1


def test_a_store_that_cannot_be_opened_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with caplog.at_level(logging.WARNING):
        assert live_metrics("train-student") is None
    assert any("no live metrics" in message for message in caplog.messages)


def test_a_slow_server_costs_no_step(caplog: pytest.LogCaptureFixture) -> None:
    import_mlflow()
    answers = threading.Event()
    sent: list[int] = []

    class Slow:
        def log_batch(self, _run_id: str, metrics: list[Any]) -> None:
            answers.wait(60)
            sent.extend(metric.step for metric in metrics if metric.key == "train-student.loss")

    log = LiveMetrics(Slow(), "run", "train-student")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for step in range(2 * MAX_WAITING):
            log({"step": step, "loss": 1.0})
        assert not log.flush(0.1)
    assert time.monotonic() - started < 5
    assert sum("too slow" in message for message in caplog.messages) == 1
    answers.set()
    assert log.flush(60)
    assert sent == sorted(sent)
    assert MAX_WAITING <= len(sent) < 2 * MAX_WAITING


def test_the_end_of_the_process_waits_for_the_last_rows(run_id: str) -> None:
    script = "from mvqkd.adapters.live_metrics import live_metrics; live_metrics('t')({'step': 1, 'loss': 0.5})"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert connect().get_run(run_id).data.metrics["t.loss"] == 0.5
