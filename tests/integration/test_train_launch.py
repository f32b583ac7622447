"""Training that is told to stop ends its step, saves, and goes on to the same result, here or on another machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import pytest
import torch

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import PrepareDataConfig, TrainStudentConfig, load_section
from mvqkd.data.prepare import prepare_data
from mvqkd.errors import TrainingError
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import TINY_TRAINING
from mvqkd.train.preemption import TrainingStopped
from mvqkd.train.state import STATE_FILE
from tests.trainjob_cluster import Cluster, run_in_processes

# States are saved at stops alone.
TINY = {**TINY_TRAINING, "objective": "none", "num_epochs": 3, "early_stop_epochs": 3, "checkpoint_steps": 1000}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("launch")
    manifest = str(make_corpus(root / "corpus", 16))
    config = PrepareDataConfig(source="manifest", manifest=manifest, split_by="prompt", dev_share=0.3)
    return prepare_data(config, out=root / "data")


def trained(data: Artifact, out: Path, *, stop_at: int | None = None, launch: LaunchConfig | None = None) -> Artifact:
    def on_row(row: Mapping[str, float]) -> None:
        if row["step"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    torch.set_num_threads(1)
    config = load_section(TrainStudentConfig, None, TINY)
    return launch_training(launch or LaunchConfig(), config, data=data.path, out=out, on_row=on_row)


@pytest.fixture(scope="module")
def undisturbed(data: Artifact) -> Artifact:
    return trained(data, data.path.parent / "undisturbed")


def steps_of_epochs(artifact: Artifact) -> list[int]:
    """The last step of each epoch."""
    rows = [json.loads(line) for line in (artifact.path / "history.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "dev_loss" in row]


@pytest.mark.parametrize("before_the_epochs_end", [0, 1, 2])
def test_sigterm_saves_after_the_step_and_the_result_is_the_same(
    data: Artifact, undisturbed: Artifact, tmp_path: Path, before_the_epochs_end: int
) -> None:
    first, _, last = steps_of_epochs(undisturbed)
    assert first >= 3
    step = first - before_the_epochs_end
    before = signal.getsignal(signal.SIGTERM)
    # The signal comes while the row of a step is made, so ranks agree on it in the step after that.
    with pytest.raises(TrainingStopped, match=f"stopped at step {step}: .*run the same command again to go on"):
        trained(data, tmp_path / "student", stop_at=step - 1)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "student").exists()
    (state,) = tmp_path.glob(f".student.partial-*/{STATE_FILE}")
    assert torch.load(state, weights_only=True)["state"]["step"] == step

    with pytest.raises(TrainingStopped, match=f"stopped at step {last}:"):
        trained(data, tmp_path / "student", stop_at=last - 1)
    assert trained(data, tmp_path / "student").id == undisturbed.id


def test_state_on_shared_storage_outlives_the_machine(data: Artifact, undisturbed: Artifact, tmp_path: Path) -> None:
    launch = LaunchConfig(shared_dir=str(tmp_path / "shared"))
    with pytest.raises(TrainingStopped):
        trained(data, tmp_path / "first-pod" / "student", stop_at=2, launch=launch)
    (place,) = (tmp_path / "shared" / "training").iterdir()
    assert list(place.glob(f".student.partial-*/{STATE_FILE}"))

    steps: list[float] = []
    config = load_section(TrainStudentConfig, None, TINY)
    out = tmp_path / "second-pod" / "student"
    artifact = launch_training(launch, config, data=data.path, out=out, on_row=lambda row: steps.append(row["step"]))
    assert steps[0] == 4, "goes on after the step in which it was stopped"
    assert (artifact.id, artifact.path) == (undisturbed.id, out)
    # A pod that was lost after training, before its output was stored, need not train again.
    num_steps = len(steps)
    out = tmp_path / "third-pod" / "student"
    artifact = launch_training(launch, config, data=data.path, out=out, on_row=lambda row: steps.append(row["step"]))
    assert (artifact.id, artifact.path, len(steps)) == (undisturbed.id, out, num_steps)


def test_a_trainjob_gives_what_this_process_does(
    data: Artifact,
    undisturbed: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cluster runs the job's command in a process, on storage that it shares with the launcher."""
    launch = LaunchConfig(launcher="trainjob", shared_dir=str(tmp_path), poll_s=0.2)
    with Cluster(run_in_processes).running() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
        artifact = trained(data, tmp_path / "out" / "student", launch=launch)
        (job,) = cluster.posted()
    assert (artifact.id, artifact.path) == (undisturbed.id, tmp_path / "out" / "student")
    assert artifact.config_hash == undisturbed.config_hash
    assert load_artifact(artifact.path).id == artifact.id
    jsonschema.validate(job, json.loads(Path("infra/schemas/trainjob-v1alpha1.json").read_text(encoding="utf-8")))
    assert f"student-checkpoint {undisturbed.short_id}" in capsys.readouterr().err, "its log is passed on"


@pytest.mark.slow
def test_a_failing_rank_is_named_with_its_error_and_a_limit_of_time_is_kept(data: Artifact, tmp_path: Path) -> None:
    launch = LaunchConfig(launcher="torchrun", num_processes=2, max_restarts=0)
    mvq = load_section(TrainStudentConfig, None, {**TINY, "objective": "mvq"})
    with pytest.raises(TrainingError, match=r"by torchrun, rank [01]: .*got ConfigError: .*quantizer") as caught:
        launch_training(launch, mvq, data=data.path, out=tmp_path / "student")
    assert len(str(caught.value).splitlines()) == 1

    endless = load_section(TrainStudentConfig, None, {**TINY, "num_epochs": 10_000})
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"an end within 3 s, got (ranks here ended|it stopped at step)"):
        launch_training(launch.model_copy(update={"timeout_s": 3.0}), endless, data=data.path, out=tmp_path / "student")
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_torchs_launcher_ends_with_its_parent(tmp_path: Path) -> None:
    """Ranks whose launcher was killed would train on unseen."""
    ranks = ["--nnodes", "1:1", "--nproc-per-node", "1", "--no-python", "sleep", "1000"]
    code = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-m', 'mvqkd.adapters.launch_agent', str(os.getpid()), *{ranks!r}]\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "print(subprocess.Popen(command, **quiet).pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    agent = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not (children := Path(f"/proc/{agent}/task/{agent}/children").read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # a signal in the very moment of a start is lost on the rank
    parent.kill()
    parent.communicate()
    try:
        while any(Path(f"/proc/{pid}").exists() for pid in (agent, *children)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for pid in (agent, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
