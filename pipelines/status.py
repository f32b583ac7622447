"""How a run is doing: its state, a table of its steps, and what failed first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from mvqkd.errors import ConfigError
from pipelines.answers import PipelineServerError
from pipelines.client import Server
from pipelines.nodes import Step, moment, steps_of
from pipelines.package import Package, package_from_server
from pipelines.submit import find_experiment
from pipelines.versions import equals, find_pipeline, package_of_version

EXIT_SUCCEEDED, EXIT_FAILED, EXIT_UNFINISHED = 0, 3, 4
FINAL = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
# A wait of hours outlives a server's restart: so many polls in a row may fail.
MAX_FAILED_POLLS = 30


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment."""

    run_id: str
    name: str
    state: str
    created: datetime | None
    finished: datetime | None
    steps: tuple[Step, ...]
    error: str
    page: str
    namespace: str = ""

    @property
    def exit_code(self) -> int:
        """0 succeeded, 3 ended otherwise, 4 not ended."""
        if self.state not in FINAL:
            return EXIT_UNFINISHED
        return EXIT_SUCCEEDED if self.state == "SUCCEEDED" else EXIT_FAILED

    @property
    def first_failed(self) -> Step | None:
        """The failed step that ended first."""
        failed = [step for step in self.steps if step.state == "FAILED"]
        return min(failed, key=lambda step: step.ended or datetime.max.replace(tzinfo=UTC), default=None)

    def as_json(self) -> dict[str, Any]:
        """For programs. Times are ISO 8601, durations seconds."""
        failed = self.first_failed
        return {
            "run_id": self.run_id,
            "name": self.name,
            "state": self.state,
            "created_at": _iso(self.created),
            "finished_at": _iso(self.finished),
            "duration_s": _seconds(self.created, self.finished),
            "first_failed_step": failed.name if failed else None,
            "error": self.error or None,
            "page": self.page,
            "steps": [
                {
                    "name": step.name,
                    "state": step.state or None,
                    "repetitions": len(step.states),
                    "succeeded": step.states.count("SUCCEEDED"),
                    "started_at": _iso(step.started),
                    "ended_at": _iso(step.ended),
                    "duration_s": _seconds(step.started, step.ended),
                    "retries": step.retries,
                    "cached": step.cached,
                }
                for step in self.steps
            ],
        }

    def lines(self) -> list[str]:
        """For people: one line of the run, one of each step, and what to do about a failure."""
        lines = [f"run {self.run_id} {self.name}: {self.state}, {_shown(self.created, self.finished)}", ""]
        rows = [("step", "state", "duration", "notes"), *(self._row(step) for step in self.steps)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines += [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if self.exit_code == EXIT_FAILED:
            failed = self.first_failed
            lines += ["", f"first failed: {failed.name}" if failed else f"the run ended as {self.state}"]
            lines += [f"error: {self.error}"] if self.error else []
            where = f" -n {self.namespace}" if self.namespace else ""
            lines += [f"logs: kubectl logs{where} -l pipeline/runid={self.run_id} -c main --prefix --tail 50"]
        return [*lines, "", self.page]

    def _row(self, step: Step) -> tuple[str, str, str, str]:
        notes = []
        if len(step.states) > 1:
            notes.append(f"{step.states.count('SUCCEEDED')} of {len(step.states)} done")
        if step.cached:
            notes.append(f"{step.cached} cached" if len(step.states) > 1 else "cached")
        if step.retries:
            notes.append("1 retry" if step.retries == 1 else f"{step.retries} retries")
        state = step.state or ("not run" if self.state in FINAL else "-")
        duration = _shown(step.started, step.ended) if step.states and step.state != "SKIPPED" else ""
        return step.name, state, duration, ", ".join(notes)


def status(server: Server, run_id: str, package: Package | None = None) -> RunStatus:
    """The run as it is now.

    Args:
        package: the pipeline that it runs; None: asked for. Without one on the server there are no steps to show.
    Raises:
        PipelineServerError: there is no such run, or the server refused, failed or did not answer.
    """
    run = server.ask(f"run {run_id}", server.client.runs.run_service_get_run, run_id=run_id)
    package = package or _package_of(server, run)
    steps = tuple(steps_of(run, package)) if package else ()
    return RunStatus(
        run_id=str(run.run_id),
        name=str(run.display_name),
        state=str(run.state or "PENDING"),
        created=moment(run.created_at),
        finished=moment(run.finished_at),
        steps=steps,
        error=_error_of(run, steps),
        page=server.page(f"runs/details/{run.run_id}"),
        namespace=server.namespace,
    )


def is_run_id(text: str | None) -> bool:
    """Whether the text is an id, as the server makes them, not a name."""
    try:
        return text is not None and str(UUID(text)) == text.lower()
    except ValueError:
        return False


def find_run_id(server: Server, pipeline_name: str, experiment: str, name: str | None = None) -> str:
    """Id of the run of the pipeline that was started last in the experiment, of those called so where a name is given.

    Raises:
        ConfigError: there is none.
    """
    pipeline_id = find_pipeline(server, pipeline_name)
    found = find_experiment(server, experiment)
    if pipeline_id and found:
        runs = server.all_of(
            f"runs of experiment {experiment}",
            server.client.runs.run_service_list_runs,
            "runs",
            experiment_id=found.experiment_id,
            sort_by="created_at desc",
            **({"filter": equals("display_name", name)} if name else {}),
        )
        for run in runs:
            reference = run.pipeline_version_reference
            if reference and reference.pipeline_id == pipeline_id:
                return str(run.run_id)
    raise ConfigError(
        f"experiment {experiment}",
        expected=f"a run of {pipeline_name}" + (f" called {name}" if name else ""),
        got="none",
        next_step="start one with `mvqkd pipeline submit`, or pass another RUN or --experiment",
    )


def wait(
    server: Server,
    run_id: str,
    *,
    timeout_s: float | None,
    poll_s: float,
    tell: Callable[[str], None],
) -> RunStatus:
    """Wait for the end of a run.

    Args:
        timeout_s: after which the run is returned as it is; None: never.
        tell: gets a line whenever a step's state has changed.
    Raises:
        PipelineServerError: the server refused, or was out of reach for 30 polls in a row.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    known: dict[str, str] = {}
    failed_polls = 0
    run = server.ask(f"run {run_id}", server.client.runs.run_service_get_run, run_id=run_id)
    package = _package_of(server, run)
    seen: RunStatus | None = None
    while True:
        try:
            seen = status(server, run_id, package)
            failed_polls = 0
        except PipelineServerError as error:
            failed_polls += 1
            if seen is None or not error.transient or failed_polls >= MAX_FAILED_POLLS:
                raise
            if failed_polls == 1:
                tell(f"{error} (waiting on)")
        else:
            for step in seen.steps:
                if step.state and known.get(step.name) != _progress(step):
                    known[step.name] = _progress(step)
                    tell(f"{step.name}: {_progress(step)}")
        if seen.state in FINAL or (deadline is not None and time.monotonic() >= deadline):
            return seen
        time.sleep(poll_s if deadline is None else max(0.0, min(poll_s, deadline - time.monotonic())))


def _package_of(server: Server, run: Any) -> Package | None:
    if not run.pipeline_version_reference:
        return package_from_server(run.pipeline_spec, f"run {run.run_id}")
    try:
        return package_of_version(server, run.pipeline_version_reference)
    except PipelineServerError as error:
        if error.status == 404:  # somebody has deleted it since
            return None
        raise


def _progress(step: Step) -> str:
    if len(step.states) < 2:
        return step.state
    return f"{step.state}, {step.states.count('SUCCEEDED')} of {len(step.states)} done"


def _error_of(run: Any, steps: tuple[Step, ...]) -> str:
    """What the server says: of the step, else of the run."""
    messages = [step.error for step in steps]
    history = run.state_history or []
    messages += [str(item.error.message) for item in (run, *reversed(history)) if item.error and item.error.message]
    return " ".join(next((message for message in messages if message), "").split())


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return ((end or datetime.now(UTC)) - start).total_seconds() if start else None


def _shown(start: datetime | None, end: datetime | None) -> str:
    seconds = _seconds(start, end)
    return "" if seconds is None else str(timedelta(seconds=int(max(seconds, 0))))


def _iso(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
