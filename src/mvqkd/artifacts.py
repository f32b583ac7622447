"""Artifact directories: written whole or not at all, identified by content, verified on load.

An artifact is a directory of payload files plus ``artifact.json``. Its id is a hash of what it holds and of
what it was made from, so that equal inputs and equal code give equal ids on every orchestrator, and a stage
can refuse inputs that do not belong together. Nothing volatile (time, host, git SHA) enters the id.

A stage writes into a hidden sibling directory whose name carries a key of its config and parents. A killed
stage leaves that sibling behind; the same stage run again with the same inputs finds it and goes on, a stage
with other inputs discards it. Only ``commit`` gives the directory its public name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from mvqkd.errors import ArtifactCorruptError, ArtifactError, ArtifactMismatchError, ArtifactNotFoundError

ARTIFACT_FILE = "artifact.json"

# One entry a kind: bump the number when a reader of the old layout would misread the new one.
SCHEMA_VERSIONS = {
    "cut-manifest": 1,
    "teacher-embeddings": 1,
    "quantizer": 1,
    "codebook-indexes": 2,
    "student-checkpoint": 1,
    "wer-report": 1,
    "onnx-bundle": 1,
    "promotion-decision": 1,
    "promotion": 1,
}

_RECORDED_VERSIONS = ("mvqkd", "torch", "numpy", "lhotse", "onnx", "onnxruntime", "sherpa-onnx")


@dataclass(frozen=True)
class Artifact:
    """What artifact.json says, read back and checked.

    ``files`` maps a relative path to {"sha256", "size_bytes"}; ``parents`` maps a kind to an artifact id;
    ``figures`` holds the stage's measured numbers, for people and dashboards; ``facts`` holds what the next
    stages need to know (rates, dimensions, teacher id). Facts are part of the id, figures are not.
    ``wall_s`` is the stage's time, with all runs that it took; ``usage`` what its last process took of the machine.
    """

    path: Path
    kind: str
    schema_version: int
    id: str
    files: Mapping[str, Mapping[str, Any]]
    parents: Mapping[str, str]
    stage: str
    config: Mapping[str, Any]
    config_hash: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    git_sha: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created_utc: str = ""
    wall_s: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def scalar_figures(self) -> dict[str, float]:
        """The figures that are plain numbers: what a metrics page or an orchestrator can plot."""
        numbers = {name: value for name, value in self.figures.items() if not isinstance(value, bool)}
        return {name: value for name, value in numbers.items() if isinstance(value, int | float)}

    @property
    def metadata(self) -> dict[str, Any]:
        """What an orchestrator records beside the directory, to find it again by id."""
        return {
            "artifact_id": self.id,
            "kind": self.kind,
            "parents": dict(self.parents),
            "facts": dict(self.facts),
            "figures": self.scalar_figures,
        }

    def require_parent(self, parent: Artifact) -> None:
        """Refuse a parent that this artifact was not made from.

        Raises:
            ArtifactMismatchError: with both ids in the message.
        """
        recorded = self.parents.get(parent.kind)
        if recorded != parent.id:
            raise ArtifactMismatchError(
                f"{self.kind} {self.path} ({self.short_id})",
                expected=f"{parent.kind} {recorded[:12] if recorded else 'none'} as its parent",
                got=f"{parent.kind} {parent.short_id} at {parent.path}",
                next_step=f"re-run {self.stage} with that {parent.kind}, or pass the one it was made from",
            )


def canonical_json(value: Any) -> str:
    """Serialise so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_hash(value: Any) -> str:
    """sha256 (hex) of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_open(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling for writing; fsync and rename it to ``path`` when the block ends well.

    A reader therefore sees the old file or the whole new one, also after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write readable, key-sorted JSON atomically."""
    with atomic_open(path) as stream:
        stream.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


