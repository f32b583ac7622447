"""Artifact directories on a DVC remote: DVC's identity of a directory, push, and pull with verification.

In a checkout, ``dvc push`` and ``dvc pull`` do this for the whole pipeline. A pod or a script that holds one
artifact has neither checkout nor ``dvc.lock``; it pushes the directory and carries a small pointer file (an
ordinary ``.dvc`` file), from which any machine pulls the same bytes back. DVC does not compare pulled content
with its digest unless told to, so every remote used here has ``verify`` on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.errors import ArtifactError

_REMOTE = "carrier"
# Hard links spare a second copy of what may be many gigabytes; the cache goes away with the workspace.
_WORKSPACE_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = "reflink,hardlink,copy"
"""


def directory_md5(directory: Path) -> str:
    """DVC's identity of a directory: ``<md5>.dir``, the md5 of the sorted list of its files' digests.

    Equal to what ``dvc add`` and ``dvc.lock`` record, so that an artifact can be compared with either without DVC.
    """
    entries = [
        {"md5": _file_md5(path), "relpath": path.relative_to(directory).as_posix()}
        for path in directory.rglob("*")
        if path.is_file()
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def push(directory: Path, remote_url: str, pointer: Path) -> str:
    """Upload an artifact directory to a DVC remote and write the pointer file to pull it back with.

    Args:
        directory: a committed artifact; it is verified before anything is sent.
        remote_url: any URL that DVC knows, or a local directory. Credentials come from the environment.
        pointer: file to write, by custom ``NAME.dvc``.
    Returns:
        DVC's identity of the directory.
    Raises:
        ArtifactError: the artifact is damaged, changed while it was sent, or the remote refused it.
    """
    artifact = load_artifact(directory)
    identity = directory_md5(directory)
    with tempfile.TemporaryDirectory(prefix="mvqkd-push-") as workspace:
        _set_up(Path(workspace), remote_url)
        # Not `add --to-remote`, which would spare the copy here but leaves a second one of every file on the remote.
        _dvc(Path(workspace), remote_url, "add", "--quiet", "--out", "artifact", str(directory.resolve()))
        _dvc(Path(workspace), remote_url, "push", "--quiet", "--remote", _REMOTE)
        written = Path(workspace) / "artifact.dvc"
        sent = _pointer_md5(written)
        if sent != identity:
            raise ArtifactError(
                f"{artifact.kind} {directory} ({artifact.short_id})",
                expected=f"md5 {identity}",
                got=f"md5 {sent} as sent",
                next_step="push again once nothing writes to the directory",
            )
        pointer.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(written, pointer)
    return identity


def pull(pointer: Path, remote_url: str, out: Path) -> Artifact:
    """Download the artifact that a pointer file names, verified, to ``out``.

    ``out`` appears whole or not at all; an existing directory there is left alone and refused.

    Raises:
        ArtifactError: the remote lacks it, its bytes differ from their digests, or ``out`` exists.
    """
    if out.exists():
        raise ArtifactError(
            f"directory {out}", expected="no such directory yet", got="one", next_step="remove it or pass another"
        )
    identity = _pointer_md5(pointer)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside `out`, so that the final rename stays on one file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.pull-", dir=out.parent) as workspace:
        _set_up(Path(workspace), remote_url)
        shutil.copyfile(pointer, Path(workspace) / "artifact.dvc")
        _dvc(Path(workspace), remote_url, "pull", "--remote", _REMOTE, "artifact.dvc")
        pulled = Path(workspace) / "artifact"
        found = directory_md5(pulled)
        if found != identity:
            raise ArtifactError(
                f"remote {_without_credentials(remote_url)}",
                expected=f"md5 {identity}",
                got=f"md5 {found}",
                next_step="push the artifact again from where it was made",
            )
        load_artifact(pulled)
        pulled.rename(out)
    return load_artifact(out, verify="size")


def _set_up(workspace: Path, remote_url: str) -> None:
    url = remote_url if "://" in remote_url else str(Path(remote_url).resolve())
    (workspace / ".dvc").mkdir()
    (workspace / ".dvc" / "config").write_text(_WORKSPACE_CONFIG)
    _dvc(workspace, url, "remote", "add", _REMOTE, url)
    _dvc(workspace, url, "remote", "modify", _REMOTE, "verify", "true")


def _dvc(workspace: Path, remote_url: str, *arguments: str) -> None:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        said = " ".join(lines).replace(remote_url, _without_credentials(remote_url))
        raise ArtifactError(
            f"remote {_without_credentials(remote_url)}",
            expected=f"dvc {arguments[0]} to succeed with verification on",
            got=said.removeprefix("ERROR: ") or f"exit code {result.returncode}",
            next_step="check that the remote can be reached and holds the artifact undamaged, or push it again",
        )


def _pointer_md5(pointer: Path) -> str:
    import yaml

    try:
        outs = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
        return str(outs[0]["md5"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"pointer file {pointer}",
            expected="a .dvc file with one output",
            got=f"{type(error).__name__}: {error}",
            next_step="pass the file that push wrote",
        ) from error


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else url
