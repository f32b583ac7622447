"""A server that goes down, loses answers or is slow: nothing of a student is lost, and nothing is delivered twice."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.mlflow_server import serve
from mvqkd.adapters.mlflow_store import StoreError, connect
from mvqkd.adapters.registry import resolve_bundle
from mvqkd.adapters.registry_review import history
from mvqkd.adapters.run_records import TAG_ID
from mvqkd.adapters.sync import sync
from mvqkd.artifacts import load_artifact
from mvqkd.cli import sync as sync_command
from mvqkd.config import PromoteConfig
from mvqkd.errors import ArtifactCorruptError, RegistryError
from mvqkd.testing.lineage import Lineage, make_lineage
from tests.judging import judge
from tests.mlflow_services import Fate, Line, bad_line
from tests.registry_store import VARIABLES, embedded_store, fresh_database, publish


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A server on a store of its own, behind a line that tests make bad."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(fresh_database(), folder / "mlflow.db")
    with serve(f"sqlite:///{folder}/mlflow.db", 0) as server, bad_line(server.url) as line:
        yield line


@pytest.fixture
def remote(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", line.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    line.requests.clear()
    yield line
    line.fate = lambda _number, _method, _path: "pass"


@dataclass(frozen=True)
class Told:
    """All that a store has been told of one model."""

    runs: list[tuple[str, str]]
    points: int
    versions: list[str]
    aliases: dict[str, int]
    entries: list[tuple[str, str]]


def told(config: PromoteConfig) -> Told:
    client = connect()
    experiment = client.get_experiment_by_name(config.experiment)
    runs = client.search_runs([experiment.experiment_id])
    trained = [run for run in runs if run.info.run_name == "train-student"]
    versions = client.search_model_versions(f"name = '{config.model_name}'")
    model = client.get_registered_model(config.model_name)
    return Told(
        sorted((run.info.run_name, run.info.status) for run in runs),
        sum(len(client.get_metric_history(run.info.run_id, "loss")) for run in trained),
        [str(version.version) for version in versions],
        {alias: int(number) for alias, number in model.aliases.items()},
        [(entry.action, outcome.verdict) for entry, outcome in history(config.model_name).rows],
    )


def config_for(name: str) -> PromoteConfig:
    """Names of the test's own on a server that tests share."""
    return PromoteConfig(model_name=name, experiment=f"experiment of {name}")


ONCE = Told(
    [
        *(("encode-ci", "FINISHED"), ("evaluate", "FINISHED"), ("export-onnx", "FINISHED")),
        *(("extract-teacher", "FINISHED"), ("fit-quantizer", "FINISHED"), ("gate", "FINISHED")),
        *(("prepare-data", "FINISHED"), ("student", "FINISHED"), ("train-student", "FINISHED")),
    ],
    6,
    ["1"],
    {"challenger": 1, "champion": 1},
    [("promote", "done")],
)


def assert_told_once(config: PromoteConfig, *, but: str = "") -> None:
    """Everything is there once; ``but``: entries of the audit log with this verdict do not count."""
    found = told(config)
    runs = [(name.partition(" ")[0], status) for name, status in found.runs]
    entries = [entry for entry in found.entries if entry[1] != but]
    assert Told(runs, found.points, found.versions, found.aliases, entries) == ONCE
    client = connect()
    (version,) = client.search_model_versions(f"name = '{config.model_name}'")
    assert "report.html" in [item.path for item in client.list_artifacts(version.run_id)]


def judged(folder: Path, variant: str = "one") -> Lineage:
    lineage = make_lineage(folder / "artifacts", wer=0.25, variant=variant)
    judge(lineage)
    return lineage


def count_requests(line: Line, folder: Path) -> list[str]:
    """What an undisturbed promotion asks for."""
    publish(judged(folder / "undisturbed", "undisturbed"), config=config_for("undisturbed"))
    return list(line.requests)


