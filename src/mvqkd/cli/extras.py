"""The extras of this package as its own metadata state them, and which one brings what an import misses."""

from __future__ import annotations

import contextlib
import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mvqkd.errors import MissingDependencyError

DISTRIBUTION = "mvqkd"
BASE, RUNTIME, PIPELINE = "", "runtime", "pipeline"
# Modules that are not named after their distribution.
_DISTRIBUTION_OF = {"yaml": "pyyaml"}


def requirements() -> dict[str, list[Requirement]]:
    """Packages by the extra that brings them, in pyproject's order; ``""`` is the install without an extra.

    An extra within another (``pipeline`` brings ``runtime``) is left out: its packages stand under its own name.
    """
    extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    found: dict[str, list[Requirement]] = {BASE: [], **{extra: [] for extra in extras}}
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.name == DISTRIBUTION:
            continue
        marker = requirement.marker
        extra = BASE
        if marker is not None and not marker.evaluate({"extra": BASE}):
            extra = next((name for name in extras if marker.evaluate({"extra": name})), BASE)
        found[extra].append(requirement)
    return found


def installed_version(package: str) -> str | None:
    """Version of a distribution, None where it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def missing_dependency(error: ModuleNotFoundError, subject: str) -> MissingDependencyError | None:
    """The error of a user who has not installed what a command needs; None when the fault is another.

    Args:
        subject: what was being done, e.g. ``command train-student``.
    """
    module = (error.name or "").partition(".")[0]
    package = canonicalize_name(_DISTRIBUTION_OF.get(module, module))
    for extra, packages in requirements().items():
        if package in (canonicalize_name(requirement.name) for requirement in packages):
            return MissingDependencyError(
                subject,
                expected=f"the package {package}",
                got="it is not installed",
                next_step=f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}",
            )
    return None
