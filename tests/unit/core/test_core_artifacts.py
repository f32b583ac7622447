"""Artifact directories: whole or absent, verified on load, resumable under the same key only."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import (
    ARTIFACT_FILE,
    SCHEMA_VERSIONS,
    Artifact,
    PartialArtifact,
    atomic_open,
    canonical_json,
    content_hash,
    load_artifact,
    write_json,
)
from mvqkd.errors import ArtifactCorruptError, ArtifactError, ArtifactMismatchError, ArtifactNotFoundError


def _make(out: Path, content: bytes = b"payload", *, kind: str = "quantizer", **options: Any) -> Artifact:
    partial = PartialArtifact(out, kind, stage="fit-quantizer", config={"seed": 0}, parents=options.get("parents"))
    (partial.path / "inner").mkdir(exist_ok=True)
    (partial.path / "inner" / "file.bin").write_bytes(content)
    return partial.commit(facts=options.get("facts", {"dim": 4}), figures=options.get("figures"))


def test_commit_leaves_only_the_public_directory(tmp_path: Path) -> None:
    artifact = _make(tmp_path / "quantizer")
    assert [path.name for path in tmp_path.iterdir()] == ["quantizer"]
    assert sorted(path.name for path in artifact.path.iterdir()) == [ARTIFACT_FILE, "inner"]
    assert load_artifact(artifact.path, "quantizer") == artifact
    assert artifact.versions["mvqkd"]
    assert artifact.metadata["artifact_id"] == artifact.id
    assert artifact.short_id == artifact.id[:12]


def test_equal_content_gives_equal_ids_and_figures_do_not_count(tmp_path: Path) -> None:
    first = _make(tmp_path / "a", figures={"wall": 1.0})
    second = _make(tmp_path / "b", figures={"wall": 2.0})
    assert first.id == second.id
    assert _make(tmp_path / "c", b"other").id != first.id
    assert _make(tmp_path / "d", facts={"dim": 5}).id != first.id
    assert _make(tmp_path / "e", kind="student-checkpoint").id != first.id
    assert _make(tmp_path / "f", parents=[first]).id != first.id


def test_scalar_figures_leave_out_what_is_no_number(tmp_path: Path) -> None:
    figures = {"wer": 0.5, "count": 3, "good": True, "name": "x", "list": [1]}
    assert _make(tmp_path / "a", figures=figures).scalar_figures == {"wer": 0.5, "count": 3}


def test_commit_replaces_an_earlier_artifact(tmp_path: Path) -> None:
    first = _make(tmp_path / "a")
    second = _make(tmp_path / "a", b"newer")
    assert second.id != first.id
    assert load_artifact(tmp_path / "a").id == second.id
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_scratch_is_not_part_of_the_artifact(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "a", "quantizer", stage="s", config={})
    (partial.path / ".state").mkdir()
    (partial.path / ".state" / "resume.pt").write_bytes(b"x")
    (partial.path / "kept").write_bytes(b"y")
    artifact = partial.commit()
    assert list(artifact.files) == ["kept"]
    assert not (artifact.path / ".state").exists()


def test_the_same_stage_resumes_and_another_discards(tmp_path: Path) -> None:
    out = tmp_path / "a"
    first = PartialArtifact(out, "quantizer", stage="s", config={"seed": 0})
    assert not first.resumed
    (first.path / "shard").write_bytes(b"x")
    first.note_wall_time()
    again = PartialArtifact(out, "quantizer", stage="s", config={"seed": 0})
    assert again.resumed
    assert (again.path / "shard").read_bytes() == b"x"
    other = PartialArtifact(out, "quantizer", stage="s", config={"seed": 1})
    assert not other.resumed
    assert not first.path.exists()


def test_wall_time_adds_up_over_resumed_runs(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "a", "quantizer", stage="s", config={})
    (partial.path / ".wall_s").write_text("100.0")
    resumed = PartialArtifact(tmp_path / "a", "quantizer", stage="s", config={})
    assert resumed.commit().wall_s >= 100.0


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where a directory should be")
    with pytest.raises(ArtifactError, match=r"artifacts that user \d+ may write to, got (Not a directory|File exists)"):
        PartialArtifact(tmp_path / "artifacts" / "quantizer", "quantizer", stage="fit-quantizer", config={})


def test_partial_is_not_loadable(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "a", "quantizer", stage="s", config={})
    for path in (partial.path, partial.out):
        with pytest.raises(ArtifactNotFoundError, match="run `mvqkd fit-quantizer`"):
            load_artifact(path, "quantizer")


def test_kill_9_leaves_the_old_artifact_whole(tmp_path: Path) -> None:
    old = _make(tmp_path / "a")
    code = f"""
