"""A compiled pipeline as a server gets it: its documents, its parameters, and a version named after its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mvqkd.errors import ConfigError

# Version names are unique a pipeline, or a namespace where the server keeps pipelines as Kubernetes objects. 48 bits
# are enough: two contents of one name are noticed, see pipelines.versions.
HASH_DIGITS = 12
# Ten times as fast as those written in Python; all of them know plain values only.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class Package:
    """A compiled pipeline.

    Args:
        specification: the PipelineSpec, as in the first document of the YAML file.
        platforms: what the documents after it say about platforms (Kubernetes); empty without one.
    """

    specification: dict[str, Any]
    platforms: dict[str, Any]

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.specification["pipelineInfo"]["name"])

    @property
    def version_name(self) -> str:
        """The pipeline's name and a hash of the content: equal exactly where the content is."""
        content = json.dumps([self.specification, self.platforms], sort_keys=True, separators=(",", ":"))
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:HASH_DIGITS]}"

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Definitions of the pipeline's parameters: parameterType, and defaultValue where there is one."""
        return dict(self.specification["root"].get("inputDefinitions", {}).get("parameters", {}))

    @property
    def images(self) -> set[str]:
        """Images of all containers."""
        executors = self.specification.get("deploymentSpec", {}).get("executors", {})
        return {executor["container"]["image"] for executor in executors.values() if "container" in executor}

    def graphs(self) -> Iterator[dict[str, Any]]:
        """The tasks of every graph in it, the outermost first: name -> task."""
        for component in (self.specification["root"], *self.specification.get("components", {}).values()):
            if tasks := component.get("dag", {}).get("tasks"):
                yield tasks

    def text(self) -> str:
        """The YAML text to upload."""
        documents = [self.specification, *([self.platforms] if self.platforms else [])]
        texts = (yaml.dump(document, Dumper=_DUMPER, sort_keys=False).rstrip("\n") for document in documents)
        # The server divides documents at this line alone.
        return "\n---\n".join(texts) + "\n"

    def same_as(self, other: Package) -> bool:
        """Whether both say the same, however a server has written numbers and empty fields meanwhile."""
        from google.protobuf import json_format
        from kfp.pipeline_spec import pipeline_spec_pb2

        def messages(package: Package) -> tuple[Any, Any]:
            return (
                json_format.ParseDict(package.specification, pipeline_spec_pb2.PipelineSpec()),
                json_format.ParseDict(package.platforms, pipeline_spec_pb2.PlatformSpec()),
            )

        try:
            return messages(self) == messages(other)
        except json_format.ParseError:  # written by a release whose fields this one does not know
            return self == other

    def without_caching(self) -> Package:
        """The same pipeline with every step run anew, those in loops and branches too.

        kfp's own ``enable_caching=False`` reaches neither those nor a run of a version.
        """
        changed = Package(json.loads(json.dumps(self.specification)), self.platforms)
        for tasks in changed.graphs():
            for task in tasks.values():
                if "cachingOptions" in task:
                    task["cachingOptions"] = {}
        return changed


def package_from_text(text: str, origin: str) -> Package:
    """Read a compiled pipeline.

    Args:
        text: YAML of one document or several, as kfp's compiler writes it.
        origin: where the text came from, for error messages.
    Raises:
        ConfigError: when it is no compiled pipeline.
    """
    try:
        documents = [document for document in yaml.load_all(text, _LOADER) if document is not None]
    except yaml.YAMLError as error:
        raise _no_package(origin, f"no YAML: {error}") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise _no_package(origin, "something else")
    platforms: dict[str, Any] = {}
    for document in documents[1:]:
        platforms |= document
    return _checked(Package(documents[0], platforms), origin)


def package_from_file(path: Path) -> Package:
    """Read a compiled pipeline's file.

    Raises:
        ConfigError: when there is none, or it is no compiled pipeline.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_package(str(path), str(error)) from error
    return package_from_text(text, str(path))


def package_from_server(specification: Mapping[str, Any] | None, origin: str) -> Package:
    """Read the ``pipeline_spec`` of a version or a run: with settings of platforms it is an object of two."""
    document = dict(specification or {})
    if "pipeline_spec" in document:
        return _checked(Package(document["pipeline_spec"], document.get("platform_spec") or {}), origin)
    return _checked(Package(document, {}), origin)


def _checked(package: Package, origin: str) -> Package:
    specification = package.specification
    try:
        complete = specification["pipelineInfo"]["name"] and specification["root"]["dag"]["tasks"]
    except (KeyError, TypeError):
        complete = False
    if not complete:
        raise _no_package(origin, "YAML without pipelineInfo.name or root.dag.tasks")
    return package


def _no_package(origin: str, got: str) -> ConfigError:
    return ConfigError(
        f"pipeline {origin}",
        expected="a pipeline compiled for Kubeflow (pipelineInfo and root)",
        got=got,
        next_step="write one with `mvqkd pipeline compile -o FILE`",
    )
