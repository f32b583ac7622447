"""What MLflow records of an artifact: params, metrics, dataset inputs and tags, made from artifact.json.

Nothing here talks to a store.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mvqkd.adapters.registry_text import one_line, path_name
from mvqkd.artifacts import ARTIFACT_FILE, Artifact

TAG_BUNDLE = "mvqkd.bundle_id"
TAG_ID = "mvqkd.artifact_id"
TAG_KIND = "mvqkd.kind"
TAG_GIT_SHA = "mvqkd.git_sha"

HISTORY_FILE = "history.jsonl"
MAX_REPORT_BYTES = 256 * 1024
_MAX_TAG_CHARACTERS = 4000
_DIGEST_CHARACTERS = 32  # MLflow keeps 36 at most
# What the stage's process took of the machine, under names that MLflow's pages show as metrics of the system.
_USAGE = (
    ("cpu_s", "system/process_cpu_seconds", 1.0),
    ("peak_memory_bytes", "system/process_peak_memory_megabytes", 1e6),
)


def start_ms(artifact: Artifact) -> int:
    """When the stage began, in milliseconds since the epoch (its end less its wall time)."""
    return end_ms(artifact) - round(1000 * artifact.wall_s)


def end_ms(artifact: Artifact) -> int:
    """When the artifact was committed, in milliseconds since the epoch."""
    return round(1000 * datetime.fromisoformat(artifact.created_utc).timestamp())


def is_report(artifact: Artifact, name: str) -> bool:
    """Whether a file of an artifact is one that people read, and small: MLflow gets a copy of these and of no other."""
    if "/" in name or not name.endswith(".json"):
        return False
    return name == ARTIFACT_FILE or int(artifact.files[name]["size_bytes"]) <= MAX_REPORT_BYTES


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def figures(artifact: Artifact) -> Iterator[Any]:
    """Numbers of the artifact's figures as metrics.

    An interval becomes two metrics, ``.low`` and ``.high``; a list of rows with a ``step`` one curve a number in
    them; any other list of numbers one curve over its index.
    """
    from mlflow.entities import Metric

    end = end_ms(artifact)
    yield Metric("wall_s", artifact.wall_s, end, 0)
    for name, metric, unit in _USAGE:
        if name in artifact.usage:
            yield Metric(metric, artifact.usage[name] / unit, end, 0)
    for name, value in flatten(artifact.figures):
        if "interval" in name and isinstance(value, list) and len(value) == 2:
            yield Metric(path_name(f"{name}.low"), float(value[0]), end, 0)
            yield Metric(path_name(f"{name}.high"), float(value[1]), end, 0)
            continue
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            for metric, number, step in _points(name, item, position):
                yield Metric(path_name(metric), float(number), end, step)


def _points(name: str, item: Any, position: int) -> Iterator[tuple[str, float, int]]:
    """A figure, or a row of a curve, as (name, number, step)."""
    if _is_number(item):
        yield name, item, position
    elif isinstance(item, Mapping) and "step" in item:
        # Phases count their steps anew; the position goes on.
        yield from ((f"{name}.{field}", number, position) for field, number in item.items() if _is_number(number))


def history(artifact: Artifact) -> Iterator[Any]:
    """Rows of history.jsonl as metrics over steps. Rows carry no time: they are spread evenly over the stage's."""
    from mlflow.entities import Metric

    file = artifact.path / HISTORY_FILE
    if not file.is_file():
        return
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    begin, span = start_ms(artifact), end_ms(artifact) - start_ms(artifact)
    for position, row in enumerate(rows, start=1):
        time_ms = begin + span * position // len(rows)
        step = int(row.get("step", position))
        for name, value in row.items():
            if name != "step" and _is_number(value):
                yield Metric(path_name(name), float(value), time_ms, step)


def dataset_inputs(artifact: Artifact, place: str | None = None) -> list[Any]:
    """Dataset inputs of an artifact's run: the splits of a cut-manifest, for any other kind its parents.

    A split's digest is the one by which WER reports compare, where the manifest states it, else the manifest's id.

    Args:
        place: where the artifact lies, if not at its path.
    """
    if artifact.kind == "cut-manifest":
        where = place or reference(artifact)
        return [
            _split_input(artifact, where, split, cuts) for split, cuts in (artifact.facts.get("splits") or {}).items()
        ]
    return [_parent_input(kind, parent_id) for kind, parent_id in artifact.parents.items()]


def _split_input(manifest: Artifact, place: str, split: str, num_cuts: Any) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=one_line(f"{manifest.facts.get('source', 'cuts')} {split}"),
        digest=str(_of(manifest.facts.get("test_set_sha256"), split) or manifest.id)[:_DIGEST_CHARACTERS],
        source_type="local",
        source=json.dumps({"uri": place, "artifact_id": manifest.id, "split": split}),
        profile=json.dumps({"num_cuts": num_cuts, "hours": _of(manifest.facts.get("hours"), split)}),
    )
    context = {"train": "training", "dev": "validation", "test": "evaluation"}.get(split, split)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _parent_input(kind: str, parent_id: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"artifact_id": parent_id})
    dataset = Dataset(name=kind, digest=parent_id[:_DIGEST_CHARACTERS], source_type="artifact", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "parent")])


def identity_tags(artifact: Artifact, place: str | None = None) -> dict[str, str]:
    """Tags that say what an artifact is, what it was made from, of what sort, by which library versions."""
    tags = {TAG_ID: artifact.id, TAG_KIND: artifact.kind, "mvqkd.uri": place or reference(artifact)}
    tags["mvqkd.config_sha256"] = artifact.config_hash
    tags |= {f"mvqkd.version.{library}": version for library, version in artifact.versions.items()}
    tags |= {f"mvqkd.parent.{kind}": parent for kind, parent in artifact.parents.items()}
    for name, value in artifact.facts.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if len(text) <= _MAX_TAG_CHARACTERS:
            tags[f"fact.{path_name(name)}"] = one_line(text)
    tags |= {
        f"figure.{path_name(name)}": one_line(value)
        for name, value in artifact.figures.items()
        if isinstance(value, str)
    }
    return tags


def source_tags(artifact: Artifact) -> dict[str, str]:
    tags = {"mlflow.source.name": "mvqkd", "mlflow.source.type": "LOCAL"}
    if artifact.git_sha:
        tags |= {"mlflow.source.git.commit": artifact.git_sha, TAG_GIT_SHA: artifact.git_sha}
    with contextlib.suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def reference(artifact: Artifact) -> str:
    """Where an artifact lies: a relative path as it stands, an absolute one as a URI."""
    return artifact.path.as_posix() if not artifact.path.is_absolute() else Path(artifact.path).as_uri()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)


def _of(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else None