import os, signal
from pathlib import Path
from mvqkd.artifacts import PartialArtifact
partial = PartialArtifact(Path({str(tmp_path / "a")!r}), "quantizer", stage="s", config={{"seed": 7}})
(partial.path / "half").write_bytes(b"x" * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load_artifact(tmp_path / "a").id == old.id
    resumed = PartialArtifact(tmp_path / "a", "quantizer", stage="s", config={"seed": 7})
    assert resumed.resumed
    assert (resumed.path / "half").is_file()


def test_flipped_byte_truncation_and_loss_are_refused(tmp_path: Path) -> None:
    artifact = _make(tmp_path / "a")
    file = artifact.path / "inner" / "file.bin"
    file.write_bytes(b"paYload")
    load_artifact(artifact.path, verify="size")
    with pytest.raises(ArtifactCorruptError, match=r"inner/file\.bin: expected sha256 .* re-run fit-quantizer"):
        load_artifact(artifact.path)
    file.write_bytes(b"payloa")
    with pytest.raises(ArtifactCorruptError, match="expected 7 bytes, got 6 bytes"):
        load_artifact(artifact.path, verify="size")
    file.unlink()
    with pytest.raises(ArtifactCorruptError, match="got no such file"):
        load_artifact(artifact.path, verify="size")


@pytest.mark.parametrize("key", ["facts", "parents", "id"])
def test_edited_manifest_is_refused(tmp_path: Path, key: str) -> None:
    artifact = _make(tmp_path / "a")
    record = json.loads((artifact.path / ARTIFACT_FILE).read_text())
    record[key] = "0" * 64 if key == "id" else {"quantizer": "0" * 64}
    write_json(artifact.path / ARTIFACT_FILE, record)
    with pytest.raises(ArtifactCorruptError, match="must not be edited"):
        load_artifact(artifact.path)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "quantizer"}', '{"unknown": 1}'])
def test_unreadable_manifest_is_refused(tmp_path: Path, text: str) -> None:
    artifact = _make(tmp_path / "a")
    (artifact.path / ARTIFACT_FILE).write_text(text)
    with pytest.raises(ArtifactCorruptError, match=r"a valid artifact\.json"):
        load_artifact(artifact.path)


def test_another_kind_or_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = _make(tmp_path / "a")
    with pytest.raises(ArtifactMismatchError, match="expected kind student-checkpoint, got kind quantizer"):
        load_artifact(artifact.path, "student-checkpoint")
    monkeypatch.setitem(SCHEMA_VERSIONS, "quantizer", 2)
    with pytest.raises(ArtifactMismatchError, match="expected schema version 2, got version 1"):
        load_artifact(artifact.path)


def test_foreign_parent_is_refused_with_both_ids(tmp_path: Path) -> None:
    parent, stranger = _make(tmp_path / "a"), _make(tmp_path / "b", b"other")
    child = _make(tmp_path / "c", kind="codebook-indexes", parents=[parent])
    child.require_parent(parent)
    with pytest.raises(ArtifactMismatchError) as caught:
        child.require_parent(stranger)
    assert parent.short_id in str(caught.value)
    assert stranger.short_id in str(caught.value)


def test_atomic_open_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    with atomic_open(target) as stream:
        stream.write("old")

    def fail_halfway() -> None:
        with atomic_open(target) as stream:
            stream.write("new")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_halfway()
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_hash_ignores_key_order_and_refuses_nan() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert canonical_json({"é": [1, 2.5]}) == '{"\\u00e9":[1,2.5]}'
    with pytest.raises(ValueError, match="Out of range float"):
        content_hash(float("nan"))
