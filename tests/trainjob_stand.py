"""A launcher of TrainJobs on a bench: a cluster on loopback, storage that both see, one input, and a job that works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.adapters.launch_storage import place_of
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import PrepareDataConfig, TrainStudentConfig
from tests.trainjob_cluster import Cluster, Json, condition

CONFIG = TrainStudentConfig(objective="none", num_epochs=2)
POLL_S = 0.02
# Long enough for a slow machine; no test waits for it.
PATIENCE_S = 20.0
COMPLETE = condition("Complete", "JobsCompleted", "jobset completed successfully")
FAILED = condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")


def argument(job: Json, flag: str) -> Path:
    command = job["spec"]["trainer"]["command"]
    return Path(command[command.index(flag) + 1])


def train(job: Json) -> None:
    """What the job's command would do: leave a student that was made with the params file's section."""
    section = yaml.safe_load(argument(job, "--params").read_text())["train-student"]
    data = load_artifact(argument(job, "--data"), "cut-manifest")
    partial = PartialArtifact(
        argument(job, "--out"), "student-checkpoint", stage="train-student", config=section, parents=[data]
    )
    (partial.path / "student.safetensors").write_bytes(b"weights")
    partial.commit(facts={"objective": section["objective"]})


def complete(cluster: Cluster, job: Json) -> None:
    train(job)
    cluster.end(job, COMPLETE)


class Stand:
    """A cluster, the storage that it shares with the launcher, and one input."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.cluster, self.root, self.shared = cluster, root, root / "shared"
        self.shared.mkdir()
        partial = PartialArtifact(
            root / "data", "cut-manifest", stage="prepare-data", config=PrepareDataConfig().model_dump(mode="json")
        )
        (partial.path / "tokens.txt").write_text("<blk> 0\n")
        self.data = partial.commit()

    def config(self, **changes: Any) -> LaunchConfig:
        usual = {
            "launcher": "trainjob",
            "shared_dir": str(self.shared),
            "poll_s": POLL_S,
            "patience_s": PATIENCE_S,
            "timeout_s": 60.0,
        }
        return LaunchConfig(**{**usual, **changes})

    def launch(self, **changes: Any) -> Artifact:
        return launch_training(self.config(**changes), CONFIG, data=self.data.path, out=self.root / "student")

    @property
    def name(self) -> str:
        return place_of(self.shared, CONFIG, [self.data], runs_in="the image of mvqkd-torch").name


def wait_for_looks(cluster: Cluster, count: int) -> None:
    """Until the launcher has asked for the events so many times more."""
    before = cluster.asked("GET", "/events")
    while cluster.asked("GET", "/events") < before + count:
        time.sleep(POLL_S)


def soon(action: Callable[[], Any]) -> None:
    """Do it when the launcher has looked at the job a few times."""
    threading.Thread(target=lambda: (time.sleep(10 * POLL_S), action())).start()
