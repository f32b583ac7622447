"""`mvqkd pipeline schedule`: one schedule a name, never two that fire, whatever is interrupted."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.client import Connection
from tests.kfp_http import serving
from tests.kfp_server import Fault, KfpServer
from tests.pipeline_cli import Cli, isolate
from tests.small_pipeline import small_text

NIGHTLY = ("--cron", "0 0 2 * * *")


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


def _only(server: KfpServer) -> dict[str, Any]:
    (item,) = server.recurring.values()
    return item


def _writes(server: KfpServer) -> list[str]:
    """What was done to schedules: methods and what follows the id."""
    writes = [request for request in server.requests if request.method != "GET" and "/recurringruns" in request.path]
    return [f"{item.method} {item.path.rpartition(':')[2] if ':' in item.path else ''}".strip() for item in writes]


def test_creating(cli: Cli, server: KfpServer) -> None:
    result = cli.schedule(*NIGHTLY, "--set", "num_shards=8", "--service-account", "mvqkd-pipeline")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[1] == "schedule nightly: created, enabled"
    assert lines[2].startswith("next: ")
    assert lines[2].count(" 02:00:00") == 3
    (request,) = server.asked("POST", "/recurringruns")
    (pipeline_id,), (version_id,), (experiment_id,) = server.pipelines, server.versions, server.experiments
    parameters = request.body["runtime_config"].pop("parameters")
    assert request.body == {
        "display_name": "nightly",
        "experiment_id": experiment_id,
        "pipeline_version_reference": {"pipeline_id": pipeline_id, "pipeline_version_id": version_id},
        "runtime_config": {},
        "trigger": {"cron_schedule": {"cron": "0 0 2 * * *"}},
        "mode": "DISABLE",
        "max_concurrency": "1",
        "no_catchup": True,
        "service_account": "mvqkd-pipeline",
    }
    assert parameters["num_shards"] == 8
    assert _writes(server) == ["POST", "POST enable"]
    assert _only(server)["status"] == "ENABLED"


def test_the_same_again_changes_nothing(cli: Cli, server: KfpServer) -> None:
    cli.schedule(*NIGHTLY)
    before = server.writes()
    again = cli.schedule("--cron", "0  0 2 * *  *")
    assert "schedule nightly: unchanged, enabled" in again.out
    assert server.writes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cron", "0 0 3 * * *"),
        (*NIGHTLY, "--max-concurrency", "2"),
        (*NIGHTLY, "--set", "num_shards=3"),
        (*NIGHTLY, "--service-account", "other"),
        (*NIGHTLY, "--pipeline-root", "s3://other"),
        (*NIGHTLY, "--experiment", "other"),
        (*NIGHTLY, "--no-cache"),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_changing(cli: Cli, server: KfpServer, arguments: tuple[str, ...]) -> None:
    cli.schedule(*NIGHTLY)
    old = _only(server)["recurring_run_id"]
    server.requests.clear()
    result = cli.schedule(*arguments)
    assert "schedule nightly: updated, enabled" in result.out
    assert _writes(server) == ["POST", "POST disable", "POST enable", "DELETE"]
    assert _only(server)["recurring_run_id"] != old
    assert server.enabled_together == 1
    assert server.propagation == {old: "ORPHAN"}, "a run of the old one that is under way goes on"
    assert "unchanged" in cli.schedule(*arguments).out


def test_a_new_version_of_the_pipeline_is_a_change(cli: Cli, server: KfpServer) -> None:
    cli.schedule(*NIGHTLY)
    old = _only(server)["pipeline_version_reference"]["pipeline_version_id"]
    cli.package.write_text(small_text(memory="2Gi"), encoding="utf-8")
    assert "updated" in cli.schedule(*NIGHTLY).out
    new = _only(server)["pipeline_version_reference"]["pipeline_version_id"]
    assert new != old
    assert new in server.versions


@pytest.mark.parametrize(
    "by_hand",
    [
        {"no_catchup": False},
        {"trigger": {"periodic_schedule": {"interval_second": "86400"}}},
        {"trigger": {"cron_schedule": {"cron": "0 0 2 * * *", "end_time": "2026-04-01T00:00:00Z"}}},
    ],
    ids=["catch-up", "interval", "end"],
)
def test_what_was_changed_by_hand_is_set_right(cli: Cli, server: KfpServer, by_hand: dict[str, Any]) -> None:
    cli.schedule(*NIGHTLY)
    _only(server).update(by_hand)
    assert "updated" in cli.schedule(*NIGHTLY).out
    assert _only(server)["no_catchup"] is True
    assert _only(server)["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}


@pytest.mark.parametrize("carried_out", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/recurringruns"),
        ("POST", "/recurringruns/[^/]+:disable"),
        ("POST", "/recurringruns/[^/]+:enable"),
        ("DELETE", "/recurringruns/[^/]+"),
    ],
    ids=["create", "disable", "enable", "delete"],
)
def test_an_interrupted_change_never_leaves_two_that_fire_and_is_ended_later(
    cli: Cli, server: KfpServer, method: str, path: str, carried_out: bool
) -> None:
    cli.schedule(*NIGHTLY)
    change = ("--cron", "0 0 3 * * *", "--set", "num_shards=3")
    server.faults.append(Fault(method, path, status=500, carried_out=carried_out))
    broken = cli.schedule(*change)
    assert broken.code == 1
    assert "HTTP 500" in broken.err
    assert cli.schedule(*change).code == 0
    assert _only(server)["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert _only(server)["status"] == "ENABLED"
    assert server.enabled_together == 1
    assert "unchanged" in cli.schedule(*change).out


def test_somebody_else_deleted_the_old_one(cli: Cli, server: KfpServer) -> None:
    cli.schedule(*NIGHTLY)
    body = json.dumps({"code": 5, "message": "Job x not found", "details": []})
    server.faults.append(Fault("DELETE", "/recurringruns/[^/]+", status=404, body=body, carried_out=True))
    assert cli.schedule("--cron", "0 0 3 * * *").code == 0
    assert _only(server)["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


def test_two_that_somebody_else_left_become_one(cli: Cli, server: KfpServer) -> None:
    cli.schedule(*NIGHTLY)
    changes = {
        "recurring_run_id": "twin",
        "status": "DISABLED",
        "mode": "DISABLE",
        "created_at": "2020-01-01T00:00:00Z",
    }
    server.recurring["twin"] = _only(server) | changes
    refused = cli.schedule("--enable")
    assert refused.code == 1
    assert "expected one of that name, got 2: a change of it was interrupted" in refused.err
    server.requests.clear()
    assert "updated, enabled" in cli.schedule(*NIGHTLY).out
    assert _writes(server) == ["DELETE"], "the one that fires is left alone"
    assert _only(server)["recurring_run_id"] != "twin"


def test_enabling_disabling_deleting(cli: Cli, server: KfpServer) -> None:
    created = cli.schedule("weekly", "--cron", "0 30 4 * * SUN", "--disabled")
    assert "schedule weekly: created, disabled" in created.out
    assert _only(server)["status"] == "DISABLED"
    assert "schedule weekly: enabled" in cli.schedule("weekly", "--enable").out
    assert _only(server)["status"] == "ENABLED"
    assert "schedule weekly: disabled; runs that have begun go on" in cli.schedule("weekly", "--disable").out
    assert _only(server)["status"] == "DISABLED"
    before = _writes(server)
    assert cli.schedule("weekly", "--disable").code == 0
    assert _writes(server) == before
    identity = _only(server)["recurring_run_id"]
    assert "schedule weekly: deleted; its runs stay" in cli.schedule("weekly", "--delete").out
    assert server.recurring == {}
    assert server.propagation == {identity: "ORPHAN"}
    missing = cli.schedule("weekly", "--delete")
    assert missing.code == 1
    assert "schedule weekly: expected a schedule of that name, got none at all; see `mvqkd pipeline" in missing.err


def test_listing(cli: Cli, server: KfpServer) -> None:
    assert f"{server.url} has no schedule of this pipeline" in cli.schedule("--list").out
    cli.schedule("weekly", "--cron", "0 30 4 * * SUN", "--disabled")
    cli.schedule(*NIGHTLY)
    for item in server.recurring.values():
        if item["display_name"] == "weekly":
            item["trigger"] = {"cron_schedule": {"cron": "30 4 * * 0"}}  # made by hand, with five fields
    (version,) = server.versions
    nightly, weekly = cli.schedule("--list").out.splitlines()
    assert nightly.startswith(f"nightly: enabled, cron '0 0 2 * * *', at most 1 at a time, version {version}, next 20")
    assert nightly.endswith(" 02:00:00 UTC")
    assert weekly == f"weekly: disabled, cron '30 4 * * 0', at most 1 at a time, version {version}"


def test_another_pipelines_schedule_of_the_same_name_is_left_alone(cli: Cli, server: KfpServer) -> None:
    cli.schedule(*NIGHTLY)
    foreign = {
        **_only(server),
        "recurring_run_id": "foreign",
        "pipeline_version_reference": {"pipeline_id": "other", "pipeline_version_id": "other"},
    }
    server.recurring["foreign"] = dict(foreign)
    assert cli.schedule("--cron", "0 0 3 * * *").code == 0
    assert cli.schedule("--delete").code == 0
    assert server.recurring == {"foreign": foreign}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cron", "0 2 * * *"), "write the second first: --cron '0 0 2 * * *'"),
        ((*NIGHTLY, "--max-concurrency", "0"), "expected 1 to 10 runs at the same time, got 0"),
        ((*NIGHTLY, "--set", "num_shard=1"), "nearest: num_shards"),
    ],
)
def test_what_makes_no_sense_never_reaches_the_server(
    cli: Cli, server: KfpServer, arguments: tuple[str, ...], words: str
) -> None:
    result = cli.schedule(*arguments)
    assert result.code == 1
    assert words in result.err
    assert server.requests == []


def test_one_thing_at_a_time(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("--list", "--delete")):
        with pytest.raises(SystemExit) as caught:
            cli.schedule(*arguments)
        assert caught.value.code == 2
        assert "usage: mvqkd pipeline schedule" in capsys.readouterr().err
