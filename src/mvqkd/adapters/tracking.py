"""Log a student's whole lineage to MLflow: one parent run, one nested run a stage.

Artifacts are logged by reference (ids and paths as tags, small JSON reports as files); codebook indexes and
weights are never copied. Logging the same bundle and decision again finds the run and adds only what is missing.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.adapters import run_records as records
from mvqkd.adapters.lineage_record import Delivery, write_record
from mvqkd.adapters.mlflow_store import artifact_location, permission_not_needed, registry_errors, tracking_uri
from mvqkd.adapters.registry_text import path_name
from mvqkd.artifacts import ARTIFACT_FILE, Artifact

TAG_DECISION = "mvqkd.decision_id"
TAG_COMPLETE = "mvqkd.complete"
TAG_PIPELINE_RUN = "mvqkd.pipeline_run"
_PARENT_RUN = "mlflow.parentRunId"

LINEAGE_FOLDER = "lineage"
PAGE_FILE = "report.html"
# Stages that followed each other within this belong to one sitting; the parent run's time spans that sitting,
# not a data set that was prepared last week.
SITTING_GAP_MS = 10 * 60 * 1000

# MLflow takes a thousand rows a call, of which a hundred may be parameters.
_METRICS_A_CALL = 900
_PARAMS_A_CALL = 100


@dataclass(frozen=True)
class LoggedRun:
    """The parent run. ``reused``: an earlier call had logged it; ``adopted``: MLFLOW_RUN_ID named it."""

    run_id: str
    experiment_id: str
    reused: bool
    adopted: bool


def log_lineage(
    client: Any, delivery: Delivery, *, headline: Mapping[str, float], tags: Mapping[str, str]
) -> LoggedRun:
    """Log every stage below one parent run, or find the run in which that was done already.

    A run named by MLFLOW_RUN_ID becomes the parent and is left open: whoever started it ends it.

    Args:
        client: from ``mlflow_store.connect``.
        delivery: the lineage; bundle and decision identify the parent run. An experiment that is missing is made.
        headline: metrics of the parent run.
        tags: further tags of the parent run.
    Raises:
        StoreError: the store refused or failed; call again to go on where it stopped.
    """
    done = f"{delivery.bundle.id}/{delivery.decision.id}"
    with registry_errors("logging the run"):
        run = _parent_run(client, delivery)
        if run.reused:
            return run
        done_before = _nested_runs(client, run)
        for stage in delivery.artifacts:
            if stage.id not in done_before:
                _log_stage(client, run, stage, delivery.place(stage))
        identity = {records.TAG_BUNDLE: delivery.bundle.id, TAG_DECISION: delivery.decision.id}
        identity |= records.source_tags(delivery.bundle)
        _log_parent(client, run.run_id, delivery, headline, {**identity, **tags})
        _remove_doubles(client, run)
        if not run.adopted:
            client.set_terminated(run.run_id, "FINISHED")
        # Last of all: whoever finds it has nothing left to do.
        client.set_tag(run.run_id, TAG_COMPLETE, done)
    return run


def sitting_start_ms(stages: Sequence[Artifact], now_ms: int) -> int:
    """Begin of the unbroken row of stages that ends now, in milliseconds since the epoch; see SITTING_GAP_MS."""
    start = now_ms
    for stage in sorted(stages, key=records.end_ms, reverse=True):
        if start - records.end_ms(stage) > SITTING_GAP_MS:
            break
        start = min(start, records.start_ms(stage))
    return start


def _parent_run(client: Any, delivery: Delivery) -> LoggedRun:
    bundle, decision = delivery.bundle, delivery.decision
    done = f"{bundle.id}/{decision.id}"
    injected = os.environ.get("MLFLOW_RUN_ID")
    if injected:
        found = client.get_run(injected)
        reused = found.data.tags.get(TAG_COMPLETE) == done
        return LoggedRun(injected, found.info.experiment_id, reused=reused, adopted=True)
    experiment = experiment_id(client, delivery.config.experiment)
    same = f"tags.`{records.TAG_BUNDLE}` = '{bundle.id}' and tags.`{TAG_DECISION}` = '{decision.id}'"
    for found in client.search_runs([experiment], same, max_results=10):
        if _PARENT_RUN not in found.data.tags:
            reused = found.data.tags.get(TAG_COMPLETE) == done
            return LoggedRun(found.info.run_id, experiment, reused=reused, adopted=False)
    run = client.create_run(
        experiment,
        start_time=sitting_start_ms(delivery.artifacts, _now_ms()),
        run_name=f"student {bundle.short_id}",
        tags={**records.source_tags(bundle), records.TAG_BUNDLE: bundle.id, TAG_DECISION: decision.id},
    )
    return LoggedRun(run.info.run_id, experiment, reused=False, adopted=False)


def experiment_id(client: Any, name: str) -> str:
    """Id of the experiment of this name; one that is missing is made, a deleted one restored."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(tracking_uri())))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have been faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _nested_runs(client: Any, parent: LoggedRun) -> dict[str, str]:
    """Nested runs that are complete: artifact id -> run id, of several the first."""
    complete: dict[str, str] = {}
    for found in _below(client, parent):
        if found.info.status == "FINISHED":
            complete.setdefault(found.data.tags[records.TAG_ID], found.info.run_id)
    return complete


