"""Kubernetes objects with the file that each is from, and the pods that they describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Object:
    """One object and the file that it was read from."""

    file: str
    manifest: Manifest

    @property
    def kind(self) -> str:
        return str(self.manifest.get("kind", "?"))

    @property
    def metadata(self) -> Manifest:
        return self.manifest.get("metadata") or {}

    @property
    def name(self) -> str:
        return str(self.metadata.get("name") or self.metadata.get("generateName") or "?")

    @property
    def namespace(self) -> str | None:
        """None for an object of the whole cluster."""
        return self.metadata.get("namespace")

    @property
    def spec(self) -> Manifest:
        return self.manifest.get("spec") or {}

    def problem(self, what: str) -> Problem:
        """Something that is wrong with it."""
        return Problem(self.file, self.kind, self.name, what)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one object."""

    file: str
    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}/{self.name}: {self.what}"


@dataclass(frozen=True)
class Pod:
    """A pod, or the template of one, somewhere in an object."""

    labels: Mapping[str, str]
    spec: Manifest

    def containers(self) -> Iterator[Manifest]:
        """All of them: init containers run with the same rights."""
        for group in ("initContainers", "containers", "ephemeralContainers"):
            yield from self.spec.get(group) or []


def pods_of(obj: Object) -> list[Pod]:
    """Every pod template in an object of any kind, custom ones too. A TrainJob has patches of one, no whole one."""
    return [] if obj.kind == "TrainJob" else list(_pods_in(obj.manifest))


def _pods_in(node: object) -> Iterator[Pod]:
    if isinstance(node, Mapping):
        spec = node.get("spec")
        if isinstance(spec, Mapping) and isinstance(spec.get("containers"), list):
            yield Pod((node.get("metadata") or {}).get("labels") or {}, spec)
        for value in node.values():
            yield from _pods_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from _pods_in(value)


def walk(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value below a node with its path, as in ``spec.containers[0].image``; mappings and lists too."""
    yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, f"{path}[{index}]")
