"""Where the figures of ``mvqkd monitor`` go: the MLflow run of the environment, or one of the quantizer's own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mvqkd.adapters.live_metrics import live_metrics
from mvqkd.adapters.mlflow_store import connect, registry_errors
from mvqkd.adapters.tracking import experiment_id
from mvqkd.config import PromoteConfig, load_section
from mvqkd.errors import RegistryError

PREFIX = "monitor"
TAG_QUANTIZER = "mvqkd.monitored_quantizer"

_LOG = logging.getLogger("mvqkd.monitor")


def log_metrics(metrics: Mapping[str, float], quantizer_id: str, params: Path | None) -> None:
    """Log figures under ``monitor.``, with the time as step, so that a schedule's runs are one curve.

    They go to the run that MLFLOW_RUN_ID names, else, where MLFLOW_TRACKING_URI is set, to the one run that carries
    this quantizer's id as a tag, in the experiment of section ``promote``. A server that is gone costs a warning: what
    was found out about the audio stands on its own.
    """
    row = {"step": float(int(time.time())), **metrics}
    if os.environ.get("MLFLOW_RUN_ID"):
        if (log := live_metrics(PREFIX)) is not None:
            log(row)
            log.flush()
        return
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return
    try:
        _log_to_own_run(row, quantizer_id, params)
    except RegistryError as error:
        _LOG.warning("no metrics logged: %s", error)


def _log_to_own_run(row: Mapping[str, float], quantizer_id: str, params: Path | None) -> None:
    client = connect()
    with registry_errors("logging drift"):
        experiment = experiment_id(client, load_section(PromoteConfig, params).experiment)
        runs = client.search_runs([experiment], filter_string=f"tags.`{TAG_QUANTIZER}` = '{quantizer_id}'")
        if not runs:
            own_name, tags = f"{PREFIX} {quantizer_id[:12]}", {TAG_QUANTIZER: quantizer_id}
            runs = [client.create_run(experiment, tags=tags, run_name=own_name)]
        run_id = runs[0].info.run_id
        for metric, value in row.items():
            if metric != "step":
                client.log_metric(run_id, f"{PREFIX}.{metric}", value, step=int(row["step"]))
        client.set_terminated(run_id)
