"""Keep what MLflow was to be told while it cannot be reached, a directory a delivery, until ``mvqkd sync`` delivers it.

Artifacts do not wait: the next run of the pipeline replaces them. Small files are therefore kept here, as further names
of the same bytes where the file system allows it. Of data, embeddings, indexes and weights MLflow is told ids and
figures only, so their artifact.json is enough.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mvqkd.adapters.lineage_record import Delivery
from mvqkd.adapters.run_records import HISTORY_FILE, is_report
from mvqkd.adapters.tracking import PAGE_FILE
from mvqkd.artifacts import ARTIFACT_FILE, Artifact, artifact_id, load_artifact, write_json
from mvqkd.config import PromoteConfig, parse_section
from mvqkd.errors import ArtifactCorruptError

DIRECTORY_VARIABLE = "MVQKD_SPOOL_DIR"
DIRECTORY_NAME = ".spool"
_DELIVERY_FILE = "delivery.json"
_REFUSED_FILE = "refused.txt"
# Delivered whole; of all others their reports.
_WHOLE = ("onnx-bundle", "promotion-decision")


@dataclass(frozen=True)
class Kept:
    """A delivery that waits. ``out``: where its promotion artifact goes; ``refused``: why it never will."""

    directory: Path
    delivery: Delivery
    out: Path
    refused: str | None


def spool_directory(artifacts: Path) -> Path:
    """Where deliveries wait: below the directory of artifacts, unless MVQKD_SPOOL_DIR names another place."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named) if named else artifacts / DIRECTORY_NAME


def keep(delivery: Delivery, out: Path) -> Path:
    """Keep a delivery; one of the same decision is replaced. Returns its directory."""
    home = spool_directory(out.parent)
    target = _place(home, delivery)
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=home, prefix=".keep-"))
    try:
        for artifact in delivery.artifacts:
            for name in (ARTIFACT_FILE, *artifact.files):
                if artifact.kind in _WHOLE or name == HISTORY_FILE or is_report(artifact, name):
                    _keep_file(artifact.path / name, scratch / artifact.kind / name)
        record = {
            "kinds": [artifact.kind for artifact in delivery.artifacts],
            "dvc": dict(delivery.dvc),
            "config": delivery.config.model_dump(mode="json"),
            "pipeline_run": delivery.pipeline_run,
            "out": str(out.absolute()),
            "places": {artifact.kind: delivery.place(artifact) for artifact in delivery.artifacts},
        }
        if delivery.page is not None:
            (scratch / PAGE_FILE).write_text(delivery.page, encoding="utf-8")
        write_json(scratch / _DELIVERY_FILE, record)
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def forget(delivery: Delivery, out: Path) -> None:
    """Drop what was kept of a delivery that has got through."""
    shutil.rmtree(_place(spool_directory(out.parent), delivery), ignore_errors=True)


def refuse(kept: Kept, reason: str) -> None:
    """Mark a delivery that will never be accepted, so that it is not tried again."""
    (kept.directory / _REFUSED_FILE).write_text(reason, encoding="utf-8")


def waiting(home: Path) -> list[Kept]:
    """Every delivery in a spool directory, oldest decision first.

    Raises:
        ArtifactCorruptError: one is not what was kept.
    """
    kept = [_read(path.parent) for path in home.glob(f"*/{_DELIVERY_FILE}") if not path.parent.name.startswith(".")]
    return sorted(kept, key=lambda item: (item.delivery.decision.created_utc, item.directory.name))


@contextlib.contextmanager
def locked(home: Path) -> Iterator[bool]:
    """Whether this process may deliver from a spool directory; another one may be at it. Ends with the process."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _place(home: Path, delivery: Delivery) -> Path:
    return home / delivery.decision.short_id


def _keep_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The same bytes under a second name: stages replace their files and never write into them.
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read(directory: Path) -> Kept:
    try:
        record = json.loads((directory / _DELIVERY_FILE).read_text(encoding="utf-8"))
        config = parse_section(PromoteConfig, record["config"], f"{directory / _DELIVERY_FILE}")
        artifacts = tuple(_artifact(directory / kind, kind) for kind in record["kinds"])
        page = directory / PAGE_FILE
        text = page.read_text(encoding="utf-8") if page.is_file() else None
        delivery = Delivery(artifacts, record["dvc"], config, record["pipeline_run"], record["places"], text)
        out = Path(record["out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorruptError(
            f"delivery {directory}",
            expected="what `mvqkd promote` kept there",
            got=f"{type(error).__name__}: {error}",
            next_step="remove that directory and run `mvqkd promote` again",
        ) from error
    refused = directory / _REFUSED_FILE
    return Kept(directory, delivery, out, refused.read_text(encoding="utf-8") if refused.is_file() else None)


def _artifact(directory: Path, kind: str) -> Artifact:
    """A kept artifact; verified where it is whole, else as far as its artifact.json goes."""
    if kind in _WHOLE:
        return load_artifact(directory, kind)
    record = json.loads((directory / ARTIFACT_FILE).read_text(encoding="utf-8"))
    artifact = Artifact(path=directory, **record)
    if artifact.kind != kind or artifact.id != artifact_id(kind, artifact.files, artifact.parents, artifact.facts):
        raise ValueError(f"artifact.json of a {kind} that was changed")
    return artifact
