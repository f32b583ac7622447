"""The command that every rank runs, and what must hold of the artifact that they leave."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from mvqkd.artifacts import ARTIFACT_FILE, Artifact, atomic_open, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.errors import TrainingError

_STUDENT = "student-checkpoint"
# Network file systems remember for some seconds that a file was not there.
_VISIBLE_WITHIN_S = 30.0


def write_params(config: TrainStudentConfig, path: Path) -> None:
    """Write every field of the section, so that ranks have the same config hash as this process."""
    import yaml

    with atomic_open(path) as stream:
        yaml.safe_dump({config.section: config.model_dump(mode="json")}, stream)


def stage_arguments(params: Path, inputs: Mapping[str, Path], out: Path) -> list[str]:
    """Arguments of ``mvqkd`` for these inputs and no others, whatever lies in the directory it is run in."""
    arguments = ["train-student", "--params", str(params), "--out", str(out)]
    # Inputs that are not named would be looked for here.
    arguments += ["--artifacts-dir", str(params.parent / "none")]
    for name, path in inputs.items():
        arguments += [f"--{name.replace('_', '-')}", str(path)]
    return arguments


def has_arrived(out: Path) -> bool:
    """Whether an artifact that another machine has written is there, or comes into sight."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_S
    while not (out / ARTIFACT_FILE).is_file():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True


def trained(out: Path, config: TrainStudentConfig, *, by: str) -> Artifact:
    """The artifact that ranks with this section have written.

    Args:
        by: what ran them, for the message.
    Raises:
        ArtifactError: it is damaged.
        TrainingError: there is none, or one of another section.
    """
    artifact = load_artifact(out, _STUDENT) if has_arrived(out) else None
    if artifact is None or artifact.config != config.model_dump(mode="json"):
        raise TrainingError(
            f"train-student by {by}",
            expected=f"a {_STUDENT} of this section at {out}",
            got="none" if artifact is None else f"{artifact.short_id} of another one",
            next_step="check that all nodes see the same storage at this path, then run it again",
        )
    return artifact
