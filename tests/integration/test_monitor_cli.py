"""``mvqkd monitor`` with a real teacher: exit codes for schedulers, what it prints, metrics in a real MLflow store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mvqkd.adapters.mlflow_store import connect
from mvqkd.adapters.monitor_metrics import TAG_QUANTIZER
from mvqkd.artifacts import load_artifact
from mvqkd.cli.main import run
from mvqkd.config import ExtractTeacherConfig, FitQuantizerConfig, PrepareDataConfig
from mvqkd.data.prepare import prepare_data
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.teacher.extract import extract_teacher
from mvqkd.testing.corpus import make_corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of a quantizer on Whisper's embeddings of a synthetic corpus; new audio like it, and with noise."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("monitor")
    corpus = make_corpus(root / "corpus", 60)
    data = prepare_data(PrepareDataConfig(source="manifest", manifest=str(corpus)), out=root / "data")
    artifacts = root / "artifacts"
    embeddings = extract_teacher(
        ExtractTeacherConfig(num_frames=3000), data=data.path, out=artifacts / "teacher-embeddings"
    )
    fitting = FitQuantizerConfig(
        num_codebooks=2, phase_1_steps=20, phase_2_steps=0, codebook_size=16, batch_size=256, held_out_share=0.3
    )
    fit_quantizer(fitting, teacher_embeddings=embeddings.path, out=artifacts / "quantizer")
    make_corpus(root / "new", 30, seed=1)
    (root / "noisy").mkdir()
    rng = np.random.default_rng(0)
    for file in sorted((root / "new" / "audio").iterdir()):
        samples, rate_hz = soundfile.read(file)
        soundfile.write(root / "noisy" / file.name, samples + 0.05 * rng.standard_normal(len(samples)), rate_hz)
    return root


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)


def test_no_drift_is_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "new/audio"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no drift\n")
    assert "fine   relative error" in said
    assert "30 recordings" in said
    assert not (root / "mlflow.db").exists()


def test_drift_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "noisy"]) == 3
    said = capsys.readouterr().out
    assert said.startswith("drift: relative error")
    assert "recordings least like the fitting data" in said


def test_json_of_a_manifest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["monitor", "--manifest", "new/manifest.jsonl", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["drift"] is False
    # Its texts have nothing to be heard by: there is no bundle among the artifacts.
    assert [check["name"] for check in record["checks"]] == ["relative error", "usage divergence"]
    assert record["baseline"]["quantizer_id"] == load_artifact(root / "artifacts" / "quantizer").id
    assert record["limits"]["max_error_change"] == 0.07
    first = record
    assert run(["monitor", "--manifest", "new/manifest.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["new/audio/utterance-0000.wav"], 1, "at least 25, to tell a change from chance, got 1"),
        (["new/audio", "--min-recordings", "31"], 1, "at least 31"),
        (["nowhere.wav"], 1, "at most 10% that cannot be read, got 1, the first: recording nowhere.wav"),
        (["corpus/nowhere", "new/audio"], 0, ""),
        (["--manifest", "nowhere.jsonl"], 1, "prepare-data.manifest"),
        (["new/audio", "--quantizer", "data"], 1, "expected kind quantizer"),
        (["new/audio", "--artifacts-dir", "nowhere"], 1, "teacher-embeddings"),
    ],
)
def test_questions_that_cannot_be_answered(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert run(["monitor", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name audio files, or --manifest FILE, or --cuts FILE"),
        (["new/audio", "--manifest", "new/manifest.jsonl"], "name audio files, or"),
        (["new/audio", "--max-false-alarms", "1"], "--max-false-alarms must be below 1"),
        (["new/audio", "--max-error-change", "0"], "0 is not above 0"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["monitor", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_metrics_of_a_schedule_are_one_curve(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert run(["monitor", "new/audio"]) == 0
    assert run(["monitor", "noisy"]) == 3
    client, quantizer = connect(), load_artifact(root / "artifacts" / "quantizer")
    (found,) = client.search_runs(
        [client.get_experiment_by_name("mvqkd").experiment_id],
        filter_string=f"tags.`{TAG_QUANTIZER}` = '{quantizer.id}'",
    )
    assert found.info.status == "FINISHED"
    drift = client.get_metric_history(found.info.run_id, "monitor.drift")
    assert [point.value for point in drift] == [0.0, 1.0]
    assert drift[0].step <= drift[1].step
    assert {"monitor.relative_error", "monitor.usage_divergence_change", "monitor.recordings"} <= set(
        found.data.metrics
    )
    # An orchestrator's run takes them instead, as it is.
    run_id = client.create_run(client.create_experiment("other")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert run(["monitor", "new/audio"]) == 0
    assert client.get_run(run_id).data.metrics["monitor.drift"] == 0.0
    assert client.get_run(run_id).info.status == "RUNNING"
    assert len(client.get_metric_history(found.info.run_id, "monitor.drift")) == 2


def test_a_store_that_fails_changes_nothing_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert run(["monitor", "noisy"]) == 3
    assert sum("no metrics logged" in message for message in caplog.messages) == 1