class PartialArtifact:
    """An artifact being written. Use ``path`` for payload files, then ``commit``.

    Files put below ``path`` must be written with ``atomic_open`` (or renamed into place) when a resumed stage
    is to trust them. Names that start with ``.`` are scratch: they are removed at commit.
    """

    def __init__(
        self,
        out: Path,
        kind: str,
        *,
        stage: str,
        config: Mapping[str, Any],
        parents: list[Artifact] | Mapping[str, str] | None = None,
    ) -> None:
        self.out = Path(out)
        self.kind = kind
        self.stage = stage
        self.config = dict(config)
        # A mapping of kind to id serves where the parents themselves are not at hand (joining parts of one artifact).
        by_kind = parents if isinstance(parents, Mapping) else {parent.kind: parent.id for parent in parents or []}
        self.parents: dict[str, str] = dict(by_kind)
        self.config_hash = content_hash({"stage": stage, "config": self.config})
        key = content_hash([kind, SCHEMA_VERSIONS[kind], self.config_hash, self.parents])[:12]
        self.path = self.out.with_name(f".{self.out.name}.partial-{key}")
        self._started = time.monotonic()
        for stale in self.out.parent.glob(f".{self.out.name}.partial-*"):
            if stale != self.path:
                shutil.rmtree(stale)
        self.resumed = self.path.is_dir() and any(self.path.iterdir())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".wall_s").touch()
        except OSError as error:
            raise ArtifactError(
                f"{kind} {self.out}",
                expected=f"a directory {self.out.parent} that user {os.getuid()} may write to",
                got=error.strerror or str(error),
                next_step="give it to that user, or name another with --out",
            ) from error
        self._earlier_wall_s = float((self.path / ".wall_s").read_text() or 0.0)

    def note_wall_time(self) -> None:
        """Remember the time spent so far, so that a resumed stage reports the sum of its runs."""
        with atomic_open(self.path / ".wall_s") as stream:
            stream.write(f"{self.wall_s:.3f}")

    @property
    def wall_s(self) -> float:
        return self._earlier_wall_s + time.monotonic() - self._started

    def commit(self, *, facts: Mapping[str, Any] | None = None, figures: Mapping[str, Any] | None = None) -> Artifact:
        """Digest every file, write artifact.json, fsync and give the directory its public name."""
        wall_s = round(self.wall_s, 3)
        for scratch in self.path.glob(".*"):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
        files = {
            path.relative_to(self.path).as_posix(): {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.name != ARTIFACT_FILE
        }
        facts = dict(facts or {})
        record = {
            "kind": self.kind,
            "schema_version": SCHEMA_VERSIONS[self.kind],
            "id": artifact_id(self.kind, files, self.parents, facts),
            "files": files,
            "parents": self.parents,
            "stage": self.stage,
            "config": self.config,
            "config_hash": self.config_hash,
            "facts": facts,
            "figures": dict(figures or {}),
            "git_sha": _git_sha(),
            "versions": _library_versions(),
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_s": wall_s,
            "usage": _usage(),
        }
        write_json(self.path / ARTIFACT_FILE, record)
        for path in self.path.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        _replace_directory(self.path, self.out)
        return load_artifact(self.out, self.kind, verify="size")


def artifact_id(
    kind: str, files: Mapping[str, Mapping[str, Any]], parents: Mapping[str, str], facts: Mapping[str, Any]
) -> str:
    """Content id: a sha256 over the kind, its schema, the digests of its files, its parents and its facts."""
    digests = {name: entry["sha256"] for name, entry in files.items()}
    return content_hash([kind, SCHEMA_VERSIONS[kind], digests, dict(parents), dict(facts)])


def load_artifact(path: Path | str, kind: str | None = None, *, verify: Literal["full", "size"] = "full") -> Artifact:
    """Read artifact.json and check kind, schema, id and digests.

    Args:
        path: the artifact directory.
        kind: the kind the caller needs; None accepts any known kind.
        verify: ``full`` hashes every file; ``size`` compares sizes only, for stores whose reader hashes each
            shard when it opens it.
    Raises:
        ArtifactNotFoundError, ArtifactMismatchError, ArtifactCorruptError.
    """
    path = Path(path)
    manifest = path / ARTIFACT_FILE
    wanted = kind or "artifact"
    if not manifest.is_file():
        raise ArtifactNotFoundError(
            f"{wanted} {path}",
            expected=f"a directory with {ARTIFACT_FILE}",
            got="no such directory" if not path.is_dir() else f"a directory without {ARTIFACT_FILE}",
            next_step=_how_to_make(kind),
        )
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
        artifact = Artifact(path=path, **record)
    except (ValueError, TypeError) as error:
        raise ArtifactCorruptError(
            f"{wanted} {path}", expected=f"a valid {ARTIFACT_FILE}", got=str(error), next_step=_how_to_make(kind)
        ) from error
    if kind is not None and artifact.kind != kind:
        raise ArtifactMismatchError(
            f"artifact {path}",
            expected=f"kind {kind}",
            got=f"kind {artifact.kind} ({artifact.short_id})",
            next_step=f"pass a {kind} directory; {_how_to_make(kind)}",
        )
    known_schema = SCHEMA_VERSIONS.get(artifact.kind)
    if artifact.schema_version != known_schema:
        raise ArtifactMismatchError(
            f"{artifact.kind} {path}",
            expected=f"schema version {known_schema}",
            got=f"version {artifact.schema_version}",
            next_step=f"re-run {artifact.stage} with this version of mvqkd",
        )
    _verify_files(artifact, verify)
    return artifact


def _verify_files(artifact: Artifact, verify: Literal["full", "size"]) -> None:
    for name, entry in artifact.files.items():
        file = artifact.path / name
        subject = f"{artifact.kind} {artifact.path} ({artifact.short_id}), file {name}"
        next_step = f"re-run {artifact.stage} or restore the directory from its remote"
        size = file.stat().st_size if file.is_file() else None
        if size != entry["size_bytes"]:
            raise ArtifactCorruptError(
                subject,
                expected=f"{entry['size_bytes']} bytes",
                got="no such file" if size is None else f"{size} bytes",
                next_step=next_step,
            )
        if verify == "full" and (digest := file_sha256(file)) != entry["sha256"]:
            raise ArtifactCorruptError(
                subject, expected=f"sha256 {entry['sha256'][:16]}", got=f"sha256 {digest[:16]}", next_step=next_step
            )
    computed = artifact_id(artifact.kind, artifact.files, artifact.parents, artifact.facts)
    if computed != artifact.id:
        raise ArtifactCorruptError(
            f"{artifact.kind} {artifact.path}",
            expected=f"id {artifact.short_id} as {ARTIFACT_FILE} states",
            got=f"id {computed[:12]} from its contents",
            next_step=f"re-run {artifact.stage}; {ARTIFACT_FILE} must not be edited",
        )


_MADE_BY = {
    "cut-manifest": "prepare-data",
    "teacher-embeddings": "extract-teacher",
    "quantizer": "fit-quantizer",
    "codebook-indexes": "encode-ci",
    "student-checkpoint": "train-student",
    "wer-report": "evaluate",
    "onnx-bundle": "export-onnx",
    "promotion-decision": "gate",
    "promotion": "promote",
}


def _how_to_make(kind: str | None) -> str:
    stage = _MADE_BY.get(kind or "")
    return f"run `mvqkd {stage}` to make one" if stage else "name a directory that a mvqkd stage has written"


def _replace_directory(source: Path, target: Path) -> None:
    retired = target.with_name(f".{target.name}.retired-{os.getpid()}")
    if target.exists():
        target.rename(retired)
    source.rename(target)
    _fsync_directory(target.parent)
    if retired.exists():
        shutil.rmtree(retired)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _usage() -> dict[str, float]:
    """What this process and the children it has waited for have taken of the machine; memory is the largest's."""
    import resource

    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = sum(of.ru_utime + of.ru_stime for of in (own, children))
    return {"cpu_s": round(cpu_s, 1), "peak_memory_bytes": 1024 * max(own.ru_maxrss, children.ru_maxrss)}


def _git_sha() -> str | None:
    # The code's checkout, not the caller's folder: an artifact says which mvqkd made it.
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return os.environ.get("MVQKD_GIT_SHA")
    return result.stdout.strip() if result.returncode == 0 else os.environ.get("MVQKD_GIT_SHA")


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _RECORDED_VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
