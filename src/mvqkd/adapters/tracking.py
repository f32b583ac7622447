"""Log a student's whole lineage to MLflow: one parent run, one nested run a stage.

Artifacts are logged by reference (ids and paths as tags, small JSON reports as files); codebook indexes and
weights are never copied. Logging the same bundle and decision again finds the run and adds only what is missing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvqkd.adapters import run_records as records
from mvqkd.adapters.mlflow_store import artifact_location, registry_errors, tracking_uri
from mvqkd.adapters.registry import TAG_BUNDLE
from mvqkd.artifacts import ARTIFACT_FILE, Artifact

TAG_DECISION = "mvqkd.decision_id"
TAG_COMPLETE = "mvqkd.complete"
_PARENT_RUN = "mlflow.parentRunId"

MAX_REPORT_BYTES = 256 * 1024
# Stages that followed each other within this belong to one sitting; the parent run's time spans that sitting,
# not a data set that was prepared last week.
SITTING_GAP_MS = 10 * 60 * 1000

# Limits of MLflow's batch calls.
_METRICS_A_CALL = 1000
_ROWS_A_CALL = 100


@dataclass(frozen=True)
class LoggedRun:
    """The parent run. ``reused``: an earlier call had logged it; ``adopted``: MLFLOW_RUN_ID named it."""

    run_id: str
    experiment_id: str
    reused: bool
    adopted: bool


def log_lineage(
    client: Any,
    stages: Sequence[Artifact],
    *,
    experiment: str,
    bundle: Artifact,
    decision: Artifact,
    headline: Mapping[str, float],
    tags: Mapping[str, str],
) -> LoggedRun:
    """Log every stage below one parent run, or find the run in which that was done already.

    A run named by MLFLOW_RUN_ID becomes the parent and is left open: whoever started it ends it.

    Args:
        client: from ``mlflow_store.connect``.
        stages: every artifact of the lineage, in the order they were made.
        experiment: name of the MLflow experiment; made when it is missing.
        bundle, decision: identify the parent run.
        headline: metrics of the parent run.
        tags: further tags of the parent run.
    Raises:
        RegistryError: the store refused or failed; call again to go on where it stopped.
    """
    done = f"{bundle.id}/{decision.id}"
    with registry_errors("logging the run"):
        run = _parent_run(client, experiment, bundle, decision, stages)
        if run.reused:
            return run
        for stage in stages:
            _log_stage(client, run, stage)
        identity = {TAG_BUNDLE: bundle.id, TAG_DECISION: decision.id, **records.source_tags(bundle)}
        _log_parent(client, run.run_id, stages, headline, {**identity, **tags})
        client.set_tag(run.run_id, TAG_COMPLETE, done)
        if not run.adopted:
            client.set_terminated(run.run_id, "FINISHED")
    return run


def sitting_start_ms(stages: Sequence[Artifact], now_ms: int) -> int:
    """Begin of the unbroken row of stages that ends now, in milliseconds since the epoch; see SITTING_GAP_MS."""
    start = now_ms
    for stage in sorted(stages, key=records.end_ms, reverse=True):
        if start - records.end_ms(stage) > SITTING_GAP_MS:
            break
        start = min(start, records.start_ms(stage))
    return start


def _parent_run(
    client: Any, experiment: str, bundle: Artifact, decision: Artifact, stages: Sequence[Artifact]
) -> LoggedRun:
    done = f"{bundle.id}/{decision.id}"
    injected = os.environ.get("MLFLOW_RUN_ID")
    if injected:
        found = client.get_run(injected)
        reused = found.data.tags.get(TAG_COMPLETE) == done
        return LoggedRun(injected, found.info.experiment_id, reused=reused, adopted=True)
    experiment_id = _experiment_id(client, experiment)
    same = f"tags.`{TAG_BUNDLE}` = '{bundle.id}' and tags.`{TAG_DECISION}` = '{decision.id}'"
    for found in client.search_runs([experiment_id], same, max_results=10):
        if _PARENT_RUN not in found.data.tags:
            reused = found.data.tags.get(TAG_COMPLETE) == done
            return LoggedRun(found.info.run_id, experiment_id, reused=reused, adopted=False)
    run = client.create_run(
        experiment_id,
        start_time=sitting_start_ms(stages, _now_ms()),
        run_name=f"student {bundle.short_id}",
        tags={**records.source_tags(bundle), TAG_BUNDLE: bundle.id, TAG_DECISION: decision.id},
    )
    return LoggedRun(run.info.run_id, experiment_id, reused=False, adopted=False)


def _experiment_id(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=artifact_location(tracking_uri())))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _log_stage(client: Any, parent: LoggedRun, artifact: Artifact) -> None:
    same = f"tags.`{_PARENT_RUN}` = '{parent.run_id}' and tags.`{records.TAG_ID}` = '{artifact.id}'"
    for found in client.search_runs([parent.experiment_id], same, max_results=10):
        if found.info.status == "FINISHED":
            return
        # A killed call left it half logged; its metrics would double if this call went on there.
        client.delete_run(found.info.run_id)
    run = client.create_run(
        parent.experiment_id,
        start_time=records.start_ms(artifact),
        run_name=artifact.stage,
        tags={_PARENT_RUN: parent.run_id, **records.source_tags(artifact), **records.identity_tags(artifact)},
    )
    run_id = run.info.run_id
    _log_params(client, run_id, dict(records.flatten(artifact.config)))
    _log_metrics(client, run_id, [*records.figures(artifact), *records.history(artifact)])
    if inputs := records.dataset_inputs(artifact):
        client.log_inputs(run_id, datasets=inputs)
    _log_reports(client, run_id, artifact)
    client.set_terminated(run_id, "FINISHED", end_time=records.end_ms(artifact))


def _log_parent(
    client: Any,
    run_id: str,
    stages: Sequence[Artifact],
    headline: Mapping[str, float],
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Metric, RunTag

    params = {f"{stage.stage}.{name}": value for stage in stages for name, value in records.flatten(stage.config)}
    _log_params(client, run_id, params)
    wall = {f"wall_s.{stage.stage}": stage.wall_s for stage in stages}
    metrics = {**headline, **wall, "wall_s": sum(wall.values())}
    _log_metrics(client, run_id, [Metric(name, value, _now_ms(), 0) for name, value in metrics.items()])
    for stage in stages:
        if stage.kind == "cut-manifest" and (inputs := records.dataset_inputs(stage)):
            client.log_inputs(run_id, datasets=inputs)
        if stage.kind in ("onnx-bundle", "promotion-decision"):
            _log_reports(client, run_id, stage)
    lineage = {f"mvqkd.{stage.kind}": stage.id for stage in stages}
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in {**lineage, **tags}.items()])


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    rows = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in params.items()]
    for start in range(0, len(rows), _ROWS_A_CALL):
        client.log_batch(run_id, params=rows[start : start + _ROWS_A_CALL])


def _log_metrics(client: Any, run_id: str, metrics: Sequence[Any]) -> None:
    for start in range(0, len(metrics), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_CALL])


def _log_reports(client: Any, run_id: str, artifact: Artifact) -> None:
    for name in (ARTIFACT_FILE, *artifact.files):
        file = artifact.path / name
        if file.suffix == ".json" and "/" not in name and file.stat().st_size <= MAX_REPORT_BYTES:
            client.log_artifact(run_id, str(file), artifact.kind)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
