"""What it takes to make a student again, as two files that travel with its version: params.yaml and lineage.json.
Beside them lie its wer-reports on further test sets, by which later challengers are compared with it.

All of it stands in the artifacts already: every artifact.json has its stage's section, git SHA, library versions and
parents. DVC's ids are added, by which `mvqkd pull` gets an artifact's bytes from a remote.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvqkd.adapters.dvc_identity import directory_md5
from mvqkd.adapters.run_records import reference
from mvqkd.artifacts import Artifact, atomic_open, content_hash, write_json
from mvqkd.config import PromoteConfig
from mvqkd.promotion.files import REPORTS_DIRECTORY
from mvqkd.stages import STAGES

PARAMS_FILE, LINEAGE_FILE = "params.yaml", "lineage.json"

# Hashing a gigabyte takes seconds; above it only the indexes are worth it, which are small for what they took to make.
_MAX_HASHED_BYTES = 1 << 30
_ALWAYS_HASHED = "codebook-indexes"
# A decision is about a version, not a part of it: the same bundle may be judged again.
_JUDGEMENT = "promotion-decision"


@dataclass(frozen=True)
class Delivery:
    """All that MLflow is to be told of one student and one decision about it.

    ``artifacts``: its lineage in the order in which it was made, the decision last. ``dvc``: kind -> DVC's id.
    ``places``: kind -> where the artifact lies, of those that are not at their path.
    ``page``: the run as one HTML page.
    """

    artifacts: tuple[Artifact, ...]
    dvc: Mapping[str, str]
    config: PromoteConfig
    pipeline_run: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    page: str | None = None

    def place(self, artifact: Artifact) -> str:
        return self.places.get(artifact.kind) or reference(artifact)

    def of(self, kind: str) -> Artifact | None:
        return next((artifact for artifact in self.artifacts if artifact.kind == kind), None)

    def required(self, kind: str) -> Artifact:
        (artifact,) = [artifact for artifact in self.artifacts if artifact.kind == kind]
        return artifact

    @property
    def decision(self) -> Artifact:
        return self.required(_JUDGEMENT)

    @property
    def bundle(self) -> Artifact:
        return self.required("onnx-bundle")

    @property
    def made(self) -> tuple[Artifact, ...]:
        """The lineage without the decision about it."""
        return tuple(artifact for artifact in self.artifacts if artifact.kind != _JUDGEMENT)

    @property
    def says_promote(self) -> bool:
        return bool(self.decision.facts["decision"] == "promote")


def dvc_ids(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """DVC's id of every artifact that is not too big to hash, by kind."""
    return {
        artifact.kind: directory_md5(artifact.path)
        for artifact in artifacts
        if artifact.kind == _ALWAYS_HASHED or size_bytes(artifact) <= _MAX_HASHED_BYTES
    }


def size_bytes(artifact: Artifact) -> int:
    """Size of all files of an artifact."""
    return sum(int(entry["size_bytes"]) for entry in artifact.files.values())


def params(delivery: Delivery) -> dict[str, Any]:
    """The sections that the lineage was made with, as params.yaml has them."""
    sections = {artifact.stage: dict(artifact.config) for artifact in delivery.artifacts}
    sections["promote"] = delivery.config.model_dump(mode="json")
    return {name: sections[name] for name in STAGES if name in sections}


def params_digest(delivery: Delivery) -> str:
    """sha256 of the sections that made the bundle; equal for equal parameters, whatever was decided about it."""
    return content_hash({artifact.stage: dict(artifact.config) for artifact in delivery.made})


def lineage(delivery: Delivery) -> dict[str, Any]:
    """Every stage with what identifies its result, and how good the result was."""
    figures = delivery.decision.figures
    return {
        "schema_version": 1,
        "bundle_id": delivery.bundle.id,
        "wer": figures.get("wer"),
        "test_set_sha256": delivery.decision.facts["test_set_sha256"],
        "stages": [
            {
                "stage": artifact.stage,
                "kind": artifact.kind,
                "id": artifact.id,
                "dvc": delivery.dvc.get(artifact.kind),
                "parents": dict(artifact.parents),
                "git_sha": artifact.git_sha,
                "versions": dict(artifact.versions),
                "created_utc": artifact.created_utc,
                "wall_s": artifact.wall_s,
            }
            for artifact in delivery.made
        ],
    }


def write_record(delivery: Delivery, directory: Path) -> None:
    """Write both files, and the wer-reports on further test sets."""
    import yaml

    directory.mkdir(parents=True, exist_ok=True)
    with atomic_open(directory / PARAMS_FILE) as stream:
        yaml.safe_dump(params(delivery), stream, sort_keys=False, allow_unicode=True)
    write_json(directory / LINEAGE_FILE, lineage(delivery))
    reports = delivery.decision.path / REPORTS_DIRECTORY
    if reports.is_dir():
        shutil.copytree(reports, directory / REPORTS_DIRECTORY)
