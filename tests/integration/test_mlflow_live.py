"""Live metrics of training: into the injected run while it runs, and never in training's way."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from mvqkd.adapters.live_metrics import live_metrics
from mvqkd.adapters.mlflow_store import connect

ROW = {"step": 20, "epoch": 1, "loss": 3.5, "audio_s_per_s": 110.0}


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = connect()
    run = client.create_run(client.create_experiment("live"))
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return str(run.info.run_id)


def test_rows_become_metrics_over_steps(run_id: str) -> None:
    log = live_metrics("train-student")
    assert log is not None
    log(ROW)
    log({**ROW, "step": 40, "loss": 2.5, "gradient_norm": math.inf})
    history = connect().get_metric_history(run_id, "train-student.loss")
    assert [(point.step, point.value) for point in history] == [(20, 3.5), (40, 2.5)]
    names = set(connect().get_run(run_id).data.metrics)
    assert names == {f"train-student.{name}" for name in ("epoch", "loss", "audio_s_per_s")}


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
        log(ROW)
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
