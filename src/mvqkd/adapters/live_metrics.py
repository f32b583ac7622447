"""Metrics of a training run while it runs, into the MLflow run that an orchestrator has injected.

Only numbers travel, a row every ``log_steps`` steps. The artifact's own history stays what counts: a server that is
gone costs a warning, never a step.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from mvqkd.adapters.mlflow_store import connect, registry_errors
from mvqkd.errors import RegistryError

_LOG = logging.getLogger(__name__)
Row = Mapping[str, float]


def live_metrics(prefix: str) -> Callable[[Row], None] | None:
    """What to call with every row of the history: it has a ``step``, all else in it becomes a metric ``prefix.name``.

    Returns:
        None where MLFLOW_RUN_ID names no run, or where its store cannot be opened.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        return None
    try:
        return _Live(connect(), run_id, prefix)
    except RegistryError as error:
        _LOG.warning("no live metrics: %s", error)
        return None


class _Live:
    def __init__(self, client: Any, run_id: str, prefix: str) -> None:
        self._client: Any | None = client
        self._run_id, self._prefix = run_id, prefix

    def __call__(self, row: Row) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        now_ms, step = int(1000 * time.time()), int(row["step"])
        metrics = [
            Metric(f"{self._prefix}.{name}", float(value), now_ms, step)
            for name, value in row.items()
            if name != "step" and math.isfinite(value)
        ]
        try:
            with registry_errors("logging live metrics"):
                self._client.log_batch(self._run_id, metrics=metrics)
        except RegistryError as error:
            self._client = None  # one warning, and no waiting at every row
            _LOG.warning("no more live metrics, training goes on: %s", error)
