"""Two who promote at once, in processes of their own: one wins, the other is told so, and the log shows both."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.mlflow_store import connect
from mvqkd.adapters.registry import champion_bundle
from mvqkd.adapters.registry_change import standing
from mvqkd.adapters.registry_review import history, rollback
from mvqkd.artifacts import load_artifact
from mvqkd.testing.lineage import Lineage, make_lineage
from tests.judging import judge
from tests.registry_store import embedded_store, publish

NUM_RACERS = 2


def racer(talk: Connection, start: Any, number: int, folder: Path) -> None:
    """A process: promotes its lineage to every model that it is told of, at the same moment as the others."""
    os.chdir(folder)
    from mvqkd.adapters import registry_log
    from mvqkd.config import PromoteConfig
    from mvqkd.errors import RegistryError

    lineage = make_lineage(folder / f"racer-{number}", wer=0.3 - number / 100, variant=f"racer {number}")
    judge(lineage)
    real = registry_log.append
    while (task := talk.recv()) is not None:
        model, meets_at_the_log = task

        def append(*arguments: Any, **named: Any) -> int:
            start.wait(60)
            return real(*arguments, **named)

        registry_log.append = append if meets_at_the_log else real
        if not meets_at_the_log:
            start.wait(60)
        try:
            record = publish(lineage, config=PromoteConfig(model_name=model))
            talk.send((record["version"], lineage.bundle.id, ""))
        except RegistryError as error:
            talk.send((None, lineage.bundle.id, str(error)))
        except threading.BrokenBarrierError:
            talk.send((None, lineage.bundle.id, "the other never came"))


def race(folder: Path, repetitions: int) -> None:
    """Let two processes promote against no champion, each time to a new model."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(NUM_RACERS)
    pipes = [context.Pipe() for _ in range(NUM_RACERS)]
    processes = [
        context.Process(target=racer, args=(theirs, start, number, folder)) for number, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    lost_late = 0
    try:
        for repetition in range(repetitions):
            model = f"race-{repetition}"
            # Every other time they meet right before they write the log, when both have found that all is well.
            for ours, _ in pipes:
                ours.send((model, repetition % 2 == 0))
            results: list[Any] = []
            for ours, _ in pipes:
                assert ours.poll(150), f"a racer is stuck in {model}; the other: {results}"
                results.append(ours.recv())
            assert sorted(result[0] is None for result in results) == [False, True], (
                f"{repetition}: {results[0]} / {results[1]}"
            )
            winner, loser = sorted(results, key=lambda result: result[0] is None)
            lost_late += "audit entry" in loser[2]
            assert "is champion since entry 1" in loser[2] or "there since entry 1 by" in loser[2], loser[2]
            assert "re-run `mvqkd gate`" in loser[2]
            rows = history(model).rows
            assert [(entry.action, outcome.verdict) for entry, outcome in rows] == [
                ("promote", "done"),
                ("promote", "lost"),
            ]
            assert {entry.bundle_id for entry, _ in rows} == {winner[1], loser[1]}
            now = standing(connect(), model)
            assert now.aliases["champion"] == now.state.champion == winner[0]
            assert not now.is_pending
            bundle = champion_bundle(model)
            assert bundle is not None
            assert load_artifact(bundle).id == winner[1]
    finally:
        for ours, _ in pipes:
            ours.send(None)
        for process in processes:
            process.join(60)
            process.kill()
    assert lost_late >= repetitions // 2, "the race was never at its closest"


def test_one_of_two_promotions_at_once_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_store(tmp_path, monkeypatch)
    race(tmp_path, repetitions=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_of_two_promotions_at_once_wins_a_hundred_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_store(tmp_path, monkeypatch)
    race(tmp_path, repetitions=100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call", ["delete_registered_model_alias", "set_registered_model_alias", "set_model_version_tag"]
)
def test_a_process_that_is_killed_amid_a_rollback_leaves_nothing_locked(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_store(tmp_path, monkeypatch)
    model = "mvqkd-student"
    made: list[Lineage] = []
    for number, wer in enumerate((0.5, 0.4, 0.3), start=1):
        made.append(make_lineage(tmp_path / str(number), wer=wer, variant=str(number)))
        judge(made[-1], champion=champion_bundle(model))
        publish(made[-1])
    if call.startswith("delete"):
        rollback(model, why="so that the next one has no previous champion to name")
    script = f"""
        import os, signal
        from mvqkd.adapters.mlflow_store import connect, import_mlflow
        from mvqkd.adapters.registry_review import rollback

        def dies(*arguments, **named):
            os.kill(os.getpid(), signal.SIGKILL)

        import_mlflow().MlflowClient.{call} = dies
        rollback({model!r}, why="in a hurry")
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    entries = len(history(model).rows)
    expected = 1 if call.startswith("delete") else 2
    assert history(model).champion == expected
    new = make_lineage(tmp_path / "new", wer=0.1, variant="new")
    judge(new, champion=champion_bundle(model))
    record = publish(new)
    assert record["aliases"] == {"challenger": 4, "champion": 4, "previous": expected}
    assert len(history(model).rows) == entries + 1
