"""Pods: the rules of Pod Security's level "restricted", and what it leaves open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from infra.objects import Manifest, Object, Pod, Problem, pods_of, walk

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SECCOMP = ("RuntimeDefault", "Localhost")
_HOST_NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")


def problems(objects: Iterable[Object], *, digests: bool) -> Iterator[Problem]:
    """Of pods in objects of any kind, and of services that open a node."""
    for obj in objects:
        yield from (obj.problem(what) for what in _of_host(obj.manifest))
        for pod in pods_of(obj):
            yield from (obj.problem(what) for what in _of_pod(pod, digests))
        if obj.kind == "Service" and (
            obj.spec.get("type") in ("NodePort", "LoadBalancer") or obj.spec.get("externalIPs")
        ):
            yield obj.problem("reached from outside the cluster without a gateway; use ClusterIP")


def _of_host(manifest: Manifest) -> Iterator[str]:
    # Wherever they stand, so that neither a new kind nor a patch can hide one.
    for path, value in walk(manifest):
        key = path.rpartition(".")[2]
        if key == "hostPath":
            yield f"{path}: mounts a path of the node"
        elif (key in _HOST_NAMESPACES and value) or (key == "hostPort" and value):
            yield f"{path}: shares the node's"
        elif key == "privileged" and value:
            yield f"{path}: has all rights on the node"


def _of_pod(pod: Pod, digests: bool) -> Iterator[str]:
    if pod.spec.get("serviceAccountName", "default") == "default":
        yield "no serviceAccountName of its own"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    for container in pod.containers():
        label = f"container {container.get('name')}"
        yield from (f"{label}: {what}" for what in _of_security(container, pod.spec.get("securityContext") or {}))
        yield from (f"{label}: {what}" for what in _of_image(str(container.get("image", "")), digests))
        yield from (f"{label}: {what}" for what in _of_resources(container.get("resources") or {}))


def _of_security(container: Manifest, pod_context: Manifest) -> Iterator[str]:
    own: Manifest = container.get("securityContext") or {}
    # A container's own setting wins over its pod's.
    effective = {**pod_context, **own}
    if effective.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        if effective.get(field) == 0:
            yield f"{field} is root"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield "capabilities does not drop ALL"
    if capabilities.get("add"):
        yield f"capabilities adds {', '.join(capabilities['add'])}"
    if (effective.get("seccompProfile") or {}).get("type") not in _SECCOMP:
        yield "no seccompProfile"


def _of_image(image: str, digests: bool) -> Iterator[str]:
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if digest:
        if not _DIGEST.fullmatch(digest):
            yield f"image {image}: the digest is not set; run python -m infra.images"
    elif digests:
        yield f"image {image}: no digest; run python -m infra.images"
    elif tag in ("", "latest"):
        yield f"image {image}: tag latest moves; name a version"


def _of_resources(resources: Manifest) -> Iterator[str]:
    missing = [f"{part}.{name}" for part in ("requests", "limits") for name in ("cpu", "memory")
               if name not in (resources.get(part) or {})]  # fmt: skip
    if missing:
        yield f"resources lacks {', '.join(missing)}"