def _below(client: Any, parent: LoggedRun) -> list[Any]:
    """Runs of ours below the parent, oldest first."""
    below = f"tags.`{_PARENT_RUN}` = '{parent.run_id}'"
    found = client.search_runs([parent.experiment_id], below, max_results=1000, order_by=["attributes.run_id"])
    return [run for run in found if records.TAG_ID in run.data.tags]


def _log_stage(client: Any, parent: LoggedRun, artifact: Artifact, place: str) -> None:
    """Log an artifact as a nested run."""
    run = client.create_run(
        parent.experiment_id,
        start_time=records.start_ms(artifact),
        run_name=artifact.stage,
        tags={_PARENT_RUN: parent.run_id, **records.source_tags(artifact), **records.identity_tags(artifact, place)},
    )
    run_id = str(run.info.run_id)
    params = dict(records.flatten(artifact.config))
    _log_batches(client, run_id, params, [*records.figures(artifact), *records.history(artifact)])
    if inputs := records.dataset_inputs(artifact, place):
        client.log_inputs(run_id, datasets=inputs)
    _log_reports(client, run_id, artifact)
    client.set_terminated(run_id, "FINISHED", end_time=records.end_ms(artifact))


def _log_parent(
    client: Any, run_id: str, delivery: Delivery, headline: Mapping[str, float], tags: Mapping[str, str]
) -> None:
    from mlflow.entities import Metric, RunTag

    stages = delivery.artifacts
    params = {f"{stage.stage}.{name}": value for stage in stages for name, value in records.flatten(stage.config)}
    wall = {f"wall_s.{stage.stage}": stage.wall_s for stage in stages}
    metrics = {**headline, **wall, "wall_s": sum(wall.values())}
    _log_batches(client, run_id, params, [Metric(name, value, _now_ms(), 0) for name, value in metrics.items()])
    for stage in stages:
        if stage.kind == "cut-manifest" and (inputs := records.dataset_inputs(stage, delivery.place(stage))):
            client.log_inputs(run_id, datasets=inputs)
        if stage.kind in ("onnx-bundle", "promotion-decision"):
            _log_reports(client, run_id, stage)
    with tempfile.TemporaryDirectory() as scratch:
        write_record(delivery, Path(scratch))
        client.log_artifacts(run_id, scratch, LINEAGE_FOLDER)
    if delivery.page is not None:
        client.log_text(run_id, delivery.page, PAGE_FILE)
    lineage = {f"mvqkd.{stage.kind}": stage.id for stage in stages}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in {**lineage, **tags}.items()])


def _remove_doubles(client: Any, parent: LoggedRun) -> None:
    """Delete nested runs that a call has left half logged when it died, or made twice when an answer got lost."""
    kept = set(_nested_runs(client, parent).values())
    for found in _below(client, parent):
        if found.info.run_id not in kept:
            with permission_not_needed():
                client.set_terminated(found.info.run_id, "KILLED")
                client.delete_run(found.info.run_id)


def _log_batches(client: Any, run_id: str, params: Mapping[str, Any], metrics: Sequence[Any]) -> None:
    from mlflow.entities import Param

    rows = [
        Param(path_name(name), value if isinstance(value, str) else json.dumps(value)) for name, value in params.items()
    ]
    calls = max(-(-len(rows) // _PARAMS_A_CALL), -(-len(metrics) // _METRICS_A_CALL))
    for call in range(calls):
        client.log_batch(
            run_id,
            params=rows[call * _PARAMS_A_CALL : (call + 1) * _PARAMS_A_CALL],
            metrics=metrics[call * _METRICS_A_CALL : (call + 1) * _METRICS_A_CALL],
        )


def _log_reports(client: Any, run_id: str, artifact: Artifact) -> None:
    for name in (ARTIFACT_FILE, *artifact.files):
        if records.is_report(artifact, name):
            client.log_artifact(run_id, str(artifact.path / name), artifact.kind)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
