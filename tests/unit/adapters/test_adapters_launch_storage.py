"""Artifacts on shared storage: whole or not there, verified, copied once, never over a good one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mvqkd.adapters.launch_storage import copy_artifact, place_of, stage_artifact
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.errors import ArtifactCorruptError
from mvqkd.train.preemption import StopRequest, TrainingStopped


def made(out: Path, text: str = "one") -> Artifact:
    partial = PartialArtifact(out, "quantizer", stage="fit-quantizer", config={})
    for name in ("a.txt", "deep/b.txt"):
        (partial.path / name).parent.mkdir(exist_ok=True)
        (partial.path / name).write_text(text)
    return partial.commit()


def leftovers(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.startswith(".")]


def test_an_input_is_staged_once_by_its_id(tmp_path: Path) -> None:
    artifact, shared = made(tmp_path / "quantizer"), tmp_path / "shared"
    staged = stage_artifact(artifact.path, shared)
    assert staged.path == shared / "artifacts" / f"quantizer-{artifact.short_id}"
    assert load_artifact(staged.path).id == artifact.id
    before = (staged.path / "a.txt").stat().st_ino
    assert stage_artifact(artifact.path, shared).path == staged.path
    assert (staged.path / "a.txt").stat().st_ino == before, "copied once"
    # What lies on the storage already is used where it is.
    assert stage_artifact(staged.path, shared).path == staged.path
    assert leftovers(shared / "artifacts") == []


def test_a_damaged_copy_is_made_anew(tmp_path: Path) -> None:
    artifact = made(tmp_path / "quantizer")
    staged = stage_artifact(artifact.path, tmp_path / "shared")
    (staged.path / "deep" / "b.txt").unlink()
    assert load_artifact(stage_artifact(artifact.path, tmp_path / "shared").path).id == artifact.id
    assert leftovers(tmp_path / "shared" / "artifacts") == []


def test_a_damaged_source_leaves_the_storage_as_it_was(tmp_path: Path) -> None:
    artifact = made(tmp_path / "quantizer")
    (artifact.path / "a.txt").write_text("two")
    with pytest.raises(ArtifactCorruptError, match=r"file a\.txt: expected sha256"):
        stage_artifact(artifact.path, tmp_path / "shared")
    assert list((tmp_path / "shared" / "artifacts").iterdir()) == []


def test_another_artifact_at_the_place_is_replaced(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one"), made(tmp_path / "two", "two")
    target = tmp_path / "out" / "student"
    copy_artifact(one, target)
    assert copy_artifact(two, target).id == two.id
    assert load_artifact(target).id == two.id
    assert leftovers(target.parent) == []


def test_a_stop_ends_a_copy_without_a_trace(tmp_path: Path) -> None:
    artifact = made(tmp_path / "quantizer")
    with StopRequest() as stop:
        os.kill(os.getpid(), 15)
        stop.sleep(5)
        with pytest.raises(TrainingStopped, match="SIGTERM while it was made"):
            stage_artifact(artifact.path, tmp_path / "shared", stop)
    assert list((tmp_path / "shared" / "artifacts").iterdir()) == []


def test_a_training_has_a_place_by_section_inputs_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MVQKD_GIT_SHA", raising=False)
    config, one, two = TrainStudentConfig(), made(tmp_path / "one"), made(tmp_path / "two", "two")
    names = {
        place_of(tmp_path, config, [one]).name,
        place_of(tmp_path, config.model_copy(update={"seed": 1}), [one]).name,
        place_of(tmp_path, config, [two]).name,
        place_of(tmp_path, config, [one], runs_in="image@sha256:0").name,
    }
    monkeypatch.setenv("MVQKD_GIT_SHA", "abc")
    names.add(place_of(tmp_path, config, [one]).name)
    assert len(names) == 5
    assert place_of(tmp_path, config, [one]) == place_of(tmp_path, TrainStudentConfig(), [one])
