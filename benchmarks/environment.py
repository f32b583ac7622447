"""Machine, versions and command line of a measurement, recorded beside every figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "lhotse", "onnxruntime", "sherpa-onnx")


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a reader needs to judge a figure or to repeat it.

    Args:
        packages: distributions to state the versions of; those that are not installed are left out.
    """
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version()}
        | {name: version for name in packages if (version := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
