"""Versions of the pipeline on the server: each content is uploaded once and keeps its name."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.errors import ConfigError
from pipelines.answers import PipelineServerError
from pipelines.client import Server
from pipelines.package import Package, package_from_server


@dataclass(frozen=True)
class Version:
    """A version on the server; ``created`` says whether it was uploaded just now."""

    pipeline_id: str
    version_id: str
    name: str
    created: bool


def equals(key: str, value: str) -> str:
    """A filter of lists, as the API takes it."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})


def find_pipeline(server: Server, name: str) -> str | None:
    """Id of the pipeline of that name, None where there is none."""
    try:
        found = server.ask(
            f"pipeline {name}",
            server.client.pipelines.pipeline_service_get_pipeline_by_name,
            name=name,
            **server.in_namespace,
        )
    except PipelineServerError as error:
        if error.status == 404:
            return None
        raise
    return str(found.pipeline_id)


def ensure_version(server: Server, package: Package) -> Version:
    """Upload the package unless the server has it. Safe to repeat, and beside another process that does the same.

    Raises:
        ConfigError: the server has a version of that name with other content.
        PipelineServerError: the server refused, failed or did not answer.
    """
    pipeline_id = find_pipeline(server, package.name) or _create_pipeline(server, package.name)
    found = _find_version(server, pipeline_id, package)
    if found is not None:
        return found
    name = package.version_name
    with tempfile.TemporaryDirectory() as folder:
        # The server tells YAML from archives by the file's name.
        file = Path(folder) / f"{name}.yaml"
        file.write_text(package.text(), encoding="utf-8")
        try:
            uploaded = server.ask(
                f"version {name}",
                server.client.pipeline_uploads.upload_pipeline_version,
                str(file),
                name=name,
                display_name=name,
                pipelineid=pipeline_id,
            )
        except PipelineServerError as error:
            if error.already_exists and (found := _find_version(server, pipeline_id, package)):
                return found
            raise
    return Version(pipeline_id, str(uploaded.pipeline_version_id), name, created=True)


def latest_package(server: Server, name: str) -> tuple[str, Package] | None:
    """Name and content of the version uploaded last; None where the server has none."""
    pipeline_id = find_pipeline(server, name)
    if pipeline_id is None:
        return None
    versions = server.all_of(
        f"versions of pipeline {name}",
        server.client.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        sort_by="created_at desc",
    )
    latest = next(versions, None)
    if latest is None:
        return None
    return str(latest.display_name), package_from_server(latest.pipeline_spec, f"version {latest.display_name}")


def package_of_version(server: Server, reference: Any) -> Package:
    """Content of the version that a run or a schedule refers to."""
    version = server.ask(
        f"version {reference.pipeline_version_id}",
        server.client.pipelines.pipeline_service_get_pipeline_version,
        pipeline_id=reference.pipeline_id,
        pipeline_version_id=reference.pipeline_version_id,
    )
    return package_from_server(version.pipeline_spec, f"version {version.display_name}")


def _create_pipeline(server: Server, name: str) -> str:
    # Not kfp's upload_pipeline: its first version is called like the pipeline, whatever its content.
    import kfp_server_api

    pipeline = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, **server.in_namespace)
    try:
        created = server.ask(
            f"pipeline {name}", server.client.pipelines.pipeline_service_create_pipeline, pipeline=pipeline
        )
    except PipelineServerError as error:
        if error.already_exists and (found := find_pipeline(server, name)):
            return found
        raise
    return str(created.pipeline_id)


def _find_version(server: Server, pipeline_id: str, package: Package) -> Version | None:
    name = package.version_name
    versions = server.all_of(
        f"version {name}",
        server.client.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
        filter=equals("name", name),
    )
    for version in versions:
        if not package_from_server(version.pipeline_spec, f"version {name}").same_as(package):
            raise ConfigError(
                f"version {name} on {server.host}",
                expected="the content that its name is made from",
                got="another: somebody uploaded it under this name",
                next_step="compare with `mvqkd pipeline diff --server`, then delete that version",
            )
        return Version(pipeline_id, str(version.pipeline_version_id), name, created=False)
    return None
