"""A store of MLflow in a file, and lineages judged and published there: what tests of the registry begin with."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.mlflow_store import import_mlflow
from mvqkd.adapters.promote import promote
from mvqkd.config import PromoteConfig
from mvqkd.testing.lineage import Lineage

MODEL = "mvqkd-student"
VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MVQKD_SPOOL_DIR"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)


@functools.cache
def fresh_database() -> Path:
    """A store with its tables and nothing else: making one takes seconds, copying it none."""
    mlflow = import_mlflow()
    folder = Path(tempfile.mkdtemp(prefix="mvqkd-fresh-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def embedded_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a store of its own, which nothing configures but the place; returns the database."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    shutil.copyfile(fresh_database(), folder / "mlflow.db")
    return folder / "mlflow.db"


def publish(lineage: Lineage, *, config: PromoteConfig | None = None, **others: Path | str) -> dict[str, Any]:
    """Run promote; returns promotion.json."""
    paths: dict[str, Any] = {
        "decision": lineage.root / "decision",
        "bundle": lineage.bundle.path,
        "wer_report": lineage.wer_report.path,
        "student": lineage.student.path,
        "data": lineage.data.path,
        "codebook_indexes": lineage.codebook_indexes.path,
        "quantizer": lineage.quantizer.path,
        "teacher_embeddings": lineage.teacher_embeddings.path,
    }
    made = promote(config or PromoteConfig(), out=lineage.root / "promotion", **{**paths, **others})
    record: dict[str, Any] = json.loads((made.path / "promotion.json").read_text())
    assert made.figures["model_version"] == record["version"]
    assert made.figures["mlflow_run_id"] == record["run_id"]
    assert made.figures["decision"] == record["decision"]
    return record