def interrupted(line: Line, folder: Path, name: str, at: float, fate: Fate, *, is_outage: bool) -> None:
    """Promote while the line fails at a share of the way, then sync over a good one."""
    if not hasattr(interrupted, "total"):
        interrupted.total = len(count_requests(line, folder))
        line.requests.clear()
    position = max(1, int(at * interrupted.total))
    lineage, config = judged(folder, name), config_for(name)
    line.fate = lambda number, _method, _path: (
        fate if number == position or (is_outage and number > position) else "pass"
    )
    with pytest.raises(StoreError, match=r"nothing is lost: `mvqkd sync` delivers what lies in .*/\.spool/"):
        publish(lineage, config=config)
    assert not (lineage.root / "promotion").exists()
    line.fate = lambda _number, _method, _path: "pass"
    # The next run of the pipeline has taken the place of this one's artifacts.
    for artifact in (lineage.student, lineage.bundle, lineage.wer_report, lineage.codebook_indexes, lineage.data):
        shutil.rmtree(artifact.path)
    (done,) = sync(lineage.root)
    assert done.delivered is not None
    assert done.delivered.version == 1
    assert sync(lineage.root) == []
    assert_told_once(config)
    assert load_artifact(resolve_bundle(f"models:/{name}@champion")).id == lineage.bundle.id
    promotion = load_artifact(lineage.root / "promotion", "promotion")
    assert promotion.figures["mlflow_run_id"] == done.delivered.run_id
    (run,) = connect().search_runs(
        [connect().get_experiment_by_name(config.experiment).experiment_id],
        f"tags.`{TAG_ID}` = '{lineage.student.id}'",
    )
    assert run.data.tags["mvqkd.uri"] == lineage.student.path.as_uri(), "where it was, not where it waited"


@pytest.mark.parametrize("at", [0.6])
def test_a_server_that_goes_down_amid_promote_is_told_later(at: float, remote: Line, tmp_path: Path) -> None:
    interrupted(remote, tmp_path, f"down-{at}", at, "refuse", is_outage=True)


@pytest.mark.slow
@pytest.mark.parametrize("at", [number / 24 for number in range(24)])
@pytest.mark.parametrize("fate", ["refuse", "lose answer"])
def test_a_line_that_fails_anywhere_delivers_once(at: float, fate: Fate, remote: Line, tmp_path: Path) -> None:
    interrupted(remote, tmp_path, f"{fate} {at:.3f}", at, fate, is_outage=fate == "refuse")


