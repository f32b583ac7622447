"""gate and promote on a real MLflow store in sqlite."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.mlflow_store import connect, import_mlflow
from mvqkd.adapters.registry import champion_bundle, champion_to_beat, resolve_bundle
from mvqkd.adapters.registry_change import TAG_PREVIOUS_CHAMPION
from mvqkd.adapters.run_records import TAG_ID
from mvqkd.adapters.tracking import experiment_id
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.cli.main import run
from mvqkd.config import GateConfig
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, RegistryError
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_lineage
from tests.judging import further, judge
from tests.registry_store import MODEL, embedded_store, publish


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return embedded_store(tmp_path, monkeypatch)


def nested_runs(client: Any, run_id: str) -> dict[str, Any]:
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.info.run_name: run for run in found}


def test_one_run_with_a_nested_run_a_stage(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts", wer=0.25, history_rows=50)
    decision = judge(lineage)
    record = publish(lineage)

    client = connect()
    parent = client.get_run(record["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["train-student.model.encoder_dim"] == "144"
    assert parent.data.metrics["student_wer_onnx"] == 0.25
    assert parent.data.metrics["student_wer_torch"] == 0.30
    assert "champion_wer" not in parent.data.metrics
    assert parent.data.tags["mvqkd.decision"] == "promote"
    assert {item.dataset.name for item in parent.inputs.dataset_inputs} == {"asterisk train", "asterisk test"}

    # Its page, for those who look at the run and for those who look at the artifact.
    page = (lineage.root / "promotion" / "report.html").read_text(encoding="utf-8")
    assert "<h1" in page
    assert "There is no champion" in page
    assert import_mlflow().artifacts.load_text(f"runs:/{record['run_id']}/report.html") == page

    nested = nested_runs(client, record["run_id"])
    stages = [lineage.data, lineage.teacher_embeddings, lineage.quantizer, lineage.codebook_indexes]
    stages += [lineage.student, lineage.wer_report, lineage.bundle, decision]
    assert set(nested) == {stage.stage for stage in stages}
    for stage in stages:
        run = nested[stage.stage]
        assert run.info.status == "FINISHED"
        assert run.data.tags[TAG_ID] == stage.id
        assert run.data.tags["mvqkd.kind"] == stage.kind
        for kind, parent_id in stage.parents.items():
            assert run.data.tags[f"mvqkd.parent.{kind}"] == parent_id
        assert run.data.metrics["wall_s"] == stage.wall_s
        assert run.info.end_time - run.info.start_time == pytest.approx(1000 * stage.wall_s, abs=1)
    student = nested["train-student"]
    assert student.data.params["objective"] == "mvq"
    assert student.data.metrics["num_parameters"] == 1_234_567
    curve = client.get_metric_history(student.info.run_id, "loss")
    assert [point.step for point in curve] == [20 * i for i in range(1, 51)]
    assert [point.value for point in curve] == pytest.approx([9.0 / i for i in range(1, 51)])


def test_artifacts_go_by_reference(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    record = publish(lineage)
    client = connect()
    copied = {
        file.path
        for run in [client.get_run(record["run_id"]), *nested_runs(client, record["run_id"]).values()]
        for folder in client.list_artifacts(run.info.run_id)
        for file in client.list_artifacts(run.info.run_id, folder.path)
    }
    assert "codebook-indexes/artifact.json" in copied
    assert "wer-report/wer.json" in copied
    assert {path for path in copied if not path.endswith(".json")} == {"lineage/params.yaml"}


def test_version_carries_the_bundle_and_its_lineage(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts", wer=0.25)
    decision = judge(lineage)
    record = publish(lineage)
    assert record["version"] == 1
    assert record["aliases"] == {"challenger": 1, "champion": 1}
    assert record["previous_champion"] is None

    version = connect().get_model_version(MODEL, "1")
    assert version.run_id == record["run_id"]
    assert version.tags["mvqkd.wer"] == "0.25"
    assert version.tags["mvqkd.decision_id"] == decision.id
    assert version.tags["mvqkd.test_set_sha256"] == "a" * 64
    assert version.tags["mvqkd.codebook-indexes"] == lineage.codebook_indexes.id
    assert version.description.startswith("PROMOTE, WER 25.00 %: ")
    assert "| this version&emsp; | 25.00 %&emsp; | 22.0 to 28.0 %&emsp; |" in version.description

    for found in (champion_bundle(MODEL), resolve_bundle(f"models:/{MODEL}@champion")):
        assert found is not None
        assert load_artifact(found, "onnx-bundle").id == lineage.bundle.id
        assert lineage.root not in found.parents
    assert resolve_bundle(f"models:/{MODEL}/1") == champion_bundle(MODEL)
    assert resolve_bundle(str(lineage.bundle.path)) == lineage.bundle.path


def test_doing_it_again_changes_nothing(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    first = publish(lineage)
    client = connect()
    experiment = client.get_run(first["run_id"]).info.experiment_id
    before = {run.info.run_id: len(run.data.metrics) for run in client.search_runs([experiment])}
    assert publish(lineage) == first
    after = {run.info.run_id: len(run.data.metrics) for run in client.search_runs([experiment])}
    assert after == before
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 1


def test_killed_in_the_middle_goes_on_in_the_same_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    client_class = import_mlflow().MlflowClient
    real, calls = client_class.set_terminated, []

    def dies_at_the_third(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *args, **kwargs)

    monkeypatch.setattr(client_class, "set_terminated", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        publish(lineage)
    monkeypatch.undo()
    monkeypatch.chdir(store.parent)

    client = connect()
    record = publish(lineage)
    experiment = client.get_run(record["run_id"]).info.experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 9
    assert {run.info.status for run in runs} == {"FINISHED"}
    loss = next(run for run in runs if run.info.run_name == "train-student").info.run_id
    assert len(client.get_metric_history(loss, "loss")) == 6


def test_better_challenger_takes_over_and_the_old_champion_is_kept(store: Path) -> None:
    old = make_lineage(store.parent / "old", wer=0.30, variant="old")
    judge(old)
    publish(old)
    new = make_lineage(store.parent / "new", wer=0.20, variant="new")
    judge(new, champion=champion_bundle(MODEL))
    record = publish(new)
    assert record["version"] == 2
    assert record["aliases"] == {"challenger": 2, "champion": 2, "previous": 1}
    assert record["previous_champion"] == 1
    assert connect().get_run(record["run_id"]).data.metrics["champion_wer"] == 0.30
    assert connect().get_model_version(MODEL, "2").tags[TAG_PREVIOUS_CHAMPION] == "1"
    assert load_artifact(resolve_bundle(f"models:/{MODEL}@previous")).id == old.bundle.id
    # The page compares with the champion that the gate saw, also when it is made again after the change of champion.
    page = (new.root / "promotion" / "report.html").read_text(encoding="utf-8")
    assert "lower in 100" in page
    assert "not at hand" not in page
    publish(new)
    assert (new.root / "promotion" / "report.html").read_text(encoding="utf-8") == page


def test_a_further_test_set_is_compared_with_what_the_champion_s_version_carries(store: Path) -> None:
    def judged(lineage: Lineage, far: float) -> Artifact:
        with champion_to_beat(MODEL) as (champion, reports):
            others = [further(lineage, far), *reports]
            return judge(lineage, champion=champion, other_reports=others)

    old = make_lineage(store.parent / "old", wer=0.30, variant="old")
    judged(old, 0.40)
    assert publish(old)["decision"] == "promote"
    champion = champion_bundle(MODEL)
    assert champion is not None, "files of further reports belong to the version"
    # Without being given the champion's report: it comes from the registry.
    new = make_lineage(store.parent / "new", wer=0.20, variant="new")
    decision = judged(new, 0.42)
    assert decision.figures["reason"].startswith("not worse, far: 42.00 % is worse than the champion's 40.00 %")
    assert publish(new)["decision"] == "reject"
    # The command does the same.
    far = str(further(new, 0.41))
    assert run(["gate", "--artifacts-dir", str(new.root), "--other-report", far]) == 0
    reason = load_artifact(new.root / "decision").figures["reason"]
    assert reason.startswith("not worse, far: 41.00 % is worse than the champion's 40.00 %")
    # One byte of such a report is noticed like any other.
    (file,) = champion.parents[1].glob("lineage/reports/*/wer.json")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(RegistryError, match="as its tag states"), champion_to_beat(MODEL):
        pass


def test_an_experiment_that_another_process_has_just_made_is_found(store: Path) -> None:
    client = connect()
    made = experiment_id(client, "new")

    class Early:
        """Has looked before the other process made it."""

        def __init__(self) -> None:
            self.looks = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def get_experiment_by_name(self, name: str) -> Any:
            self.looks += 1
            return None if self.looks == 1 else client.get_experiment_by_name(name)

    assert experiment_id(Early(), "new") == made


def test_page_goes_without_a_champion_that_is_damaged(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = make_lineage(store.parent / "old", wer=0.30, variant="old")
    judge(old)
    publish(old)
    new = make_lineage(store.parent / "new", wer=0.20, variant="new")
    judge(new, champion=old.bundle.path)
    champion = champion_bundle(MODEL)
    assert champion is not None
    (champion / "encoder.onnx").write_bytes(b"changed")
    assert publish(new)["version"] == 2
    assert "the page has no figures of the champion" in caplog.text
    assert "not at hand here" in (new.root / "promotion" / "report.html").read_text(encoding="utf-8")


def test_rejected_challenger_is_registered_and_the_champion_stays(store: Path) -> None:
    old = make_lineage(store.parent / "old", wer=0.20, variant="old")
    judge(old)
    publish(old)
    new = make_lineage(store.parent / "new", wer=0.30, variant="new")
    assert judge(new, champion=champion_bundle(MODEL)).figures["decision"] == "reject"
    record = publish(new)
    assert record["decision"] == "reject"
    assert record["aliases"] == {"challenger": 2, "champion": 1}
    assert connect().get_model_version(MODEL, "2").tags["mvqkd.decision"] == "reject"
    champion = champion_bundle(MODEL)
    assert champion is not None
    assert load_artifact(champion).id == old.bundle.id


def test_decision_that_another_champion_has_overtaken_is_refused(store: Path) -> None:
    late = make_lineage(store.parent / "late", wer=0.30, variant="late")
    judge(late)
    winner = make_lineage(store.parent / "winner", wer=0.10, variant="winner")
    judge(winner)
    publish(winner)
    with pytest.raises(RegistryError, match=r"mvqkd-student version 1 .*got .*no champion; re-run `mvqkd gate"):
        publish(late)
    client = connect()
    assert set(client.get_registered_model(MODEL).aliases) == {"challenger", "champion"}
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 1


def test_injected_run_is_adopted_and_left_open(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    client = connect()
    injected = client.create_run(client.create_experiment("of the orchestrator", str(store.parent / "elsewhere")))
    monkeypatch.setenv("MLFLOW_RUN_ID", injected.info.run_id)
    record = publish(lineage)
    assert record["run_id"] == injected.info.run_id
    assert client.get_run(injected.info.run_id).info.status == "RUNNING"
    assert len(nested_runs(client, injected.info.run_id)) == 8
    assert client.get_experiment_by_name("mvqkd") is None
    assert publish(lineage) == record
    assert len(nested_runs(client, injected.info.run_id)) == 8


def test_student_without_distillation_leaves_foreign_artifacts_out(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts", objective="none")
    gate(GateConfig(), bundle=lineage.bundle.path, wer_report=lineage.wer_report.path, out=lineage.root / "decision")
    record = publish(lineage)
    assert set(nested_runs(connect(), record["run_id"])) == {
        "prepare-data",
        "train-student",
        "evaluate",
        "export-onnx",
        "gate",
    }


def test_indexes_of_another_quantizer_are_refused(store: Path) -> None:
    lineage = make_lineage(store.parent / "one")
    other = make_lineage(store.parent / "two", relative_error=0.5)
    judge(lineage)
    with pytest.raises(ArtifactMismatchError, match=r"codebook-indexes"):
        publish(lineage, codebook_indexes=other.codebook_indexes.path)


def test_unknown_versions_are_answered_with_what_there_is(store: Path) -> None:
    with pytest.raises(RegistryError, match="no registered models"):
        resolve_bundle(f"models:/{MODEL}@champion")
    assert champion_bundle(MODEL) is None
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    publish(lineage)
    for name in ("7", "@serving"):
        uri = f"models:/{MODEL}{name if name.startswith('@') else '/' + name}"
        with pytest.raises(RegistryError, match="versions 1; aliases challenger = 1, champion = 1"):
            resolve_bundle(uri)
    with pytest.raises(RegistryError, match=f"got models {MODEL}"):
        resolve_bundle("models:/other@champion")


def test_registered_files_that_changed_are_refused(store: Path) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    publish(lineage)
    bundle = champion_bundle(MODEL)
    assert bundle is not None
    (bundle / "encoder.onnx").write_bytes(b"x" + (bundle / "encoder.onnx").read_bytes()[1:])
    with pytest.raises(ArtifactCorruptError, match=r"encoder\.onnx"):
        champion_bundle(MODEL)
    # A whole other bundle in its place verifies in itself, but is not what was registered.
    other = make_lineage(store.parent / "other", variant="other")
    shutil.rmtree(bundle)
    shutil.copytree(other.bundle.path, bundle)
    with pytest.raises(RegistryError, match=rf"expected bundle {lineage.bundle.short_id}"):
        resolve_bundle(f"models:/{MODEL}@champion")
    shutil.rmtree(bundle)
    with pytest.raises(RegistryError, match=r"no bundle; restore"):
        champion_bundle(MODEL)


def test_artifacts_that_are_links(tmp_path: Path, store: Path) -> None:
    """DVC with ``cache.type symlink`` leaves files that are links; a person may link whole directories."""
    lineage = make_lineage(tmp_path / "kept")
    for artifact in (lineage.bundle, lineage.wer_report, lineage.student):
        linked = tmp_path / "artifacts" / artifact.path.name
        linked.mkdir(parents=True)
        for path in artifact.path.iterdir():
            (linked / path.name).symlink_to(path)
    whole = tmp_path / "artifacts" / "data"
    whole.symlink_to(lineage.data.path)
    bundle = tmp_path / "artifacts" / lineage.bundle.path.name
    elsewhere = tmp_path / "bundle"
    elsewhere.symlink_to(bundle)
    judge(lineage)
    publish(lineage, data=whole, bundle=elsewhere, student=tmp_path / "artifacts" / lineage.student.path.name)
    found = resolve_bundle(f"models:/{MODEL}@champion")
    assert load_artifact(found).id == lineage.bundle.id
    assert not any(path.is_symlink() for path in found.rglob("*"))


def test_odd_directory_names(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "it's a # 100% odd ünit"
    here.mkdir()
    shutil.copyfile(store, here / "mlflow.db")
    monkeypatch.chdir(here)
    lineage = make_lineage(Path("my artifacts"))
    judge(lineage)
    publish(lineage)
    bundle = champion_bundle(MODEL)
    assert bundle is not None
    assert load_artifact(bundle).id == lineage.bundle.id


def test_fresh_store_is_made_quietly_and_quickly(tmp_path: Path) -> None:
    """In a process of its own, as from the command line: nothing on the terminal, no telemetry, at most 25 CPU s."""
    lineage = make_lineage(tmp_path / "artifacts", history_rows=300)
    judge(lineage)
    script = """
        import logging, os, sys
        logging.basicConfig(level=logging.INFO)
        from mvqkd.cli.main import run
        code = run(["promote"])
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        from mlflow.telemetry.client import get_telemetry_client
        assert get_telemetry_client() is None
        used = os.times()
        print("CPU", used.user + used.system)
        sys.exit(code)
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    line, cpu = result.stdout.strip().splitlines()
    assert line.startswith("promote: promotion ")
    assert "model_version 1" in line
    assert float(cpu.removeprefix("CPU ")) < 25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "mlartifacts", "mlflow.db"]


def test_store_that_cannot_be_written_is_one_line(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    lineage = make_lineage(store.parent / "artifacts")
    judge(lineage)
    (store.parent / "mlartifacts").write_text("a file where the directory should be")
    with caplog.at_level(logging.CRITICAL), pytest.raises(RegistryError) as caught:
        publish(lineage)
    assert "\n" not in str(caught.value)
    assert not (lineage.root / "promotion").exists()
