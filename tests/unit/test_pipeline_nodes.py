"""Argo's nodes put together to steps: what is shown of drivers, executors, loops, retries and the cache."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import kfp_server_api
import pytest

from pipelines.compile import GOLDEN_FILE
from pipelines.nodes import Step, node_id, steps_of
from pipelines.package import Package, package_from_file
from tests.argo_nodes import Workflow
from tests.small_pipeline import small_package


def _run(workflow: Workflow) -> Any:
    """A run as kfp's client reads it."""
    api = kfp_server_api.ApiClient()
    body = SimpleNamespace(data=json.dumps({"run_details": workflow.details()}))
    return api.deserialize(body, "V2beta1Run")


def _steps(workflow: Workflow) -> dict[str, Step]:
    return {step.name: step for step in steps_of(_run(workflow), small_package())}


def _prepare(workflow: Workflow, state: str = "SUCCEEDED", end: int | None = 60) -> Workflow:
    workflow.add("root", "RUNNING", 0, None, ("root.prepare-driver",))
    workflow.add("root.prepare-driver", "SUCCEEDED", 1, 9, ("root.prepare",))
    workflow.add("root.prepare", state, 10, end, ("root.prepare.executor",))
    return workflow.add("root.prepare.executor", state, 10, end)


@pytest.mark.parametrize(
    ("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)], ids=["empty", "a", "foobar"]
)
def test_ids_are_fnv_1a_hashes(text: str, value: int) -> None:
    # The published test vectors of the hash.
    assert node_id("run-x7", text) == f"run-x7-{value}"


def test_before_anything_runs() -> None:
    steps = _steps(Workflow("run-x7"))
    assert list(steps) == ["prepare", "worth-it/promote", "shards/encode"], "after what they depend on"
    assert {step.state for step in steps.values()} == {""}


def test_the_order_is_the_pipelines_whatever_the_servers() -> None:
    package = package_from_file(GOLDEN_FILE)

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    other = Package(turned(package.specification), package.platforms)
    run = _run(Workflow("run-x7"))
    names = [step.name for step in steps_of(run, package)]
    assert names == [step.name for step in steps_of(run, other)]
    ends = [name.rpartition("/")[2] for name in names]
    assert len(set(ends)) == len(ends), "nodes are told apart by these names"
    order = ["prepare-data", "extract-teacher", "fit-quantizer", "encode-ci", "merge-ci", "train-student", "evaluate"]
    positions = [ends.index(name) for name in [*order, "gate", "promote", "notify"]]
    assert positions == sorted(positions)


def test_a_step_that_runs() -> None:
    step = _steps(_prepare(Workflow("run-x7"), "RUNNING", None))["prepare"]
    assert (step.state, step.ended, step.retries, step.cached) == ("RUNNING", None, 0, 0)


def test_a_step_that_is_done() -> None:
    step = _steps(_prepare(Workflow("run-x7")))["prepare"]
    assert step.state == "SUCCEEDED"
    assert step.started is not None
    assert step.ended is not None
    assert step.ended - step.started == timedelta(seconds=50)


@pytest.mark.parametrize(("driver", "state"), [("RUNNING", "PENDING"), ("SUCCEEDED", "PENDING"), ("FAILED", "FAILED")])
def test_a_driver_speaks_for_its_step_until_that_begins(driver: str, state: str) -> None:
    workflow = Workflow("run-x7").add("root.prepare-driver", driver, 1, 9)
    assert _steps(workflow)["prepare"].state == state


def test_skipped_and_omitted_steps() -> None:
    workflow = _prepare(Workflow("run-x7"))
    workflow.add("root.condition-3-driver", "SUCCEEDED", 61, 65, ("root.condition-3",))
    workflow.add("root.condition-3", "SKIPPED", 65, 65)
    assert _steps(workflow)["worth-it/promote"].state == "", "its branch was not taken: it has no node"
    workflow.add("root.condition-3.promote-driver", None, 66, 66).add("root.condition-3.promote", None, 66, 66)
    assert _steps(workflow)["worth-it/promote"].state == "SKIPPED"


def test_cached_steps_and_only_they() -> None:
    workflow = Workflow("run-x7")
    workflow.add("root.prepare-driver", "SUCCEEDED", 1, 9, ("root.prepare",))
    workflow.add("root.prepare", "SUCCEEDED", 10, 10, ("root.prepare.executor",))
    workflow.add("root.prepare.executor", "SKIPPED", 10, 10)
    workflow.add("root.condition-3.promote-driver", "SUCCEEDED", 11, 19, ("root.condition-3.promote",))
    workflow.add("root.condition-3.promote", "SUCCEEDED", 20, 50, ("root.condition-3.promote.executor",))
    workflow.add("root.condition-3.promote.executor", "SUCCEEDED", 20, 50)
    steps = _steps(workflow)
    assert steps["prepare"].cached == 1
    assert steps["worth-it/promote"].cached == 0


def test_what_was_quick_is_not_cached() -> None:
    workflow = Workflow("run-x7")
    workflow.add("root.prepare", "SUCCEEDED", 10, 10, ("root.prepare.executor",))
    workflow.add("root.prepare.executor", "SUCCEEDED", 10, 10)
    workflow.add("root.condition-3.promote.executor", "SKIPPED", 30, 30)
    assert _steps(workflow)["prepare"].cached == 0


def _loop(workflow: Workflow, *states: str, attempts: int = 1) -> Workflow:
    loop = "root.for-loop-2"
    passes = [f"{loop}.iteration-iterations({number}:{number})" for number in range(len(states))]
    workflow.add(loop, "RUNNING", 61, None, (f"{loop}.iteration-driver",))
    workflow.add(f"{loop}.iteration-driver", "SUCCEEDED", 61, 65, (f"{loop}.iteration-iterations",))
    workflow.add(f"{loop}.iteration-iterations", "RUNNING", 66, None, tuple(passes))
    for number, state in enumerate(states):
        inside = f"{passes[number]}.iteration-item"
        end = None if state == "RUNNING" else 100 + number
        workflow.add(passes[number], state, 66, end, (f"{passes[number]}.iteration-item-driver",))
        workflow.add(f"{inside}-driver", "SUCCEEDED", 66, 69, (inside,))
        workflow.add(inside, state, 70, end, (f"{inside}.encode-driver",))
        workflow.add(f"{inside}.encode-driver", "SUCCEEDED", 70, 75, (f"{inside}.encode",))
        workflow.add(f"{inside}.encode", state, 76 + number, end, (f"{inside}.encode.executor",))
        tries = attempts if number == len(states) - 1 else 1
        names = tuple(f"{inside}.encode.executor({attempt})" for attempt in range(tries))
        workflow.add(f"{inside}.encode.executor", state, 76, end, names)
        for name in names:
            workflow.add(name, state if name == names[-1] else "FAILED", 76, end)
    return workflow


def test_repetitions_of_a_loop_are_one_step() -> None:
    step = _steps(_loop(_prepare(Workflow("run-x7")), "SUCCEEDED", "RUNNING", "SUCCEEDED"))["shards/encode"]
    assert step.states == ("SUCCEEDED", "RUNNING", "SUCCEEDED")
    assert (step.state, step.ended, step.retries) == ("RUNNING", None, 0)
    done = _steps(_loop(_prepare(Workflow("run-x7")), "SUCCEEDED", "SUCCEEDED"))["shards/encode"]
    assert done.started is not None
    assert done.ended is not None
    assert done.ended - done.started == timedelta(seconds=25), "from the first beginning to the last end"
    failed = _steps(_loop(_prepare(Workflow("run-x7")), "SUCCEEDED", "FAILED", "RUNNING"))["shards/encode"]
    assert failed.state == "FAILED"


def test_retries_belong_to_the_step_that_was_retried() -> None:
    workflow = _prepare(Workflow("run-x7"))
    steps = _steps(_loop(workflow, "SUCCEEDED", "SUCCEEDED", "SUCCEEDED", attempts=3))
    assert {name: step.retries for name, step in steps.items()} == {
        "prepare": 0,
        "shards/encode": 2,
        "worth-it/promote": 0,
    }


def test_errors_are_shown_where_the_server_has_any() -> None:
    workflow = _prepare(Workflow("run-x7"), "FAILED")
    workflow.nodes[2]["error"] = {"code": 2, "message": "OOMKilled (exit code 137)"}
    assert _steps(workflow)["prepare"].error == "OOMKilled (exit code 137)"
