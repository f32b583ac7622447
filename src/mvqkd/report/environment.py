"""With what a run was made: versions of libraries, the code's commit, every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mvqkd.artifacts import Artifact, canonical_json
from mvqkd.report.run import PROMOTION, STAGE_OF, Run
from mvqkd.report.text import figure, moment, shortened


@dataclass(frozen=True)
class Environment:
    """Facts and versions in (name, value) pairs; parameters by stage."""

    facts: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    parameters: list[tuple[str, list[tuple[str, str]]]]


def environment(run: Run) -> Environment:
    """Collect from all artifacts; what differs between them is listed with all its values."""
    artifacts = [artifact for kind in STAGE_OF if (artifact := run.get(kind)) is not None]
    names = sorted({name for artifact in artifacts for name in artifact.versions})
    return Environment(
        facts=_facts(run, artifacts),
        versions=[(name, _values(a.versions.get(name) for a in artifacts)) for name in names],
        parameters=[(artifact.stage, list(_flat(artifact.config))) for artifact in artifacts if artifact.config],
    )


def _facts(run: Run, artifacts: list[Artifact]) -> list[tuple[str, str]]:
    promotion = run.get(PROMOTION)
    figures: Mapping[str, Any] = {} if promotion is None else promotion.figures
    version = figures.get("model_version")
    facts = {
        "commit of the code": _values(a.git_sha and a.git_sha[:12] for a in artifacts) or "not recorded",
        "first artifact made": moment(min((a.created_utc for a in artifacts if a.created_utc), default="")) or None,
        "last artifact made": moment(max((a.created_utc for a in artifacts if a.created_utc), default="")) or None,
        "registered as": None if version is None else f"{figures.get('model_name')} version {version}",
        "MLflow run": figures.get("mlflow_run_id"),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _values(values: Iterator[Any] | Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = value if isinstance(value, str) else canonical_json(value)
            yield f"{prefix}{name}", shortened(shown) if shown else figure(None)
