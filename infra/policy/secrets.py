"""Secrets: referred to, never written down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from infra.objects import Object, Problem, walk

_NAME = re.compile(r"passw(or)?d|secret|token|credential|api_?key|access_?key|private_?key", re.IGNORECASE)
# Names of these are about where a secret is, or about something else.
_NOT_ONE = re.compile(r"(_PATH|_FILE|_DIR|_NAME|_URL|_TTL|_S|_SECONDS)$", re.IGNORECASE)
_VALUES = {
    "a password in a URL": re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s@$]+@", re.IGNORECASE),
    "a password among the arguments": re.compile(r"--?[\w-]*(password|secret|token)[\w-]*[= ](?!\$)\S+", re.IGNORECASE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key of AWS": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(
        r"\b(gh[pousr]_\w{30,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,})|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
    ),
}


def problems(objects: Iterable[Object]) -> Iterator[Problem]:
    """Of Secrets with contents, and of values anywhere that look like one. What was found is not repeated."""
    for obj in objects:
        if obj.kind == "Secret" and (obj.manifest.get("data") or obj.manifest.get("stringData")):
            yield obj.problem("a Secret with its contents; leave it to whoever keeps them, see docs/kubernetes.md")
        if obj.kind == "ConfigMap":
            for key, value in (obj.manifest.get("data") or {}).items():
                if value and _is_secret_name(key):
                    yield obj.problem(f"data.{key}: looks like a secret; use a Secret made by others")
        for path, value in walk(obj.manifest):
            if isinstance(value, Mapping) and value.get("value") and _is_secret_name(str(value.get("name", ""))):
                yield obj.problem(f"{path} ({value['name']}): looks like a secret; use valueFrom.secretKeyRef")
            elif isinstance(value, str):
                for what, pattern in _VALUES.items():
                    if pattern.search(value):
                        yield obj.problem(f"{path}: {what}")


def _is_secret_name(name: str) -> bool:
    return bool(_NAME.search(name)) and not _NOT_ONE.search(name)
