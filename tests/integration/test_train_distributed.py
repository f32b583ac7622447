"""Several ranks train as one: gradients, bad batches, launchers, ranks that die or are stopped, fewer of them."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import EvaluateConfig, PrepareDataConfig, TrainStudentConfig, load_section
from mvqkd.data.batches import BatchSource
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.prepare import prepare_data
from mvqkd.data.tokens import Tokens
from mvqkd.decode.evaluate import evaluate
from mvqkd.errors import TrainingError
from mvqkd.student.model import Student
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import TINY_TRAINING
from mvqkd.train.distributed import ALONE, Ranks, join_ranks, plan_steps
from mvqkd.train.loop import Trainer
from mvqkd.train.preemption import TrainingStopped
from mvqkd.train.stage import train_student
from mvqkd.train.state import STATE_FILE, TrainerState
from tests.trainjob_cluster import Cluster, run_in_processes

NUM_RANKS = 2
TIMEOUT_S = 120
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
# Of float32. Two ranks gave equal bits when this was written; the order of a sum is up to torch, though.
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-6
TINY = {
    **TINY_TRAINING,
    "objective": "none",
    "num_epochs": 3,
    "batch_duration_s": 4.0,
    "checkpoint_steps": 2,
    "max_bad_batches": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("distributed")
    config = PrepareDataConfig(source="manifest", manifest=str(make_corpus(root / "corpus", 12)), split_by="prompt")
    return prepare_data(config, out=root / "data")


def trainer_of(data: Path, ranks: Ranks, **changes: object) -> Trainer:
    config = load_section(TrainStudentConfig, None, {**TINY, **changes})
    artifact = load_artifact(data)
    source = BatchSource(
        speed_copies(load_cuts(artifact, "train"), config.speeds),
        Tokens.load(data),
        batch_duration_s=config.batch_duration_s,
        seed=0,
    )
    torch.manual_seed(0)
    student = Student(config.model, Tokens.load(data).vocab_size)
    return Trainer(config, student, None, source, None, torch.device("cpu"), ranks=ranks)


def num_batches(data: Artifact) -> list[int]:
    """Of each epoch."""
    source = trainer_of(data.path, ALONE).source
    return [len(source.plan(epoch)) for epoch in range(int(TINY["num_epochs"]))]


def first_step(trainer: Trainer, state: TrainerState, *, broken_rank: int | None = None) -> dict[str, float]:
    """Take the first step of the first epoch; on one rank, if asked for, with a number of a cut that is none."""
    ranks = trainer.ranks
    step = plan_steps(trainer.source.plan(0), 0, trainer.config.accumulate_batches * ranks.size)[0]
    batches = [trainer.source.collate(cuts) for cuts in step.of_rank(ranks)]
    if ranks.rank == broken_rank:
        batches[0].features[0, 3, 5] = float("nan")
    return trainer.step(batches, state, 0.5)


def in_a_rank(data: Path, out: Path) -> None:
    """What each process of the test below does; its findings go to a file."""
    torch.set_num_threads(1)
    with join_ranks("cpu") as (ranks, _):
        trainer, state = trainer_of(data, ranks), TrainerState(step=7)
        found: dict[str, Any] = {"row": first_step(trainer, state)}
        found["gradients"] = {name: parameter.grad.clone() for name, parameter in trainer.losses.named_parameters()}
        weights = {name: tensor.clone() for name, tensor in trainer.losses.state_dict().items()}
        found["skipped"] = first_step(trainer, state, broken_rank=1)
        after = trainer.losses.state_dict()
        found["unchanged"] = all(torch.equal(tensor, after[name]) for name, tensor in weights.items())
        try:
            first_step(trainer, state, broken_rank=1)
        except TrainingError as error:
            found["refusal"] = str(error)
        torch.save(found, out / f"rank-{ranks.rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(command: list[str]) -> list[subprocess.Popen[str]]:
    """Start the ranks as torchrun and Kubernetes do: one process each, told by the environment."""
    common = {
        **ONE_THREAD,
        "WORLD_SIZE": str(NUM_RANKS),
        "LOCAL_WORLD_SIZE": str(NUM_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        subprocess.Popen(
            command,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(NUM_RANKS)
    ]


def outcomes(processes: list[subprocess.Popen[str]], timeout_s: float = TIMEOUT_S) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each; none is left running."""
    deadline = time.monotonic() + timeout_s
    try:
        texts = [process.communicate(timeout=max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def test_two_ranks_have_the_gradient_of_one_process_and_skip_together(data: Artifact, tmp_path: Path) -> None:
    call = f"from {__name__} import *; in_a_rank(Path({str(data.path)!r}), Path({str(tmp_path)!r}))"
    for code, _, errors in outcomes(start_ranks([sys.executable, "-c", call])):
        assert code == 0, errors
    found = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(NUM_RANKS)]

    alone = trainer_of(data.path, ALONE, accumulate_batches=NUM_RANKS)
    row = first_step(alone, TrainerState(step=7))
    # Masks and dropout are drawn alike, too.
    assert alone.config.spec_augment
    assert alone.config.model.dropout > 0
    for rank in found:
        assert rank["row"] == pytest.approx(row, rel=RELATIVE_TOLERANCE)
        for name, parameter in alone.losses.named_parameters():
            torch.testing.assert_close(
                rank["gradients"][name], parameter.grad, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE
            )
    assert first_step(trainer_of(data.path, ALONE), TrainerState(step=7))["loss"] != pytest.approx(
        row["loss"], rel=1e-3
    )

    assert [rank["skipped"] for rank in found] == [{}, {}]
    assert all(rank["unchanged"] for rank in found)
    broken = alone.source.plan(0)[1][0].id
    assert f"cuts to blame: {broken}:" in found[0]["refusal"]
    assert found[0]["refusal"] == found[1]["refusal"]


@pytest.fixture(scope="module")
def trained(data: Artifact) -> Artifact:
    """Two ranks under torch's elastic launcher, undisturbed."""
    out = data.path.parent / "student"
    result = subprocess.run(
        launched(data, out), env=ONE_THREAD, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    artifact = load_artifact(out)
    assert line.startswith(f"train-student: student-checkpoint {artifact.short_id} ")
    return artifact


def launched(data: Artifact, out: Path) -> list[str]:
    flags = ["--launcher", "torchrun", "--launch-num-processes", str(NUM_RANKS)]
    return [sys.executable, *arguments(data, out), *flags]


def arguments(data: Artifact, out: Path) -> list[str]:
    flags = []
    for name, value in TINY.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    root = data.path.parent
    params = root / "params.yaml"
    params.touch()  # what lies in the working directory must not matter
    named = ["--params", str(params), "--artifacts-dir", str(root), "--data", str(data.path), "--out", str(out)]
    return ["-m", "mvqkd", "train-student", *named, *flags]


def history(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def test_two_ranks_under_torchrun_write_one_artifact(data: Artifact, trained: Artifact, tmp_path: Path) -> None:
    assert not list(trained.path.parent.glob(".student.*"))
    rows = history(trained.path)
    assert len(rows) == trained.figures["num_steps"] == sum(-(-count // NUM_RANKS) for count in num_batches(data))
    assert rows[-1]["simple_loss"] < rows[0]["simple_loss"]
    config = EvaluateConfig(decoders=["greedy"], bootstrap_samples=100, teacher_wer=False)
    report = evaluate(config, data=data.path, student=trained.path, out=tmp_path / "wer")
    assert report.parents[trained.kind] == trained.id


def test_a_killed_rank_ends_the_run_which_then_goes_on_with_as_many_or_fewer(data: Artifact, trained: Artifact) -> None:
    root = data.path.parent
    command = [sys.executable, *arguments(data, root / "killed")]
    processes = start_ranks(command)
    deadline = time.monotonic() + TIMEOUT_S
    while not (states := list(root.glob(f".killed.partial-*/{STATE_FILE}"))):
        assert all(process.poll() is None for process in processes), outcomes(processes)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGKILL)
    (code, _, errors), _ = outcomes(processes, timeout_s=30)
    assert code == 1
    assert "rank 0 of 2: expected an answer of every rank" in errors
    assert "Traceback" not in errors
    assert not (root / "killed").exists()

    partial = states[0].parent
    shutil.copytree(partial, root / partial.name.replace("killed", "alone"))
    (code, _, errors), silent = outcomes(start_ranks(command))
    assert code == 0, errors
    assert re.search(r"resumed at step [1-9]", errors)
    assert silent == (0, "", "")
    assert history(root / "killed") == history(trained.path)
    assert load_artifact(root / "killed").id == trained.id

    before = torch.load(root / partial.name.replace("killed", "alone") / STATE_FILE, weights_only=True)["state"]
    alone = train_student(load_section(TrainStudentConfig, None, TINY), data=data.path, out=root / "alone")
    rows = history(alone.path)
    assert rows[: before["step"]] == history(trained.path)[: before["step"]]
    done = sum(num_batches(data)[: before["epoch"]]) + before["batch"]
    assert alone.figures["num_steps"] == before["step"] + sum(num_batches(data)) - done


def test_a_killed_rank_is_restarted_and_a_stopped_run_goes_on_with_the_same_result(
    data: Artifact, trained: Artifact
) -> None:
    root = data.path.parent
    command = launched(data, root / "stopped")
    process = subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        state = wait_for_state(process, root, "stopped")
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        restarted = wait_for_line(process, r"a rank ended; all restart from the last state, 3 of 3 left")
        resumed = wait_for_line(process, r"resumed at step ([1-9]\d*)")
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert output == ""
    stopped = re.search(
        r"mvqkd train-student: train-student stopped at step (\d+): .*run the same command again", errors
    )
    assert stopped is not None, errors
    assert "Traceback" not in restarted[0] + errors
    steps = torch.load(state, weights_only=True)["state"]["step"]
    assert steps == int(stopped[1]) > int(resumed[1])
    assert not (root / "stopped").exists()

    again = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert again.returncode == 0, again.stderr
    assert f"resumed at step {steps}," in again.stderr
    assert history(root / "stopped") == history(trained.path)
    assert load_artifact(root / "stopped").id == trained.id


@pytest.mark.slow
def test_a_trainjob_is_stopped_started_again_and_gives_what_ranks_started_by_hand_do(
    data: Artifact,
    trained: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cluster runs the job's command: two nodes of one rank each, on storage that they share with the launcher."""
    caplog.set_level(logging.INFO, "mvqkd.launch")
    config = load_section(TrainStudentConfig, None, TINY)
    launch = LaunchConfig(launcher="trainjob", num_nodes=NUM_RANKS, shared_dir=str(tmp_path), poll_s=0.2)

    def launched_once() -> Artifact:
        return launch_training(launch, config, data=data.path, out=data.path.parent / "by-trainjob")

    def stop_when_state_is_saved(cluster: Cluster, job: dict[str, Any]) -> None:
        threading.Thread(target=run_in_processes, args=(cluster, job)).start()
        while not list(tmp_path.glob(f"training/*/.student.partial-*/{STATE_FILE}")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with Cluster(stop_when_state_is_saved).running() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(TrainingStopped, match="the job is deleted, its ranks save their state"):
            launched_once()
        assert [process.returncode for process in cluster.processes] == [143, 143]
        cluster.processes.clear()
        cluster.started = run_in_processes
        assert launched_once().id == trained.id
    assert history(data.path.parent / "by-trainjob") == history(trained.path)
    shown = capsys.readouterr().err
    assert re.search(r"train-student: resumed at step [1-9]", shown), shown
    assert f"student-checkpoint {trained.short_id}" in shown
    assert "complete (JobsCompleted" in caplog.text


def wait_for_state(process: subprocess.Popen[str], root: Path, name: str) -> Path:
    """The file of the state that a training saves beside the artifact that it will write."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (states := list(root.glob(f".{name}.partial-*/{STATE_FILE}"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return states[0]


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"ended without {pattern}")


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher's agent has started, in order."""

    def children(pid: int) -> list[int]:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    (agent,) = children(launcher)
    return sorted(pid for pid in children(agent) if "train-student" in Path(f"/proc/{pid}/cmdline").read_text())
