"""Start a run of the pipeline, unless the same one is under way or done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kfp_server_api

from mvqkd.errors import ConfigError
from pipelines.answers import PipelineServerError
from pipelines.client import Server
from pipelines.versions import Version, equals

# A run in one of these states does, or has done, what another one of the same version and arguments would do.
# None: the server has not seen it start yet.
COUNTS_AS_DONE = frozenset({None, "RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED", "SUCCEEDED"})


@dataclass(frozen=True)
class Submission:
    """A run; ``created`` says whether it was started just now."""

    run: kfp_server_api.V2beta1Run
    created: bool


def submit(
    server: Server,
    version: Version,
    arguments: Mapping[str, Any],
    *,
    experiment: str,
    run_name: str | None = None,
    service_account: str | None = None,
    pipeline_root: str | None = None,
    force: bool = False,
) -> Submission:
    """Start a run of that version with those arguments.

    A run of the same version and arguments in the experiment that waits, runs or has succeeded is returned instead:
    asked twice, or asked again after an answer was lost, the server works once. ``force`` starts another one.

    Raises:
        ConfigError: the experiment is archived.
        PipelineServerError: the server refused, failed or did not answer.
    """
    experiment_id = ensure_experiment(server, experiment)
    if not force and (same := _same_run(server, experiment_id, version, arguments)):
        return Submission(same, created=False)
    name = run_name or default_run_name(version, arguments)
    run = server.ask(
        f"run {name}",
        server.client.runs.run_service_create_run,
        run=kfp_server_api.V2beta1Run(
            experiment_id=experiment_id,
            display_name=name,
            pipeline_version_reference=reference_to(version),
            runtime_config=runtime_config(arguments, pipeline_root),
            service_account=service_account,
        ),
    )
    return Submission(run, created=True)


def default_run_name(version: Version, arguments: Mapping[str, Any]) -> str:
    """The version's name and a hash of the arguments: runs that should agree are called alike."""
    content = json.dumps(dict(arguments), sort_keys=True, separators=(",", ":"))
    return f"{version.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def reference_to(version: Version) -> kfp_server_api.V2beta1PipelineVersionReference:
    """The version as runs and schedules name it."""
    return kfp_server_api.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
    )


def runtime_config(arguments: Mapping[str, Any], pipeline_root: str | None) -> kfp_server_api.V2beta1RuntimeConfig:
    """The arguments as runs and schedules carry them."""
    return kfp_server_api.V2beta1RuntimeConfig(parameters=dict(arguments), pipeline_root=pipeline_root)


def refers_to(item: Any, version: Version, arguments: Mapping[str, Any]) -> bool:
    """Whether a run or a schedule is of that version with those arguments."""
    reference = item.pipeline_version_reference
    given = item.runtime_config.parameters if item.runtime_config else None
    return (
        reference is not None
        and reference.pipeline_version_id == version.version_id
        and (given or {}) == dict(arguments)
    )


def find_experiment(server: Server, name: str) -> Any | None:
    """The experiment of that name, None where there is none."""
    experiments = server.all_of(
        f"experiment {name}",
        server.client.experiments.experiment_service_list_experiments,
        "experiments",
        filter=equals("display_name", name),
        **server.in_namespace,
    )
    return next(experiments, None)


def ensure_experiment(server: Server, name: str) -> str:
    """Id of the experiment, created where there is none.

    Raises:
        ConfigError: it is archived, where nobody would see the run.
    """
    found = find_experiment(server, name)
    if found is None:
        experiment = kfp_server_api.V2beta1Experiment(display_name=name, **server.in_namespace)
        create = server.client.experiments.experiment_service_create_experiment
        try:
            found = server.ask(f"experiment {name}", create, experiment=experiment)
        except PipelineServerError as error:
            # Another process was faster.
            if not error.already_exists or (found := find_experiment(server, name)) is None:
                raise
    if found.storage_state == "ARCHIVED":
        raise ConfigError(
            f"experiment {name}",
            expected="one in use",
            got="an archived one",
            next_step="restore it in the user interface, or pass --experiment NAME",
        )
    return str(found.experiment_id)


def _same_run(server: Server, experiment_id: str, version: Version, arguments: Mapping[str, Any]) -> Any | None:
    runs = server.all_of(
        "runs of the experiment",
        server.client.runs.run_service_list_runs,
        "runs",
        experiment_id=experiment_id,
        sort_by="created_at desc",
    )
    for run in runs:
        if run.storage_state != "ARCHIVED" and run.state in COUNTS_AS_DONE and refers_to(run, version, arguments):
            return run
    return None
