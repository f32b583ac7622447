"""What people do with registered versions, on a real store in sqlite: approve, reject, roll back, read the log."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import soundfile

from mvqkd.adapters import registry_change, registry_log
from mvqkd.adapters.mlflow_store import connect
from mvqkd.adapters.registry import champion_bundle, resolve_bundle
from mvqkd.adapters.registry_change import standing
from mvqkd.adapters.registry_log import TAG_ENTRY, new_entry
from mvqkd.adapters.registry_page import TAG_REVIEW
from mvqkd.adapters.registry_review import approve, reject, rollback
from mvqkd.adapters.registry_review import history as read_history
from mvqkd.artifacts import ArtifactCorruptError, load_artifact
from mvqkd.cli import approve as approve_command
from mvqkd.cli import history as history_command
from mvqkd.cli import reject as reject_command
from mvqkd.cli import rollback as rollback_command
from mvqkd.cli.main import run
from mvqkd.config import PromoteConfig
from mvqkd.errors import RegistryError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.testing.lineage import Lineage, make_lineage
from mvqkd.testing.tones import make_tone_bundle, say
from tests.judging import judge
from tests.registry_store import MODEL, embedded_store, publish


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return embedded_store(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Lineage]]:
    """A store in which three versions became champion one after the other, each better than the one before."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as monkeypatch:
        database = embedded_store(folder, monkeypatch)
        return database, champions(folder, 0.5, 0.4, 0.3)


@pytest.fixture
def three(done: tuple[Path, list[Lineage]], store: Path) -> list[Lineage]:
    """A copy of that store's records; the files of its versions stay where they are, and are only read."""
    shutil.copyfile(done[0], store)
    return done[1]


