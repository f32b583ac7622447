"""Recurring runs of the pipeline: one enabled schedule a name, whatever happens in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kfp_server_api

from mvqkd.errors import ConfigError
from pipelines.answers import PipelineServerError
from pipelines.client import Server
from pipelines.cron import Cron
from pipelines.submit import ensure_experiment, reference_to, refers_to, runtime_config
from pipelines.versions import Version, find_pipeline

MAX_CONCURRENCY = 10  # the server's own bound


@dataclass(frozen=True)
class Schedule:
    """When the pipeline runs by itself.

    Args:
        name: one schedule of the pipeline has it.
        cron: times, in the time zone of Kubeflow's controller: UTC unless somebody changed it.
        max_concurrency: runs of this schedule at the same time; a night that takes longer than a day waits.
        enabled: whether it fires.
    """

    name: str
    cron: Cron
    experiment: str
    max_concurrency: int = 1
    enabled: bool = True
    service_account: str | None = None
    pipeline_root: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_concurrency <= MAX_CONCURRENCY:
            raise ConfigError(
                f"schedule {self.name}",
                expected=f"1 to {MAX_CONCURRENCY} runs at the same time",
                got=str(self.max_concurrency),
                next_step="pass --max-concurrency 1",
            )


def put_schedule(server: Server, version: Version, arguments: Mapping[str, Any], wanted: Schedule) -> str:
    """Make the server have exactly this schedule under its name.

    A schedule cannot be changed on the server. A new one is created that does not fire yet; then the old ones are
    disabled, the new one enabled, the old ones deleted. Killed anywhere in between, at most one is enabled, and the
    next call ends with one.

    Returns:
        created, updated, or unchanged.
    """
    experiment_id = ensure_experiment(server, wanted.experiment)
    present = _named(server, version.pipeline_id, wanted.name)
    fitting = [item for item in present if _fits(item, version, arguments, wanted, experiment_id)]
    # One that fires already comes first: then nothing needs to be touched.
    fitting.sort(key=lambda item: _enabled(item) != wanted.enabled)
    kept = fitting[0] if fitting else None
    others = [item for item in present if item is not kept]
    if kept is not None and not others and _enabled(kept) == wanted.enabled:
        return "unchanged"
    if kept is None:
        kept = _create(server, version, arguments, wanted, experiment_id)
    for item in others:
        _set_enabled(server, item, False)
    _set_enabled(server, kept, wanted.enabled)
    for item in others:
        _delete(server, item)
    return "updated" if present else "created"


def schedules(server: Server, pipeline_name: str) -> list[Any]:
    """All schedules of the pipeline, by name."""
    pipeline_id = find_pipeline(server, pipeline_name)
    return sorted(_all(server, pipeline_id), key=lambda item: str(item.display_name)) if pipeline_id else []


def set_enabled(server: Server, pipeline_name: str, name: str, enabled: bool) -> None:
    """Let a schedule fire, or not.

    Raises:
        ConfigError: there is none of that name, or several and one of them is to be enabled.
    """
    found = _found(server, pipeline_name, name)
    if enabled and len(found) > 1:
        raise ConfigError(
            f"schedule {name}",
            expected="one of that name",
            got=f"{len(found)}: a change of it was interrupted",
            next_step="run `mvqkd pipeline schedule` with --cron again, which ends the change",
        )
    for item in found:
        _set_enabled(server, item, enabled)


def delete_schedule(server: Server, pipeline_name: str, name: str) -> None:
    """Delete a schedule; its runs stay.

    Raises:
        ConfigError: there is none of that name.
    """
    for item in _found(server, pipeline_name, name):
        _delete(server, item)


def _found(server: Server, pipeline_name: str, name: str) -> list[Any]:
    known = schedules(server, pipeline_name)
    found = [item for item in known if item.display_name == name]
    if not found:
        names = ", ".join(sorted({str(item.display_name) for item in known}))
        raise ConfigError(
            f"schedule {name}",
            expected="a schedule of that name",
            got=f"only {names}" if names else "none at all",
            next_step="see `mvqkd pipeline schedule --list`",
        )
    return found


def _all(server: Server, pipeline_id: str) -> list[Any]:
    items = server.all_of(
        "schedules",
        server.client.recurring_runs.recurring_run_service_list_recurring_runs,
        "recurring_runs",
        **server.in_namespace,
    )
    # Another pipeline's schedule may be called alike; it is none of ours.
    return [
        item
        for item in items
        if item.pipeline_version_reference and item.pipeline_version_reference.pipeline_id == pipeline_id
    ]


def _named(server: Server, pipeline_id: str, name: str) -> list[Any]:
    return [item for item in _all(server, pipeline_id) if item.display_name == name]


def _fits(item: Any, version: Version, arguments: Mapping[str, Any], wanted: Schedule, experiment_id: str) -> bool:
    """Whether a schedule on the server is the one wanted, enabled or not."""
    cron = item.trigger.cron_schedule if item.trigger else None
    config = item.runtime_config
    return (
        refers_to(item, version, arguments)
        and cron is not None
        and (cron.cron, cron.start_time, cron.end_time) == (wanted.cron.expression, None, None)
        and int(item.max_concurrency or 0) == wanted.max_concurrency
        and bool(item.no_catchup)
        and item.experiment_id == experiment_id
        # Left open, the server fills in an account and a root of its own.
        and (wanted.service_account is None or item.service_account == wanted.service_account)
        and (wanted.pipeline_root is None or (config is not None and config.pipeline_root == wanted.pipeline_root))
    )


def _create(
    server: Server, version: Version, arguments: Mapping[str, Any], wanted: Schedule, experiment_id: str
) -> Any:
    return server.ask(
        f"schedule {wanted.name}",
        server.client.recurring_runs.recurring_run_service_create_recurring_run,
        recurring_run=kfp_server_api.V2beta1RecurringRun(
            display_name=wanted.name,
            experiment_id=experiment_id,
            pipeline_version_reference=reference_to(version),
            runtime_config=runtime_config(arguments, wanted.pipeline_root),
            trigger=kfp_server_api.V2beta1Trigger(
                cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=wanted.cron.expression)
            ),
            mode="DISABLE",
            max_concurrency=str(wanted.max_concurrency),
            no_catchup=True,  # nights that were missed are over: their data is in the next one
            service_account=wanted.service_account,
        ),
    )


def _enabled(item: Any) -> bool:
    return bool(item.status == "ENABLED")


def _set_enabled(server: Server, item: Any, enabled: bool) -> None:
    if _enabled(item) == enabled:
        return
    calls = server.client.recurring_runs
    call = (
        calls.recurring_run_service_enable_recurring_run
        if enabled
        else (calls.recurring_run_service_disable_recurring_run)
    )
    server.ask(f"schedule {item.display_name}", call, recurring_run_id=item.recurring_run_id)


def _delete(server: Server, item: Any) -> None:
    delete = server.client.recurring_runs.recurring_run_service_delete_recurring_run
    try:
        # Its runs belong to it in Kubernetes: without ORPHAN, one that is under way would be deleted with it.
        server.ask(
            f"schedule {item.display_name}",
            delete,
            recurring_run_id=item.recurring_run_id,
            propagation_policy="ORPHAN",
        )
    except PipelineServerError as error:
        if error.status != 404:  # another process was faster
            raise
