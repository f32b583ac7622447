"""Storage that machines share: inputs by content id, and a place for each training, where its state outlives them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvqkd.artifacts import ARTIFACT_FILE, Artifact, content_hash, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.errors import ArtifactError
from mvqkd.train.preemption import StopRequest, TrainingStopped

_INPUTS, _TRAININGS = "artifacts", "training"


@dataclass(frozen=True)
class Place:
    """Where one training keeps its state and leaves its artifact. Equal trainings have the same."""

    name: str
    directory: Path

    @property
    def params(self) -> Path:
        return self.directory / "params.yaml"

    @property
    def out(self) -> Path:
        return self.directory / "student"

    @property
    def is_done(self) -> bool:
        """Whether the artifact is there: left by a launcher that was stopped before it took it away."""
        return (self.out / ARTIFACT_FILE).is_file()


def place_of(
    shared_dir: Path, config: TrainStudentConfig, inputs: Iterable[Artifact], *, runs_in: str = "here"
) -> Place:
    """The place of a training: by its section, its inputs and the code that trains.

    Args:
        runs_in: what else says which code trains: a container image, say.
    """
    code = [importlib.metadata.version("mvqkd"), os.environ.get("MVQKD_GIT_SHA"), runs_in]
    ids = {artifact.kind: artifact.id for artifact in inputs}
    name = f"mvqkd-train-{content_hash([config.model_dump(mode='json'), ids, code])[:12]}"
    return Place(name, shared_dir / _TRAININGS / name)


def stage_artifact(path: Path, shared_dir: Path, stop: StopRequest | None = None) -> Artifact:
    """Make an artifact readable on the shared storage, as ``artifacts/KIND-ID``; one that lies there already stays.

    Returns:
        The artifact at its place on the storage.
    Raises:
        ArtifactError, TrainingStopped: see ``copy_artifact``.
    """
    artifact = load_artifact(path, verify="size")
    if artifact.path.resolve().is_relative_to(shared_dir.resolve()):
        return load_artifact(artifact.path.resolve(), verify="size")
    return copy_artifact(artifact, shared_dir / _INPUTS / f"{artifact.kind}-{artifact.short_id}", stop)


def copy_artifact(artifact: Artifact, target: Path, stop: StopRequest | None = None) -> Artifact:
    """Copy an artifact so that ``target`` holds the whole of it or what was there before.

    An equal one at ``target`` is kept. Its sizes are compared; its bytes were when it was copied, and whoever reads
    them next compares them again.

    Args:
        stop: ends the copying, which leaves nothing behind.
    Raises:
        ArtifactError: the bytes that arrived are not those that artifact.json names.
        TrainingStopped: ``stop`` was requested.
    """

    def copy_file(source: str, destination: str) -> str:
        if stop is not None and stop.received is not None:
            raise TrainingStopped(
                f"{artifact.kind} {artifact.path} ({artifact.short_id})",
                expected=f"a copy at {target}",
                got=f"{stop.received.name} while it was made",
                next_step="run the same command again",
            )
        shutil.copyfile(source, destination)
        with Path(destination).open("rb") as stream:
            os.fsync(stream.fileno())
        return destination

    if (present := _equal(target, artifact)) is not None:
        return present
    target.parent.mkdir(parents=True, exist_ok=True)
    # Several launchers may copy the same artifact: each into a directory of its own, the first to be ready wins.
    mark = uuid.uuid4().hex
    arriving, retired = (target.with_name(f".{target.name}.{word}-{mark}") for word in ("arriving", "retired"))
    try:
        shutil.copytree(artifact.path, arriving, copy_function=copy_file)
        load_artifact(arriving, artifact.kind)
        if (present := _equal(target, artifact)) is not None:
            return present
        if target.exists():
            target.rename(retired)
        arriving.rename(target)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)
    return load_artifact(target, artifact.kind, verify="size")


def _equal(target: Path, artifact: Artifact) -> Artifact | None:
    try:
        present = load_artifact(target, artifact.kind, verify="size")
    except ArtifactError:
        return None
    return present if present.id == artifact.id else None
