"""An artifact goes to a DVC remote and comes back with the same id; a damaged remote is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mvqkd.adapters.dvc_identity import directory_md5, pull, push
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.errors import ArtifactError


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    partial = PartialArtifact(
        tmp_path_factory.mktemp("made") / "codebook-indexes", "codebook-indexes", stage="encode-ci", config={}
    )
    (partial.path / "shards").mkdir()
    (partial.path / "shards" / "00000.npy").write_bytes(bytes(range(256)) * 40)
    (partial.path / "shards-index.json").write_text('{"é": 1}\n', encoding="utf-8")
    (partial.path / "shards" / "00001.npy").write_bytes(b"")
    return partial.commit(facts={"num_codebooks": 8})


@pytest.fixture(scope="module")
def pushed_once(indexes: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    push(indexes.path, str(folder / "remote"), folder / "pointers" / "codebook-indexes.dvc")
    return folder


@pytest.fixture
def pushed(pushed_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A remote that holds the artifact, and the pointer to it; a copy of the test's own."""
    shutil.copytree(pushed_once, tmp_path / "pushed")
    return tmp_path / "pushed" / "remote", tmp_path / "pushed" / "pointers" / "codebook-indexes.dvc"


def test_identity_is_dvcs_own(indexes: Artifact, tmp_path: Path) -> None:
    shutil.copytree(indexes.path, tmp_path / "codebook-indexes")
    for arguments in (["init", "--no-scm", "--quiet"], ["add", "--quiet", "codebook-indexes"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True, capture_output=True)
    recorded = yaml.safe_load((tmp_path / "codebook-indexes.dvc").read_text())["outs"][0]
    assert directory_md5(indexes.path) == recorded["md5"]


def test_push_then_pull_gives_the_same_artifact(indexes: Artifact, pushed: tuple[Path, Path], tmp_path: Path) -> None:
    remote, pointer = pushed
    on_remote = [path for path in remote.rglob("*") if path.is_file()]
    assert len(on_remote) == len(indexes.files) + 2, "artifact.json and the list of files, nothing else"
    back = pull(pointer, str(remote), tmp_path / "elsewhere" / "codebook-indexes")
    assert back.id == indexes.id
    assert load_artifact(back.path, "codebook-indexes").id == indexes.id
    assert directory_md5(back.path) == directory_md5(indexes.path)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["codebook-indexes"]


def test_flipped_byte_on_the_remote_is_refused(pushed: tuple[Path, Path], tmp_path: Path) -> None:
    remote, pointer = pushed
    shard = max((path for path in remote.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    out = tmp_path / "elsewhere" / "codebook-indexes"
    with pytest.raises(ArtifactError, match="verification on") as caught:
        pull(pointer, str(remote), out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


def test_absent_content_is_refused(pushed: tuple[Path, Path], tmp_path: Path) -> None:
    _, pointer = pushed
    with pytest.raises(ArtifactError, match="holds the artifact undamaged"):
        pull(pointer, str(tmp_path / "empty-remote"), tmp_path / "out")


def test_damaged_artifact_is_not_pushed(indexes: Artifact, tmp_path: Path) -> None:
    damaged = tmp_path / "codebook-indexes"
    shutil.copytree(indexes.path, damaged)
    (damaged / "shards" / "00000.npy").write_bytes(bytes(256 * 40))
    with pytest.raises(ArtifactError, match="sha256"):
        push(damaged, str(tmp_path / "remote"), tmp_path / "pointer.dvc")
    assert not (tmp_path / "remote").exists()
    assert not (tmp_path / "pointer.dvc").exists()


def test_existing_target_and_bad_pointer_are_refused(pushed: tuple[Path, Path], tmp_path: Path) -> None:
    remote, pointer = pushed
    with pytest.raises(ArtifactError, match="no such directory yet"):
        pull(pointer, str(remote), tmp_path)
    (tmp_path / "bad.dvc").write_text("outs: []\n")
    with pytest.raises(ArtifactError, match=r"a \.dvc file with one output"):
        pull(tmp_path / "bad.dvc", str(remote), tmp_path / "out")


def test_credentials_stay_out_of_messages(indexes: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        push(indexes.path, "nosuchscheme://user:secret@host/bucket", tmp_path / "pointer.dvc")
    assert "secret" not in str(caught.value)
