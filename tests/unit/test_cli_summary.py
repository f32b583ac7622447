"""`mvqkd summary`: the fixed names, the table, and commands that work."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import PartialArtifact, write_json
from mvqkd.cli.main import run
from mvqkd.config import GateConfig
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_lineage

# Issue 2, "Fixed names": other tools read these.
FIXED_NAMES = {
    "wall_s",
    "stages",
    "teacher_id",
    "quantizer_relative_error",
    "bytes_per_teacher_frame",
    "compression_ratio",
    "student_parameters",
    "student_wer_torch",
    "student_wer_onnx",
    "wer_interval_95",
    "test_utterances",
    "rtf_onnx",
    "decision",
    "model_version",
    "mlflow_run_id",
}


@pytest.fixture
def lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    monkeypatch.chdir(tmp_path)
    made = make_lineage(Path("artifacts"), wer=0.256, torch_wer=0.251)
    gate(
        GateConfig(),
        bundle=made.bundle.path,
        wer_report=made.wer_report.path,
        quantizer=made.quantizer.path,
        out=made.root / "decision",
    )
    partial = PartialArtifact(made.root / "promotion", "promotion", stage="promote", config={}, parents=[made.bundle])
    write_json(partial.path / "promotion.json", {})
    partial.commit(figures={"model_name": "mvqkd-student", "model_version": 3, "mlflow_run_id": "0123"})
    return made


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    assert run(["summary", *arguments]) == 0
    return json.loads(Path("artifacts/summary.json").read_text()), capsys.readouterr().out


def test_every_fixed_name_has_its_value(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    values, _ = summary(capsys)
    assert set(values) >= FIXED_NAMES
    assert values["teacher_id"] == "whisper-tiny.en-0123456789ab"
    assert values["teacher_wer"] == 0.033
    assert values["quantizer_relative_error"] == 0.31
    assert values["bytes_per_teacher_frame"] == 8
    assert values["compression_ratio"] == 192
    assert values["student_parameters"] == 1_234_567
    assert values["student_wer_torch"] == 0.251
    assert values["student_wer_onnx"] == 0.256
    assert values["wer_interval_95"] == pytest.approx([0.226, 0.286])
    assert values["test_utterances"] == 112
    assert values["rtf_onnx"] == 0.02
    assert values["decision"] == "promote"
    assert values["model_version"] == 3
    assert values["mlflow_run_id"] == "0123"
    assert set(values["stages"]) == {
        "prepare-data",
        "extract-teacher",
        "fit-quantizer",
        "encode-ci",
        "train-student",
        "evaluate",
        "export-onnx",
        "gate",
        "promote",
    }
    assert values["wall_s"] == pytest.approx(sum(values["stages"].values()), abs=0.1)
    assert values["ids"]["onnx-bundle"] == lineage.bundle.id


def test_wall_time_counts_from_when_the_run_began(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    values, shown = summary(capsys, "--started", str(time.time() - 605))
    assert values["wall_s"] == pytest.approx(605, abs=5)
    assert "time        10 min 0" in shown


def test_table_is_aligned_and_ends_with_commands(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    _, shown = summary(capsys)
    lines = shown.splitlines()
    assert "student     1,234,567 parameters, objective mvq" in lines
    assert "WER ONNX    25.6 % greedy, 95 % interval 22.6 to 28.6 %, 112 utterances, 1000 words" in lines, (
        "the WER of record, its interval and what it was counted on"
    )
    assert "registry    mvqkd-student version 3, MLflow run 0123" in lines
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("All figures"))]
    assert all(line[10:12] == "  " and line[12] != " " for line in table)
    assert max(map(len, table)) <= 110
    assert [line.split()[1] for line in lines[-4:]] == ["transcribe", "report", "ui", "inspect"]


def test_commands_name_a_real_test_recording(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    data = lineage.data.path
    (data / "cuts").mkdir()
    (data / "audio").mkdir()
    with gzip.open(data / "cuts" / "test.jsonl.gz", "wt") as stream:
        for name, duration in (("short", 0.4), ("good", 3.9), ("long", 20.0)):
            source = {"type": "file", "source": f"audio/{name}.flac"}
            stream.write(json.dumps({"id": name, "duration": duration, "recording": {"sources": [source]}}) + "\n")
            (data / "audio" / f"{name}.flac").touch()
    _, shown = summary(capsys)
    command = next(line for line in shown.splitlines() if " transcribe " in line)
    assert command.endswith("transcribe artifacts/data/audio/good.flac")


def test_without_a_champion_the_bundle_itself_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_lineage(Path("artifacts"), parity_ok=False)
    gate(
        GateConfig(),
        bundle=made.bundle.path,
        wer_report=made.wer_report.path,
        quantizer=made.quantizer.path,
        out=made.root / "decision",
    )
    values, shown = summary(capsys)
    assert values["decision"] == "reject"
    assert values["model_version"] is None
    assert "transcribe --bundle artifacts/bundle " in shown


def test_unfinished_pipeline_has_the_names_with_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_lineage(Path("whole"))
    Path("artifacts").mkdir()
    made.data.path.rename("artifacts/data")
    values, shown = summary(capsys)
    assert set(values) >= FIXED_NAMES
    assert values["student_wer_onnx"] is None
    assert list(values["stages"]) == ["prepare-data"]
    assert "None" not in shown


def test_mixed_lineage_is_pointed_out(lineage: Lineage, capsys: pytest.CaptureFixture[str]) -> None:
    _, shown = summary(capsys)
    assert "note:" not in shown
    other = make_lineage(Path("other"), variant="other")
    before = lineage.student.short_id
    lineage.student.path.rename("old-student")
    other.student.path.rename("artifacts/student")
    _, shown = summary(capsys)
    assert f"artifacts/bundle was made from student-checkpoint {before}" in shown
    assert f"artifacts/student is {other.student.short_id}: re-run `mvqkd export-onnx`" in shown


def test_nothing_to_sum_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["summary"]) == 1
    assert "no such directory; run `mvqkd demo`" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_needs_neither_torch_nor_mlflow(lineage: Lineage) -> None:
    script = (
        "import sys; from mvqkd.cli.main import run; code = run(['summary']); "
        "print([m for m in ('torch', 'mlflow', 'lhotse') if m in sys.modules]); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
