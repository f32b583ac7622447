"""Run the Kubeflow pipeline on this machine, every component in a process of its own."""

from __future__ import annotations

import builtins
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp import local

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.promotion.files import REPORTS_DIRECTORY
from pipelines.distill import distill_on
from tests.pipeline_budget import tiny_cluster

Artifacts = dict[str, list[Artifact]]


def run_pipeline(root: Path, sections: Mapping[str, Mapping[str, Any]], **parameters: Any) -> Artifacts:
    """Run the whole pipeline with these sections of params; raises RuntimeError when a step failed.

    Args:
        root: where runs lie; each in a folder of its own.
        parameters: of the pipeline, beside the sections.
    Returns:
        The artifacts of this run by kind, verified.
    """
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    before = set(root.glob("*"))
    configs = {f"{name.replace('-', '_')}_config": json.dumps(values) for name, values in sections.items()}
    with printing_as_before():
        distill_on(tiny_cluster())(**configs, **parameters)
    (run,) = set(root.glob("*")) - before
    found: Artifacts = {}
    for manifest in sorted(run.rglob("artifact.json")):
        # Reports within a decision are copies.
        if not any(part.startswith(".") or part == REPORTS_DIRECTORY for part in manifest.relative_to(run).parts):
            artifact = load_artifact(manifest.parent)
            found.setdefault(artifact.kind, []).append(artifact)
    return found


@contextlib.contextmanager
def printing_as_before() -> Iterator[None]:
    """Put back `print`: kfp's local runner indents it, and where components run side by side it stays so."""
    plain = builtins.print
    try:
        yield
    finally:
        builtins.print = plain
