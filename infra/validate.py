"""Are objects what the API servers take: Kubernetes' own schemas, and ours for kinds that others define."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate.utils import all_versions, major_minor

from infra.objects import Manifest, Object, Problem

SCHEMAS = Path(__file__).with_name("schemas")


def known_versions() -> tuple[str, str]:
    """The oldest and the newest Kubernetes whose schemas there are. All API versions used here are in both."""
    versions = all_versions()
    return major_minor(versions[0]), major_minor(versions[-1])


def problems(objects: Sequence[Object], versions: Sequence[str] | None = None) -> list[Problem]:
    """Fields that are unknown, missing or of the wrong type.

    Args:
        versions: of Kubernetes, as in "1.31"; the oldest and newest known ones by default.
    """
    found: list[Problem] = []
    for obj in objects:
        schema = _own_schema(str(obj.manifest.get("apiVersion")), obj.kind)
        whats: list[str] = []
        if schema is not None:
            whats += (f"{error.json_path}: {error.message}" for error in _errors(schema, obj.manifest))
        for version in versions or known_versions():
            parts = [obj.manifest] if schema is None else list(_kubernetes_parts(obj))
            whats += (what for part in parts for what in _of_kubernetes(part, version))
        found += (obj.problem(what) for what in dict.fromkeys(whats))
    return found


@functools.cache
def _own_schema(api_version: str, kind: str) -> dict[str, Any] | None:
    file = SCHEMAS / f"{kind.lower()}-{api_version.rpartition('/')[2]}.json"
    if not file.is_file():
        return None
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema if schema["properties"]["apiVersion"]["const"] == api_version else None


def _errors(schema: dict[str, Any], manifest: Manifest) -> list[jsonschema.ValidationError]:
    return sorted(jsonschema.Draft202012Validator(schema).iter_errors(manifest), key=lambda error: error.json_path)


def _of_kubernetes(manifest: Manifest, version: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(part) for part in error.path)
        yield f"Kubernetes {version}: {path or 'the object'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        name = f"{manifest.get('kind')} of {manifest.get('apiVersion')}"
        yield f"Kubernetes {version} has no {name}, and infra/schemas neither"


def _kubernetes_parts(obj: Object) -> Iterator[Manifest]:
    """Objects of Kubernetes that stand inside one of another kind, made whole."""
    if obj.kind == "ClusterTrainingRuntime":
        for job in _at(obj.spec, "template", "spec", "replicatedJobs") or []:
            template = job.get("template") or {}
            yield {"apiVersion": "batch/v1", "kind": "Job", **template, "metadata": template.get("metadata") or {}}
    elif obj.kind == "TrainJob":
        for patch in obj.spec.get("runtimePatches") or []:
            for job in _at(patch, "trainingRuntimeSpec", "template", "spec", "replicatedJobs") or []:
                spec = _at(job, "template", "spec", "template", "spec") or {}
                yield {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [], **spec}}


def _at(node: Manifest, *keys: str) -> Any:
    value: Any = node
    for key in keys:
        value = (value or {}).get(key)
    return value
