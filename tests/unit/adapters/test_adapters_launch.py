"""Launchers without training: settings, the ranks' command, torch's launcher's arguments and output, flags."""

from __future__ import annotations

import io
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters import launch as launch_module
from mvqkd.adapters import launch_command
from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.adapters.launch_command import stage_arguments, trained, write_params
from mvqkd.adapters.launch_output import LauncherOutput
from mvqkd.adapters.launch_torchrun import elastic_arguments
from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.cli import main
from mvqkd.config import TrainStudentConfig, load_section, parse_section
from mvqkd.errors import ConfigError, TrainingError
from mvqkd.train.preemption import stopped_at

CONFIG = TrainStudentConfig(objective="none")
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NODE_RANK", "MLFLOW_RUN_ID")


@pytest.fixture(autouse=True)
def _no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_processes": 2}, "expected launcher torchrun or trainjob for more than one process"),
        ({"num_nodes": 2}, "expected launcher torchrun or trainjob"),
        ({"launcher": "torchrun", "min_nodes": 2}, "expected min_nodes of num_nodes or fewer"),
        (
            {"launcher": "trainjob", "env": {"PET_NNODES": "2"}},
            "expected env without PET_NNODES, which Kubeflow Trainer sets",
        ),
        ({"env": {"A": "1"}, "env_secrets": {"s": {"key": "A"}}}, "expected one value for a variable"),
        ({"memory": "much"}, "launch.memory: expected string should match pattern"),
        ({"shared_dir": "relative"}, "launch.shared_dir: expected string should match pattern"),
        ({"nodes": 2}, r"launch.nodes: expected a known key \(nearest: (min|num)_nodes\)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_section(LaunchConfig, values, "test")


def test_ranks_read_the_section_that_was_given(tmp_path: Path) -> None:
    changes = {"learning_rate": 1e-05, "noise_snr_db": [1.5, 3.0], "chunk_choices": [8, 0], "device": "1e5"}
    config = load_section(TrainStudentConfig, None, {**changes, "model.dropout": 1e-9, "codebook_scale_end": None})
    write_params(config, tmp_path / "params.yaml")
    again = load_section(TrainStudentConfig, tmp_path / "params.yaml")
    assert again == config
    assert again.model_dump(mode="json") == config.model_dump(mode="json")


def test_ranks_get_the_inputs_that_were_given_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(launch_module, "launch_training", lambda *_, **named: calls.append(named) or made(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("quantizer", "codebook-indexes"):
        (tmp_path / "artifacts" / name).mkdir(parents=True)
    write_params(CONFIG, tmp_path / "run" / "params.yaml")
    inputs = {"data": tmp_path / "data", "quantizer": tmp_path / "other"}
    assert main.run(stage_arguments(tmp_path / "run" / "params.yaml", inputs, tmp_path / "out")) == 0
    assert calls == [{**inputs, "out": tmp_path / "out", "on_row": None}]


def made(root: Path, config: TrainStudentConfig = CONFIG) -> Artifact:
    section = config.model_dump(mode="json")
    return PartialArtifact(root / "student", "student-checkpoint", stage="train-student", config=section).commit()


def test_an_artifact_of_another_section_is_not_taken_for_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_command, "_VISIBLE_WITHIN_S", 0.0)
    with pytest.raises(TrainingError, match=r"by torchrun: expected a student-checkpoint of this section .* got none"):
        trained(tmp_path / "student", CONFIG, by="torchrun")
    artifact = made(tmp_path, CONFIG.model_copy(update={"seed": 7}))
    with pytest.raises(TrainingError, match=f"got {artifact.short_id} of another one"):
        trained(tmp_path / "student", CONFIG, by="torchrun")


def elastic(**values: Any) -> dict[str, str]:
    launch = LaunchConfig(launcher="torchrun", **values)
    arguments = elastic_arguments(launch, CONFIG, {"data": Path("/data")}, Path("/out"))
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def test_one_node_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = elastic(num_processes=4, max_restarts=1)
    assert arguments["--nnodes"] == "1:1"
    assert (arguments["--nproc-per-node"], arguments["--max-restarts"]) == ("4", "1")
    assert arguments["--rdzv-endpoint"] == "127.0.0.1:0"
    assert arguments["--local-addr"] == "127.0.0.1"
    monkeypatch.setenv("PET_MASTER_ADDR", "job-node-0-0.job")
    assert elastic()["--rdzv-endpoint"] == "127.0.0.1:0"


def test_nodes_meet_where_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = elastic(num_nodes=4, min_nodes=2, rdzv_endpoint="host:1234", join_timeout_s=99)
    assert arguments["--nnodes"] == "2:4"
    assert arguments["--rdzv-endpoint"] == "host:1234"
    assert arguments["--rdzv-conf"] == "join_timeout=99,read_timeout=99"
    assert "--local-addr" not in arguments
    # Two addresses, the first of which is the host's.
    for number, is_host in ((1, 1), (2, 0)):
        address = f"10.0.0.{number}"
        arguments = elastic(num_nodes=2, rdzv_endpoint="10.0.0.1:1234", local_address=address)
        assert arguments["--rdzv-conf"].endswith(f",is_host={is_host}")
        assert arguments["--local-addr"] == address
    with pytest.raises(ConfigError, match=r"expected HOST:PORT where 2 nodes meet, got none"):
        elastic(num_nodes=2)
    monkeypatch.setenv("PET_MASTER_ADDR", "job-node-0-0.job")
    monkeypatch.setenv("PET_MASTER_PORT", "29501")
    for rank, is_host in (("0", 1), ("3", 0)):
        monkeypatch.setenv("PET_NODE_RANK", rank)
        arguments = elastic(num_nodes=4)
        assert arguments["--rdzv-endpoint"] == "job-node-0-0.job:29501"
        assert arguments["--rdzv-conf"].endswith(f",is_host={is_host}")


def test_trainings_that_differ_do_not_meet() -> None:
    assert elastic()["--rdzv-id"] == elastic(num_processes=2)["--rdzv-id"]
    other = elastic_arguments(LaunchConfig(launcher="torchrun"), CONFIG, {"data": Path("/other")}, Path("/out"))
    assert elastic()["--rdzv-id"] not in other
    assert elastic(rdzv_id="mine")["--rdzv-id"] == "mine"


def test_a_rank_starts_no_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="got the environment of a rank: WORLD_SIZE is set"):
        launch_training(LaunchConfig(launcher="torchrun"), CONFIG, data=tmp_path, out=tmp_path / "out")


SUMMARY = """\
I1123 api.py:942] [default] Worker group FAILED. 2/3 attempts left; will restart worker group
rank 0\t10:00:00 train-student: resumed at step 4, epoch 1
rank 1\tTraceback (most recent call last):
rank 1\tMemoryError
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_10:00:00
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : {codes[0]} (pid: 100)
  error_file: {files[0]}
  traceback : TrainingError: an answer of every rank
[1]:
  time      : 2026-01-01_10:00:00
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {codes[1]} (pid: 101)  (SIGKILL)
  error_file: {files[1]}
  traceback : To enable traceback see
"""


def relayed(text: str) -> LauncherOutput:
    output = LauncherOutput()
    output.relay(io.StringIO(text))
    return output


@pytest.mark.parametrize(
    ("codes", "told", "failure"),
    [
        # The peer notices at once and says so; a killed rank says nothing.
        ((1, -9), (True, False), ("rank 1", "killed by SIGKILL, Traceback (most recent call last): | MemoryError")),
        ((-15, -9), (True, False), ("rank 1", "killed by SIGKILL, Traceback (most recent call last): | MemoryError")),
        ((1, 1), (True, True), ("rank 1", "of rank 1")),
        ((-15, 1), (False, True), ("rank 1", "of rank 1")),
        (
            (-15, -15),
            (False, False),
            ("rank 0", "killed by SIGTERM, 10:00:00 train-student: resumed at step 4, epoch 1"),
        ),
    ],
)
def test_the_first_rank_that_failed_is_named(
    tmp_path: Path, codes: tuple[int, int], told: tuple[bool, bool], failure: tuple[str, str]
) -> None:
    files = []
    for rank, wrote in enumerate(told):
        file = tmp_path / f"{rank}.json"
        if wrote:
            file.write_text(json.dumps({"message": {"message": f"of rank {rank}"}}))
            # Rank 1 was first, by less than the whole seconds of the summary.
            os.utime(file, (time.time(), 1_000_000_000.5 - 0.2 * rank))
        files.append(str(file) if wrote else "<N/A>")
    assert relayed(SUMMARY.format(codes=codes, files=files)).failure() == failure


def test_ranks_lines_are_passed_on_and_the_launchers_own_are_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output = relayed(SUMMARY.format(codes=(1, 1), files=("<N/A>", "<N/A>")))
    lines = ["10:00:00 train-student: resumed at step 4, epoch 1", "rank 1: Traceback (most recent call last):"]
    assert capsys.readouterr().err.splitlines() == [*lines, "rank 1: MemoryError"]
    assert "a rank ended; all restart from the last state, 2 of 3 left" in caplog.text
    assert output.stopped_at_step is None
    assert relayed(f"rank 0\tmvqkd train-student: {stopped_at(17)}\n").stopped_at_step == 17


def test_without_a_failed_rank_the_launchers_last_words_count() -> None:
    output = relayed("rank 0\tfine\nTraceback\nRendezvousTimeoutError\n\n")
    assert output.failure() == ("torch's launcher", "RendezvousTimeoutError")
    assert relayed("").failure() == ("torch's launcher", "no word")


def recorded_launch(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[tuple[LaunchConfig, dict[str, Any]]]:
    calls: list[tuple[LaunchConfig, dict[str, Any]]] = []

    def record(launch: LaunchConfig, config: TrainStudentConfig, **named: Any) -> Artifact:
        calls.append((launch, named))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(launch_module, "launch_training", record)
    return calls


def test_flags_make_the_launchers_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls = recorded_launch(monkeypatch, made(tmp_path))
    flags = ["--launcher", "trainjob", "--launch-num-nodes", "3", "--launch-cpu", "16", "--launch-memory", "64Gi"]
    flags += ["--launch-tolerations", "[{key: gpu, operator: Exists}]", "--launch-node-selector", "{pool: gpu}"]
    flags += ["--launch-env-secrets", "{login: {password: PASSWORD}}", "--launch-rdzv-id", "123"]
    assert main.run(["train-student", *flags]) == 0
    (launch, named) = calls[0]
    assert launch == LaunchConfig(
        launcher="trainjob",
        num_nodes=3,
        cpu="16",
        memory="64Gi",
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        node_selector={"pool": "gpu"},
        env_secrets={"login": {"password": "PASSWORD"}},
        rdzv_id="123",
    )
    assert named["on_row"] is None
    assert main.run(["train-student"]) == 0
    assert calls[1][0] == LaunchConfig()


def test_contradicting_flags_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["train-student", "--launch-num-processes", "2"]) == 1
    error = capsys.readouterr().err
    assert "command line, launch: expected launcher torchrun or trainjob for more than one process" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_a_stop_has_an_exit_code_of_its_own_and_one_rank_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, shown: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", rank)
    recorded_launch(monkeypatch, stopped_at(5))
    level = logging.getLogger("mvqkd").level
    try:
        assert main.run(["train-student"]) == 143
    finally:
        logging.getLogger("mvqkd").setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ([f"mvqkd train-student: {stopped_at(5)}"] if shown else [])


@pytest.mark.parametrize(
    ("flags", "rank", "live"), [([], "0", True), ([], "1", False), (["--launcher", "torchrun"], "0", False)]
)
def test_metrics_go_live_from_the_process_that_trains_and_of_ranks_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], rank: str, live: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", rank)
    rows: list[str] = []
    monkeypatch.setattr("mvqkd.adapters.live_metrics.live_metrics", lambda prefix: rows.append)
    calls = recorded_launch(monkeypatch, made(tmp_path))
    level = logging.getLogger("mvqkd").level
    try:
        assert main.run(["train-student", *flags]) == 0
    finally:
        logging.getLogger("mvqkd").setLevel(level)
    assert (calls[0][1]["on_row"] is not None) is live
