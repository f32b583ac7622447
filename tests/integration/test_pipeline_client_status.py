"""`mvqkd pipeline status`: the table of steps, exit codes, and waiting for the end."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.client import Connection, connect
from pipelines.status import wait
from tests.argo_nodes import Workflow
from tests.kfp_http import serving
from tests.kfp_server import Fault, KfpServer
from tests.pipeline_cli import Cli, isolate
from tests.small_pipeline import small_text

RUN = r"/runs/[^/]+"


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with serving(KfpServer()) as memory:
        yield memory


@pytest.fixture
def cli(server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr("pipelines.commands.Connection", functools.partial(Connection, pause_s=0.0))
    package = tmp_path / "small.yaml"
    package.write_text(small_text(), encoding="utf-8")
    return Cli(server, package, capsys)


def _halfway(loop_state: str, end: int | None) -> Workflow:
    """prepare came from the cache; of two shards one is done, the other was tried twice."""
    loop = "root.for-loop-2"
    inside = [f"{loop}.iteration-iterations({number}:{number}).iteration-item" for number in range(2)]
    tries = tuple(f"{inside[1]}.encode.executor({number})" for number in range(2))
    passes = tuple(name.rpartition(".")[0] for name in inside)
    workflow = Workflow("mvqkd-distill-x7k2p")
    workflow.add("root", "RUNNING", 0, None, ("root.prepare-driver",))
    workflow.add("root.prepare-driver", "SUCCEEDED", 1, 8, ("root.prepare",))
    workflow.add("root.prepare", "SUCCEEDED", 9, 9, ("root.prepare.executor",))
    workflow.add("root.prepare.executor", "SKIPPED", 9, 9)
    workflow.add(f"{loop}.iteration-iterations", "RUNNING", 20, None, passes)
    workflow.add(f"{inside[0]}.encode-driver", "SUCCEEDED", 20, 25, (f"{inside[0]}.encode",))
    workflow.add(f"{inside[0]}.encode", "SUCCEEDED", 26, 86, (f"{inside[0]}.encode.executor",))
    workflow.add(f"{inside[0]}.encode.executor", "SUCCEEDED", 26, 86, (f"{inside[0]}.encode.executor(0)",))
    workflow.add(f"{inside[1]}.encode-driver", "SUCCEEDED", 20, 25, (f"{inside[1]}.encode",))
    workflow.add(f"{inside[1]}.encode", loop_state, 26, end, (f"{inside[1]}.encode.executor",))
    return workflow.add(f"{inside[1]}.encode.executor", loop_state, 26, end, tries)


def test_a_failed_run(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    server.set_run(
        run_id,
        state="FAILED",
        created_at="2026-03-02T01:00:00Z",
        finished_at="2026-03-02T02:01:05Z",
        run_details=_halfway("FAILED", 146).details(),
        state_history=[{"state": "FAILED", "error": {"code": 2, "message": "OOMKilled\n(exit code 137)"}}],
    )
    result = cli.status(run_id)
    assert result.code == 3
    assert result.out.splitlines() == [
        f"run {run_id} {server.runs[run_id]['display_name']}: FAILED, 1:01:05",
        "",
        "step              state      duration  notes",
        "prepare           SUCCEEDED  0:00:00   cached",
        "worth-it/promote  not run",
        "shards/encode     FAILED     0:02:00   1 of 2 done, 1 retry",
        "",
        "first failed: shards/encode",
        "error: OOMKilled (exit code 137)",
        f"logs: kubectl logs -l pipeline/runid={run_id} -c main --prefix --tail 50",
        "",
        f"{server.url}/#/runs/details/{run_id}",
    ]


def test_json(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    server.set_run(run_id, state="FAILED", run_details=_halfway("FAILED", 146).details())
    result = cli.status(run_id, "--json")
    assert result.code == 3
    answer = json.loads(result.out)
    assert (answer["run_id"], answer["state"], answer["error"]) == (run_id, "FAILED", None)
    assert answer["first_failed_step"] == "shards/encode"
    assert answer["finished_at"] is None, "1970 is no time"
    assert answer["steps"][2] == {
        "name": "shards/encode",
        "state": "FAILED",
        "repetitions": 2,
        "succeeded": 1,
        "started_at": "2026-03-02T01:00:26+00:00",
        "ended_at": "2026-03-02T01:02:26+00:00",
        "duration_s": 120.0,
        "retries": 1,
        "cached": 0,
    }


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("SUCCEEDED", 0),
        ("FAILED", 3),
        ("CANCELED", 3),
        ("SKIPPED", 3),
        ("PENDING", 4),
        ("RUNNING", 4),
        ("CANCELING", 4),
    ],
)
def test_exit_codes(cli: Cli, server: KfpServer, state: str, code: int) -> None:
    run_id = cli.submit().run_id()
    server.set_run(run_id, state=state)
    result = cli.status(run_id)
    assert result.code == code
    assert f": {state}," in result.out
    assert ("logs: kubectl" in result.out) == (code == 3)


def test_the_latest_run_and_runs_by_name(cli: Cli, server: KfpServer) -> None:
    first = cli.submit("--run-name", "tuesday").run_id()
    second = cli.submit("--force").run_id()
    server.runs["another pipeline"] = {
        **server.runs[second],
        "created_at": "2027-01-01T00:00:00Z",
        "pipeline_version_reference": {"pipeline_id": "other", "pipeline_version_id": "other"},
    }
    assert cli.status().run_id() == second
    assert cli.status("tuesday").run_id() == first
    missing = cli.status("wednesday")
    assert missing.code == 1
    assert "experiment mvqkd: expected a run of mvqkd-distill called wednesday, got none; start one with" in missing.err
    assert "experiment other: expected a run of mvqkd-distill, got none" in cli.status("--experiment", "other").err


def test_a_run_that_is_not_there(cli: Cli) -> None:
    result = cli.status("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    assert result.code == 1
    assert "got HTTP 404 Not Found: Run 6ba7b810-9dad-11d1-80b4-00c04fd430c8 not found" in result.err


def test_a_version_that_was_deleted_costs_the_table_only(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    server.set_run(run_id, state="SUCCEEDED")
    server.versions.clear()
    result = cli.status(run_id)
    assert result.code == 0
    assert ": SUCCEEDED," in result.out


def test_the_namespace_is_where_to_look_for_logs(cli: Cli) -> None:
    with serving(KfpServer(multi_user=True)) as server:
        cli.server = server
        run_id = cli.submit("--namespace", "team-a").run_id()
        server.set_run(run_id, state="FAILED")
        assert "logs: kubectl logs -n team-a -l pipeline/runid=" in cli.status(run_id, "--namespace", "team-a").out


def _later(*changes: Callable[[], None]) -> threading.Thread:
    def act() -> None:
        for change in changes:
            time.sleep(0.15)
            change()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_waiting_tells_what_happens(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    server.set_run(run_id, state="RUNNING", run_details=_halfway("RUNNING", None).details())
    done = _halfway("SUCCEEDED", 146).details()
    thread = _later(lambda: server.set_run(run_id, state="SUCCEEDED", run_details=done))
    result = cli.submit("--wait", "--poll-s", "0.02")
    thread.join()
    assert result.code == 0
    assert [line.partition(" ")[2] for line in result.err.splitlines()] == [
        "prepare: SUCCEEDED",
        "shards/encode: RUNNING, 1 of 2 done",
        "shards/encode: SUCCEEDED, 2 of 2 done",
    ]
    assert f"run {run_id}: RUNNING with the same version" in result.out
    assert ": SUCCEEDED," in result.out
    assert len(server.asked("GET", "/pipelines/[^/]+/versions/[^/]+")) == 1, "the pipeline is read once"


def test_waiting_ends_with_a_failure(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    thread = _later(lambda: server.set_run(run_id, state="FAILED"))
    result = cli.status("--wait", "--poll-s", "0.02", "--json")
    thread.join()
    assert result.code == 3
    assert json.loads(result.out)["state"] == "FAILED", "progress stays out of the JSON"


def test_waiting_has_an_end(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    started = time.monotonic()
    result = cli.status(run_id, "--wait", "--wait-timeout-s", "0.3", "--poll-s", "5")
    assert time.monotonic() - started < 3
    assert result.code == 4
    assert result.err == f"run {run_id}: not ended after 0.3 s; it goes on\n"


def test_a_server_that_restarts_does_not_end_the_waiting(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    client = connect(Connection(server.url, attempts=1))
    server.faults += [Fault("GET", RUN, times=0), Fault("GET", RUN, times=0)]
    told: list[str] = []

    def restart() -> None:
        server.faults.append(Fault("GET", RUN, times=5, status=503))

    thread = _later(restart, lambda: server.set_run(run_id, state="SUCCEEDED"))
    found = wait(client, run_id, timeout_s=None, poll_s=0.02, tell=told.append)
    thread.join()
    assert found.state == "SUCCEEDED"
    assert len(told) == 1
    assert "HTTP 503" in told[0]
    assert told[0].endswith("(waiting on)")


def test_a_refusal_ends_the_waiting(cli: Cli, server: KfpServer) -> None:
    run_id = cli.submit().run_id()
    client = connect(Connection(server.url, attempts=1))
    thread = _later(lambda: server.faults.append(Fault("GET", RUN, times=1, status=401)))
    with pytest.raises(Exception, match="HTTP 401"):
        wait(client, run_id, timeout_s=5, poll_s=0.02, tell=lambda line: None)
    thread.join()