@pytest.mark.parametrize("every", [pytest.param(29), pytest.param(7, marks=pytest.mark.slow)])
def test_answers_that_get_lost_are_asked_for_again_and_nothing_is_there_twice(
    every: int, remote: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    lineage, config = judged(tmp_path, f"lossy {every}"), config_for(f"lossy {every}")
    remote.fate = lambda number, _method, _path: "lose answer" if number % every == 0 else "pass"
    publish(lineage, config=config)
    remote.fate = lambda _number, _method, _path: "pass"
    assert len(remote.requests) > 2 * every
    # The log only ever grows: an entry that was sent again stands there twice and counts once.
    assert_told_once(config, but="repeated")
    assert not (lineage.root / ".spool").exists()


def test_a_server_that_says_nothing_is_waited_for_so_long_and_no_longer(
    remote: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    lineage = judged(tmp_path, "slow")
    remote.fate = lambda _number, _method, _path: 6.0
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"[Rr]ead timed out.*nothing is lost"):
        publish(lineage, config=config_for("slow"))
    assert time.monotonic() - started < 5
    # Slow, but not too slow: it takes its time and succeeds.
    remote.fate = lambda _number, _method, _path: 0.005
    (done,) = sync(lineage.root)
    assert done.delivered is not None


@pytest.mark.slow
def test_promoting_again_is_as_good_as_sync(remote: Line, tmp_path: Path) -> None:
    lineage, config = judged(tmp_path, "again"), config_for("again")
    remote.fate = lambda number, _method, _path: "refuse" if number > 40 else "pass"
    with pytest.raises(StoreError):
        publish(lineage, config=config)
    assert len(list((lineage.root / ".spool").glob("*/delivery.json"))) == 1
    remote.fate = lambda _number, _method, _path: "pass"
    publish(lineage, config=config)
    assert list((lineage.root / ".spool").glob("*/delivery.json")) == []
    assert sync(lineage.root) == []
    assert_told_once(config)


def run_sync(*words: str) -> int:
    parser = argparse.ArgumentParser()
    sync_command.add_arguments(parser)
    return sync_command.run(parser.parse_args(words))


def spooled(lineage: Lineage, monkeypatch: pytest.MonkeyPatch, **others: Any) -> Path:
    """Promote to a server that is not there."""
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
        down.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(StoreError) as caught:
            publish(lineage, **others)
    assert "s3cret" not in str(caught.value)
    (kept,) = (lineage.root / ".spool").glob(f"{load_artifact(lineage.root / 'decision').short_id}/delivery.json")
    return kept.parent


def test_what_waits_for_too_long_is_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded_store(tmp_path, monkeypatch)
    late = judged(tmp_path / "late", "late")
    kept = spooled(late, monkeypatch)
    winner = judged(tmp_path / "winner", "winner")
    publish(winner)
    assert run_sync("--artifacts-dir", str(late.root)) == 1
    shown = capsys.readouterr().out
    assert "refused, and kept: promotion-decision" in shown
    assert "re-run `mvqkd gate`" in shown
    assert (kept / "artifacts").exists() or (kept / "onnx-bundle" / "encoder.onnx").is_file()
    assert run_sync("--artifacts-dir", str(late.root)) == 0
    assert capsys.readouterr().out == "sync: nothing waits\n"
    assert history("mvqkd-student").champion == 1


def test_several_wait_in_order_and_the_newest_result_stays_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded_store(tmp_path, monkeypatch)
    first = judged(tmp_path, "first")
    spooled(first, monkeypatch)
    time.sleep(1.1)  # artifacts tell time by the second
    second = make_lineage(tmp_path / "artifacts", wer=0.1, variant="second")
    judge(second, champion=None)
    monkeypatch.setenv("MVQKD_SPOOL_DIR", str(first.root / ".spool"))
    spooled(second, monkeypatch, config=PromoteConfig(approval="reviewer"))
    assert run_sync("--artifacts-dir", "elsewhere") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" version ")[2].partition(",")[0] for line in lines] == ["1", "2"]
    promotion = json.loads((second.root / "promotion" / "promotion.json").read_text())
    assert promotion["version"] == 2
    assert promotion["aliases"] == {"challenger": 2, "champion": 1}


def test_a_damaged_delivery_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_store(tmp_path, monkeypatch)
    lineage = judged(tmp_path, "damaged")
    kept = spooled(lineage, monkeypatch)
    record = json.loads((kept / "student-checkpoint" / "artifact.json").read_text())
    record["facts"]["objective"] = "none"
    (kept / "student-checkpoint" / "artifact.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactCorruptError, match="run `mvqkd promote` again"):
        sync(lineage.root)
    graph = kept / "onnx-bundle" / "encoder.onnx"
    assert graph.stat().st_ino == (lineage.bundle.path / "encoder.onnx").stat().st_ino, "kept without a copy"


def test_one_sync_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_store(tmp_path, monkeypatch)
    lineage = judged(tmp_path, "alone")
    spooled(lineage, monkeypatch)
    holder = f"""
        import fcntl, sys, time
        stream = open({str(lineage.root / ".spool" / ".lock")!r}, "w")
        fcntl.flock(stream, fcntl.LOCK_EX)
        print("held", flush=True)
        sys.stdin.read()
    """
    code = "\n".join(line.strip() for line in holder.splitlines())
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RegistryError, match="got another `mvqkd sync`"):
            sync(lineage.root)
    finally:
        other.stdin.close()
        other.wait(30)
        other.stdout.close()
    assert len(sync(lineage.root)) == 1
