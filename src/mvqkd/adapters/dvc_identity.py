"""Artifact directories on a DVC remote: DVC's identity of a directory, push, and pull by that identity alone.

In a checkout, ``dvc push`` and ``dvc pull`` do this for the whole pipeline. A pod or a script that holds one artifact
has neither checkout nor ``dvc.lock``: it pushes the directory and carries 36 characters, DVC's id of it, from which any
machine pulls the same bytes back. What is on the remote is an ordinary DVC remote, and a pointer file of ours is an
ordinary ``.dvc`` file: DVC itself can read both.

Objects on a remote are named by their md5. A name that is there is taken for content that is there, by DVC and
here; what is pulled is compared with its digest, which DVC does not do unless told to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit

from mvqkd.artifacts import Artifact, atomic_open, load_artifact
from mvqkd.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError, MissingDependencyError, MvqkdError

_LOG = logging.getLogger("mvqkd.dvc")
_IDENTITY = re.compile(r"[0-9a-f]{32}\.dir")
# Values of these never enter a message, whatever a library says of a request that failed.
_SECRET_VARIABLES = re.compile(r"SECRET|PASSWORD|_TOKEN$|_KEY$|CONNECTION_STRING", re.IGNORECASE)
_SECRET_LENGTH = 8  # a shorter one would be found within ordinary words


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


def push(directory: Path, remote_url: str, pointer: Path | None = None, *, verify: bool = False) -> str:
    """Upload an artifact directory to a DVC remote; what is there already is not sent again.

    Args:
        directory: a committed artifact; it is verified before anything is sent, and not copied.
        remote_url: any URL that DVC knows, or a local directory. Endpoint and credentials come from the environment.
        pointer: also write a pointer file, by custom ``NAME.dvc``.
        verify: read back what the remote holds under the files' names, and send again what is damaged.
    Returns:
        DVC's identity of the directory: all that ``pull`` needs.
    Raises:
        ArtifactError: the artifact is damaged, or the remote refused it.
        MissingDependencyError: DVC's package for this kind of remote is not installed.
    """
    artifact = load_artifact(directory)
    with _remote(remote_url, f"to take {artifact.kind} {artifact.short_id}") as remote:
        from dvc_data.hashfile.build import build
        from dvc_objects.fs.local import localfs

        listing: Any
        _, _, listing = build(remote, str(directory.resolve()), localfs, "md5", dry_run=True)
        paths = {entry.value: str(directory.resolve().joinpath(*key)) for key, _, entry in listing}
        names = [*paths, listing.oid]
        if verify:
            _remove_damaged(remote, names)
        missing = set(names) - set(remote.oids_exist(names))
        files = sorted(set(paths) & missing)
        num_bytes = sum(Path(paths[name]).stat().st_size for name in files)
        _LOG.info("push: %d of %d objects are not there yet, %.1f MB", len(missing), len(names), num_bytes / 1e6)
        _send(remote, localfs, {paths[name]: name for name in files})
        # Last, because whoever finds the listing takes its files for granted.
        _send(remote, listing.fs, {listing.path: listing.oid} if listing.oid in missing else {})
        identity = str(listing.oid)
    if pointer is not None:
        with atomic_open(pointer) as stream:
            stream.write(f"outs:\n- md5: {identity}\n  hash: md5\n  path: {artifact.path.name}\n")
    return identity


def pull(source: str | Path, remote_url: str, out: Path) -> Artifact:
    """Download an artifact to ``out`` and verify every byte of it.

    ``out`` appears whole or not at all; an existing directory there is left alone and refused. Intact files that a
    failed pull of the same artifact has left in a hidden sibling are not downloaded again.

    Args:
        source: DVC's identity, ``<md5>.dir``, or a pointer file.
        remote_url: as for ``push``.
    Raises:
        ArtifactNotFoundError: the remote lacks it.
        ArtifactCorruptError: bytes on the remote differ from their digests; they are named.
        ArtifactError: ``out`` exists, or the remote refused.
    """
    if out.exists():
        raise ArtifactError(
            f"directory {out}", expected="no such directory yet", got="one", next_step="remove it or pass another"
        )
    identity = identity_of(source)
    partial = out.with_name(f".{out.name}.pull-{identity[:12]}")
    for stale in set(out.parent.glob(f".{out.name}.pull-*")) - {partial}:
        shutil.rmtree(stale)
    try:
        with _remote(remote_url, f"to give {identity}") as remote:
            _fetch(remote, _read_listing(remote, remote_url, identity), remote_url, partial)
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()  # nothing has come
    artifact = load_artifact(partial)
    if (found := directory_md5(partial)) != identity:
        raise ArtifactCorruptError(
            f"directory {partial}", expected=identity, got=found, next_step="remove that directory and pull again"
        )
    partial.rename(out)
    return load_artifact(out, artifact.kind, verify="size")


def identity_of(source: str | Path) -> str:
    """DVC's identity as it stands, or from the pointer file that ``source`` names.

    Raises:
        ArtifactError: neither.
    """
    if _IDENTITY.fullmatch(str(source)):
        return str(source)
    import yaml

    try:
        identity = str(yaml.safe_load(Path(source).read_text(encoding="utf-8"))["outs"][0]["md5"])
        found = "a pointer to a single file" if not _IDENTITY.fullmatch(identity) else ""
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        found = f"{type(error).__name__}: {error}"
    if found:
        raise ArtifactError(
            f"DVC id or pointer file {source}",
            expected="32 hexadecimal digits and .dir, or a .dvc file with one output, a directory",
            got=found,
            next_step="pass what `mvqkd push` printed, or the file that it wrote",
        )
    return identity


def _read_listing(remote: Any, remote_url: str, identity: str) -> dict[str, str]:
    """The directory's files: md5 by relative path."""
    path = remote.oid_to_path(identity)
    try:
        with remote.fs.open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(
            f"remote {_without_credentials(remote_url)}",
            expected=f"a directory {identity}",
            got="none",
            next_step="push the artifact from where it was made, or check the remote's URL",
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != identity.removesuffix(".dir"):
        raise _damaged(remote_url, [path])
    listing = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
    for name in listing:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactCorruptError(
                f"directory {identity} on {_without_credentials(remote_url)}",
                expected="files inside the directory",
                got=name,
                next_step="do not trust whoever pushed it",
            )
    return listing


def _fetch(remote: Any, listing: Mapping[str, str], remote_url: str, partial: Path) -> None:
    """Download what ``partial`` lacks; what comes damaged is removed again, and named."""
    from dvc_objects.fs import generic
    from dvc_objects.fs.local import localfs

    for path in partial.rglob("*"):
        if path.is_file() and path.relative_to(partial).as_posix() not in listing:
            path.unlink()  # a killed pull's temporary file
    wanted = {name: md5 for name, md5 in listing.items() if not _is_intact(partial / name, md5)}
    _LOG.info("pull: %d of %d files to download", len(wanted), len(listing))
    failed: list[BaseException] = []
    if wanted:
        generic.copy(
            remote.fs,
            [remote.oid_to_path(md5) for md5 in wanted.values()],
            localfs,
            [str(partial / name) for name in wanted],
            batch_size=remote.fs.jobs,
            on_error=lambda _from, _to, error: failed.append(error),
        )
    damaged = []
    for name, md5 in wanted.items():
        if (partial / name).is_file() and not _is_intact(partial / name, md5):
            (partial / name).unlink()
            damaged.append(remote.oid_to_path(md5))
    if damaged:
        raise _damaged(remote_url, damaged)
    if failed:
        raise failed[0]


def _send(remote: Any, source: Any, names: Mapping[str, str]) -> None:
    failed: list[BaseException] = []
    if names:
        remote.add(list(names), source, list(names.values()), on_error=lambda _name, error: failed.append(error))
    if failed:
        raise failed[0]


def _remove_damaged(remote: Any, names: Sequence[str]) -> None:
    """Compare objects on the remote with the digests that they are named by; remove those that differ."""

    def is_damaged(name: str) -> bool:
        path = remote.oid_to_path(name)
        try:
            with remote.fs.open(path, "rb") as stream:
                intact = _md5(stream) == name.removesuffix(".dir")
        except FileNotFoundError:
            return False
        if not intact:
            remote.fs.remove(path)
        return not intact

    with ThreadPoolExecutor(remote.fs.jobs) as pool:
        if damaged := sum(pool.map(is_damaged, names)):
            _LOG.warning("push: %d objects on the remote were damaged and are sent again", damaged)


@contextlib.contextmanager
def _remote(url: str, purpose: str) -> Iterator[Any]:
    """The remote's object store; whatever fails in the block is one line without credentials."""
    from dvc.fs import get_cloud_fs
    from dvc_data.hashfile.db import get_odb
    from dvc_objects.fs.errors import RemoteMissingDepsError

    # DVC logs failures with their tracebacks; they come as exceptions, too.
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        kind, options, path = get_cloud_fs({}, url=url if "://" in url else str(Path(url).resolve()))
        filesystem = kind(**options)
        _ = filesystem.fs  # connects now: else each thread would
        yield cast(Any, get_odb)(filesystem, filesystem.join(path, "files", "md5"), hash_name="md5")
    except MvqkdError:
        raise
    except (ImportError, RemoteMissingDepsError) as error:
        raise MissingDependencyError(
            f"remote {_without_credentials(url)}",
            expected="DVC's package for this kind of remote",
            got=_said(error, url),
            next_step="pip install 'mvqkd[registry]' for S3, else the package that DVC names",
        ) from error
    except Exception as error:  # each kind of remote has a library, and each library exceptions of its own
        raise ArtifactError(
            f"remote {_without_credentials(url)}",
            expected=f"it {purpose}",
            got=_said(error, url),
            next_step="check its URL, the credentials in the environment and what they allow, then try again",
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _damaged(remote_url: str, paths: Sequence[str]) -> ArtifactCorruptError:
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    return ArtifactCorruptError(
        f"remote {_without_credentials(remote_url)}",
        expected="objects whose content has the digest that they are named by",
        got=f"other bytes in {shown}",
        next_step="push the artifact again with verification (mvqkd push --verify) from where it was made",
    )


def _is_intact(path: Path, md5: str) -> bool:
    return path.is_file() and _file_md5(path) == md5


def _file_md5(path: Path) -> str:
    with path.open("rb") as stream:
        return _md5(stream)


def _md5(stream: Any) -> str:
    return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _said(error: BaseException, url: str) -> str:
    """What an exception says, without the credentials of URLs and of the environment."""
    text = re.sub(r"//[^/@\s]+@", "//", f"{type(error).__name__}: {error}".replace(url, _without_credentials(url)))
    for name, value in os.environ.items():
        if len(value) >= _SECRET_LENGTH and _SECRET_VARIABLES.search(name):
            text = text.replace(value, f"${name}")
    return " ".join(text.split())


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else url