def command(module: ModuleType, *words: str) -> int:
    """Run a subcommand as the command line does."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    code: int = module.run(parser.parse_args(words))
    return code


def champions(folder: Path, *wers: float) -> list[Lineage]:
    """Lineages, each better than the one before, judged and promoted one after the other."""
    made = []
    for number, wer in enumerate(wers, start=1):
        lineage = make_lineage(folder / f"lineage-{number}", wer=wer, variant=f"{number}")
        judge(lineage, champion=champion_bundle(MODEL))
        assert publish(lineage)["aliases"]["champion"] == number
        made.append(lineage)
    return made


def aliases() -> dict[str, int]:
    return dict(standing(connect(), MODEL).aliases)


def test_rollback_goes_back_champion_by_champion(three: list[Lineage], capsys: pytest.CaptureFixture[str]) -> None:
    assert aliases() == {"challenger": 3, "champion": 3, "previous": 2}
    assert command(rollback_command, "--reason", "it mumbles") == 0
    assert "version 2 is champion again, in place of version 3 (audit entry 4)" in capsys.readouterr().out
    assert aliases() == {"challenger": 3, "champion": 2, "previous": 1}
    assert load_artifact(resolve_bundle(f"models:/{MODEL}@champion")).id == three[1].bundle.id
    assert connect().get_model_version(MODEL, "3").description.startswith("REVIEW: rolled back in entry 4 by ")
    assert command(rollback_command, "--model", MODEL) == 0
    assert aliases() == {"challenger": 3, "champion": 1}
    with pytest.raises(RegistryError, match="nobody has rejected or deleted, got none"):
        rollback(MODEL, why="further")
    # Forward again only by name.
    rollback(MODEL, to=3, why="it did not")
    assert aliases() == {"challenger": 3, "champion": 3, "previous": 1}
    with pytest.raises(RegistryError, match="got version 3, champion already"):
        rollback(MODEL, to=3, why="again")
    with pytest.raises(RegistryError, match="expected a version 9, got none"):
        rollback(MODEL, to=9, why="a slip")


def test_running_the_pipeline_again_does_not_undo_a_rollback(
    three: list[Lineage], caplog: pytest.LogCaptureFixture
) -> None:
    rollback(MODEL, why="it mumbles")
    with caplog.at_level(logging.WARNING):
        record = publish(three[2])
    assert record["aliases"]["champion"] == 2
    assert record["audit_entry"] == 3
    assert "its promotion, entry 3, was undone since, and stays so" in caplog.text
    assert len(read_history(MODEL).rows) == 4
    with pytest.raises(RegistryError, match="one carried out in entry 3 and undone since"):
        approve(f"models:/{MODEL}/3", why="I like it")


def test_a_rejected_version_does_not_become_champion(
    three: list[Lineage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = make_lineage(tmp_path / "new", wer=0.1, variant="new")
    judge(new, champion=three[2].bundle.path)
    publish(new, config=PromoteConfig(approval="reviewer"))
    assert command(reject_command, "--reason", "trained on\nthe <b>test</b> set") == 0
    assert "version 4 will not become champion (audit entry 4); champion is version 3" in capsys.readouterr().out
    for attempt in (lambda: publish(new), lambda: approve(f"models:/{MODEL}/4", why="never mind")):
        with pytest.raises(RegistryError, match=r"rejected in entry 4|that nobody has rejected it"):
            attempt()
    with pytest.raises(RegistryError, match="one rejected in entry 4"):
        reject(f"models:/{MODEL}/4", why="twice")
    with pytest.raises(RegistryError, match="the champion, version 3; `mvqkd rollback"):
        reject(f"models:/{MODEL}@champion", why="a slip")
    assert aliases()["champion"] == 3
    version = connect().get_model_version(MODEL, "4")
    assert version.tags[TAG_REVIEW].startswith("rejected in entry 4 by ")
    assert version.tags[TAG_REVIEW].endswith(": trained on the <b>test</b> set")
    head, _, rest = version.description.partition("\n\n")
    assert head.startswith("REVIEW: rejected in entry 4 by ")
    assert head.endswith(": trained on the &lt;b&gt;test&lt;/b&gt; set")
    assert rest.startswith("PROMOTE, WER 10.00 %: ")
    assert command(approve_command, f"models:/{MODEL}/4", "--reason", "it was not", "--force") == 0
    assert aliases() == {"challenger": 4, "champion": 4, "previous": 3}
    head, _, rest = connect().get_model_version(MODEL, "4").description.partition("\n\n")
    assert head.startswith("REVIEW: approved in entry 6 by ")
    assert rest.startswith("PROMOTE, ")


def test_rejecting_the_only_champion_does_not_send_one_in_a_circle(store: Path) -> None:
    lineage = make_lineage(store.parent / "only", wer=0.3)
    judge(lineage)
    publish(lineage)
    with pytest.raises(RegistryError, match="promote another first: it is the only one"):
        reject(f"models:/{MODEL}@champion", why="a slip")
    with pytest.raises(RegistryError, match="an earlier champion that nobody has rejected or deleted, got none"):
        rollback(MODEL, why="a slip")


def test_a_reviewer_s_word_can_be_required(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = PromoteConfig(approval="reviewer")
    first = make_lineage(store.parent / "first", wer=0.5, variant="first")
    judge(first)
    record = publish(first, config=asked)
    assert record["decision"] == "promote"
    assert record["aliases"] == {"challenger": 1}
    assert record["audit_entry"] is None
    assert connect().get_model_version(MODEL, "1").tags["mvqkd.awaits"] == "approval"
    assert command(approve_command, "--reason", "listened to it") == 0
    assert capsys.readouterr().out == f"approve: {MODEL} version 1 is champion (audit entry 1)\n"
    assert connect().get_model_version(MODEL, "1").tags["mvqkd.awaits"] == "nothing"
    # Judged against nobody, this one is out of date by now.
    late = make_lineage(store.parent / "late", wer=0.4, variant="late")
    judge(late)
    publish(late, config=asked)
    with pytest.raises(RegistryError, match=r"today's champion, version 1 .* got one with no champion"):
        approve(f"models:/{MODEL}@challenger", why="better")
    # And of this one the gate thinks nothing.
    bad = make_lineage(store.parent / "bad", wer=0.9, variant="bad")
    judge(bad, champion=first.bundle.path)
    publish(bad, config=asked)
    with pytest.raises(RegistryError, match=r"a decision of the gate to promote it, got .* worse"):
        approve(f"models:/{MODEL}/3", why="better")
    assert aliases()["champion"] == 1


def test_history_tells_who_what_when_and_why(
    three: list[Lineage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = make_lineage(tmp_path / "late", wer=0.2, variant="late")
    judge(late, champion=three[1].bundle.path)
    for _ in range(2):  # an orchestrator's second attempt is not a second entry
        with pytest.raises(RegistryError, match=r"version 3 .*, there since entry 3 by "):
            publish(late)
    rollback(MODEL, why="it\x1b[31m mumbles")
    capsys.readouterr()
    assert command(history_command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    stamp = r" +\d  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  "
    assert re.match(stamp + r"promote version 1 \(champion was none\) by \S+, decision [0-9a-f]{12}: ", lines[0])
    assert re.match(stamp + r"promote version 3 \(champion was 2\) by ", lines[2])
    assert lines[3].endswith("-> LOST: version 3 is champion since entry 3, not version 2")
    assert re.match(stamp + r"rollback version 2 \(champion was 3\) by \S+: it \[31m mumbles$", lines[4])
    assert lines[5] == f"{MODEL}: champion is version 2; `mvqkd rollback` would restore version 1"
    assert command(history_command, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["outcome"]["verdict"] for row in record["entries"]] == ["done", "done", "done", "lost", "done"]
    assert record["entries"][3]["bundle_id"] == late.bundle.id


def test_nothing_has_happened_yet(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(history_command) == 0
    assert capsys.readouterr().out == f"{MODEL}: no champion\n"
    with pytest.raises(RegistryError, match=r"version none: expected an earlier champion .* got none"):
        rollback(MODEL, why="a slip")
    store.unlink()
    assert command(history_command) == 0
    with pytest.raises(RegistryError, match="a model registry here, got none"):
        rollback(MODEL, why="a slip")
    assert not store.exists()


def test_a_log_that_somebody_changed_says_so(three: list[Lineage], capsys: pytest.CaptureFixture[str]) -> None:
    client, name = connect(), f"{MODEL}{registry_log.SUFFIX}"
    assert command(history_command) == 0
    entry = json.loads(client.get_model_version(name, "2").tags[TAG_ENTRY])
    client.set_model_version_tag(name, "2", TAG_ENTRY, json.dumps({**entry, "who": "nobody"}))
    assert command(history_command) == 1
    assert "WARNING: entries 2 to 2 are not what they were when entry 3 was written" in capsys.readouterr().out
    client.delete_model_version(name, "2")
    client.create_model_version(name, f"models:/{MODEL}/1")
    assert command(history_command) == 1
    shown = capsys.readouterr().out
    assert "WARNING: entry 2 has been deleted; do not trust the log" in shown
    assert "WARNING: entry 4 cannot be read and counts for nothing" in shown


def test_an_alias_that_was_moved_by_hand_is_recorded_and_holds(three: list[Lineage], tmp_path: Path) -> None:
    client = connect()
    client.set_registered_model_alias(MODEL, "champion", "1")
    assert read_history(MODEL).champion == 1
    new = make_lineage(tmp_path / "new", wer=0.1, variant="new")
    judge(new, champion=champion_bundle(MODEL))
    publish(new)
    rows = read_history(MODEL).rows
    assert [(row.action, row.version, row.champion) for row, _ in rows[3:]] == [("outside", 1, 3), ("promote", 4, 1)]
    client.delete_registered_model_alias(MODEL, "champion")
    late = make_lineage(tmp_path / "late", wer=0.3, variant="late")
    judge(late)
    assert publish(late)["aliases"] == {"challenger": 5, "champion": 5, "previous": 4}


def test_a_champion_that_was_deleted_by_hand_is_gone_back_from(three: list[Lineage]) -> None:
    client = connect()
    for version in ("3", "2"):
        client.delete_model_version(MODEL, version)
    assert champion_bundle(MODEL) is None
    assert rollback(MODEL, why="somebody tidied up").entry.version == 1
    assert aliases() == {"champion": 1}


def test_a_registry_that_is_older_than_its_log(three: list[Lineage]) -> None:
    connect().delete_registered_model(f"{MODEL}{registry_log.SUFFIX}")
    assert aliases() == {"challenger": 3, "champion": 3, "previous": 2}
    assert read_history(MODEL).previous == 2
    rollback(MODEL, why="as before there was a log")
    assert aliases() == {"challenger": 3, "champion": 2}
    assert [row.action for row, _ in read_history(MODEL).rows] == ["outside", "outside", "rollback"]


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_promoter_that_dies_is_finished_by_the_next_to_come(
    moment: int, three: list[Lineage], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = registry_change._set_alias, []

    def dies(*arguments: object) -> None:
        if len(calls) == moment:
            raise KeyboardInterrupt
        calls.append(arguments)
        real(*arguments)

    with monkeypatch.context() as dying:
        dying.setattr(registry_change, "_set_alias", dies)
        if moment == 2:
            dying.setattr(registry_log, "mark_applied", dies)
        with pytest.raises(KeyboardInterrupt):
            rollback(MODEL, why="in a hurry")
    assert aliases()["champion"] == (2 if moment == 2 else 3)
    # Readers follow the log at once, also those that may not write.
    found = champion_bundle(MODEL)
    assert found is not None
    assert load_artifact(found).id == three[1].bundle.id
    reject(f"models:/{MODEL}/3", why="whoever comes next")
    assert aliases() == {"challenger": 3, "champion": 2, "previous": 1}
    assert [outcome.verdict for _, outcome in read_history(MODEL).rows] == ["done"] * 5


def test_an_answer_that_gets_lost_is_not_a_second_entry(three: list[Lineage]) -> None:
    client = connect()
    real = client.create_model_version

    def loses_its_answer(*arguments: object, **named: object) -> None:
        real(*arguments, **named)
        raise OSError("the line went dead")

    entry = new_entry("rollback", version=2, champion=3, why="")
    client.create_model_version = loses_its_answer
    written, outcome, _ = registry_change.carry_out(client, MODEL, entry)
    assert (written.number, outcome.verdict) == (4, "done")
    assert len(read_history(MODEL).rows) == 4


def test_a_damaged_version_is_not_rolled_back_to(store: Path) -> None:
    champions(store.parent, 0.5, 0.4)
    old = resolve_bundle(f"models:/{MODEL}/1")
    (old / "encoder.onnx").write_bytes(b"x" * (old / "encoder.onnx").stat().st_size)
    with pytest.raises(ArtifactCorruptError, match=r"encoder\.onnx"):
        rollback(MODEL, why="a bad day")
    assert aliases()["champion"] == 2


def test_transcribing_follows_a_rollback(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two bundles that really transcribe, the second one in small letters."""
    client = connect()
    experiment = client.create_experiment("tones", str(store.parent / "mlartifacts"))
    client.create_registered_model(MODEL)
    from mvqkd.adapters.registration import make_version
    from mvqkd.adapters.tracking import LoggedRun
    from mvqkd.artifacts import PartialArtifact

    upper = make_tone_bundle(store.parent / "upper")
    partial = PartialArtifact(store.parent / "lower", "onnx-bundle", stage="export-onnx", config={"lower": True})
    shutil.copytree(upper.path, partial.path, dirs_exist_ok=True)
    tokens = (partial.path / "tokens.txt").read_text()
    (partial.path / "tokens.txt").write_text(re.sub(r"^([A-D]) ", lambda match: match[0].lower(), tokens, flags=re.M))
    (partial.path / "artifact.json").unlink()
    for number, bundle in enumerate((upper, partial.commit()), start=1):
        run_id = client.create_run(experiment).info.run_id
        logged = LoggedRun(run_id, experiment, reused=False, adopted=False)
        make_version(client, MODEL, bundle, logged, tags={"mvqkd.bundle_id": bundle.id})
        entry = new_entry("promote", version=number, champion=number - 1 or None, why="")
        assert registry_change.carry_out(client, MODEL, entry)[1].verdict == "done"
    soundfile.write("speech.wav", say("ABC DA"), SAMPLE_RATE_HZ)

    def text() -> str:
        assert run(["transcribe", "--bundle", f"models:/{MODEL}@champion", "speech.wav"]) == 0
        return capsys.readouterr().out.strip().rpartition("\t")[2]

    assert text().endswith("abc da")
    assert command(rollback_command) == 0
    capsys.readouterr()
    assert text().endswith("ABC DA")
