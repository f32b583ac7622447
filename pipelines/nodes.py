"""Steps of a run, put together from what the server says about Argo's nodes.

A run's ``task_details`` are the nodes of its Argo workflow, each with a short name and the ids of the nodes after it,
but without its own id. A step is three of them or more: ``NAME-driver``, which prepares it and looks into the cache,
``NAME``, and in that ``executor``, which is skipped when the cache had the answer, and has a child for every attempt
where the step may be retried. Argo's ids are hashes of full names, so that the executors of a step can be told from
those of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.package import Package

_OFFSET, _PRIME = 0x811C9DC5, 0x01000193
# No container starts, works and stores its outputs within a second.
_CACHED_WITHIN = timedelta(seconds=1)
_MAX_ATTEMPTS = 32


@dataclass(frozen=True)
class Step:
    """A step of the pipeline in one run; in a loop, all its repetitions together.

    Args:
        name: with the loops and branches around it: ``shards/encode-ci``.
        states: of its repetitions: none before it starts, one outside of loops.
        started, ended: of the first and the last of them; ``ended`` is None while one is under way.
        retries: attempts after the first.
        cached: repetitions whose outputs came from the cache.
        error: what the server says about a failure, often nothing.
    """

    name: str
    states: tuple[str, ...] = ()
    started: datetime | None = None
    ended: datetime | None = None
    retries: int = 0
    cached: int = 0
    error: str = ""

    @property
    def state(self) -> str:
        """One word for all repetitions; empty before it starts."""
        for state in ("FAILED", "CANCELED", "CANCELING", "RUNNING", "PENDING", "PAUSED", "SUCCEEDED"):
            if state in self.states:
                return state
        return self.states[0] if self.states else ""


@dataclass(frozen=True)
class _Place:
    """Where a step stands: its name for people, its node's name, and the full name of the node around it."""

    shown: str
    node: str
    around: str


def steps_of(run: Any, package: Package) -> list[Step]:
    """The steps of a run in the pipeline's order.

    Args:
        run: as the server gives it, with ``run_details``.
        package: the pipeline that it runs.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    nodes: dict[str, list[Any]] = {}
    for detail in details:
        nodes.setdefault(str(detail.display_name), []).append(detail)
    children = {child.pod_name for detail in details for child in detail.child_tasks or [] if child.pod_name}
    workflow = next((child.rpartition("-")[0] for child in sorted(children)), "")
    places = _places(package, package.specification["root"], "", f"{workflow}.root", workflow, children)
    passes: dict[tuple[str, str], list[_Place]] = {}
    for place in places:
        passes.setdefault((place.shown, place.node), []).append(place)
    return [_step(found, nodes, workflow) for found in passes.values()]


def _places(
    package: Package, component: Mapping[str, Any], shown: str, around: str, workflow: str, ids: set[str]
) -> Iterator[_Place]:
    """Every container step under a graph, in the order in which they can run; one for each pass through a loop."""
    for name, task in _ordered(component["dag"]["tasks"]):
        inner = package.specification["components"][task["componentRef"]["name"]]
        label = str(task.get("taskInfo", {}).get("name", name))
        if "dag" not in inner:
            yield _Place(shown + label, name, around)
            continue
        bodies = [f"{around}.{name}"]
        if "parameterIterator" in task or "artifactIterator" in task:
            passes = 1
            while node_id(workflow, _pass(around, name, passes)) in ids:
                passes += 1
            bodies = [f"{_pass(around, name, number)}.iteration-item" for number in range(passes)]
        for body in bodies:
            yield from _places(package, inner, f"{shown}{label}/", body, workflow, ids)


def _pass(around: str, loop: str, number: int) -> str:
    return f"{around}.{loop}.iteration-iterations({number}:{number})"


def _ordered(tasks: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Tasks by how many others must end before them, one after the other; a server gives them in any order."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            before = [other for other in tasks[name].get("dependentTasks", []) if other in tasks]
            depths[name] = max((depth(other) + 1 for other in before), default=0)
        return depths[name]

    return sorted(tasks.items(), key=lambda item: (depth(item[0]), item[0]))


def _step(places: Sequence[_Place], nodes: Mapping[str, list[Any]], workflow: str) -> Step:
    """A step from its places, which differ in the pass through a loop only."""
    name = places[0].node
    mains, drivers = nodes.get(name, []), nodes.get(f"{name}-driver", [])
    # A step begins after its driver, and never when that fails.
    broken = [driver for driver in drivers if driver.state in ("FAILED", "CANCELED")]
    speaking = mains + broken
    coming = ["PENDING"] * (len(drivers) - len(speaking))
    starts = [time for detail in mains or drivers if (time := moment(detail.start_time))]
    ends = [moment(detail.end_time) for detail in speaking]
    executors = nodes.get("executor", [])
    return Step(
        name=places[0].shown,
        states=(*(str(detail.state or "SKIPPED") for detail in speaking), *coming),
        started=min(starts, default=None),
        ended=max((end for end in ends if end), default=None) if all(ends) and not coming else None,
        retries=sum(_retries(place, executors, workflow) for place in places),
        cached=sum(_cached(detail, executors) for detail in mains),
        error=next((str(detail.error.message) for detail in speaking if detail.error and detail.error.message), ""),
    )


def _retries(place: _Place, executors: Sequence[Any], workflow: str) -> int:
    """Attempts after the first: the executor whose children are attempts of this step."""
    full = f"{place.around}.{place.node}.executor"
    wanted = {node_id(workflow, f"{full}({attempt})") for attempt in range(_MAX_ATTEMPTS)}
    counts = [len(wanted & {child.pod_name for child in detail.child_tasks or []}) for detail in executors]
    return max(max(counts, default=0) - 1, 0)


def _cached(detail: Any, executors: Sequence[Any]) -> bool:
    start, end = moment(detail.start_time), moment(detail.end_time)
    if detail.state != "SUCCEEDED" or start is None or end is None or end - start > _CACHED_WITHIN:
        return False
    return any(
        executor.state == "SKIPPED" and (skipped := moment(executor.start_time)) is not None and start <= skipped <= end
        for executor in executors
    )


def node_id(workflow: str, full_name: str) -> str:
    """Argo's id of a node: the workflow's name and the 32-bit FNV-1a hash of the node's full name."""
    value = _OFFSET
    for byte in full_name.encode():
        value = (value ^ byte) * _PRIME & 0xFFFFFFFF
    return f"{workflow}-{value}"


def moment(value: datetime | None) -> datetime | None:
    """A time that is one: the server writes none as the year 1 or 1970."""
    if value is None or value.year < 2000:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
