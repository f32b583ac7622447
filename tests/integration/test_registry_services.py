"""The registry on a server as in production: PostgreSQL, S3 that checks signatures, logins; clients hold no S3 keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from mvqkd.adapters.mlflow_store import StoreError, connect
from mvqkd.adapters.registry import champion_bundle, resolve_bundle
from mvqkd.adapters.registry_change import standing
from mvqkd.adapters.registry_review import approve, history, reject, rollback
from mvqkd.adapters.sync import sync
from mvqkd.artifacts import load_artifact
from mvqkd.config import PromoteConfig
from mvqkd.errors import ArtifactCorruptError, RegistryError
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.lineage import Lineage, make_lineage
from tests.integration.test_registry_race import race
from tests.judging import judge
from tests.mlflow_services import (
    ADMIN,
    PIPELINE,
    REVIEWER,
    S3_FORGETS_S,
    Services,
    bad_line,
    missing_services,
    running_services,
)
from tests.pipeline_budget import tiny_params
from tests.registry_store import VARIABLES, publish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    if missing := missing_services():
        if os.environ.get("MVQKD_SERVICES") == "1":
            pytest.fail(f"missing: {missing}")
        pytest.skip(f"missing: {missing}")
    with running_services() as services:
        yield services


@pytest.fixture(autouse=True)
def client_of_it(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with an address and a login; nothing else of the environment reaches it."""
    for name in [*VARIABLES, *(name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3")))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    log_in(monkeypatch, PIPELINE)


def log_in(monkeypatch: pytest.MonkeyPatch, user: tuple[str, str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])


def config_for(name: str) -> PromoteConfig:
    return PromoteConfig(model_name=name, experiment=f"experiment of {name}")


def promoted(folder: Path, name: str, wer: float) -> Lineage:
    lineage = make_lineage(folder / f"{name} {wer}", wer=wer, variant=f"{name} {wer}")
    judge(lineage, champion=champion_bundle(name))
    publish(lineage, config=config_for(name))
    return lineage


def aliases(name: str) -> dict[str, int]:
    return dict(standing(connect(), name).aliases)


def objects(services: Services) -> list[Path]:
    return [path for path in services.bucket.rglob("*") if path.is_file()]


def test_log_register_promote_and_roll_back(services: Services, tmp_path: Path) -> None:
    name = "whole way"
    old, new = promoted(tmp_path, name, 0.4), promoted(tmp_path, name, 0.3)
    assert aliases(name) == {"challenger": 2, "champion": 2, "previous": 1}
    assert load_artifact(resolve_bundle(f"models:/{name}@champion")).id == new.bundle.id
    rollback(name, why="it mumbles")
    assert load_artifact(resolve_bundle(f"models:/{name}@champion")).id == old.bundle.id
    rows = history(name).rows
    assert [(entry.action, entry.who, outcome.verdict) for entry, outcome in rows] == [
        ("promote", "pipeline", "done"),
        ("promote", "pipeline", "done"),
        ("rollback", "pipeline", "done"),
    ]
    assert abs(rows[-1][0].time_ms / 1000 - time.time()) < 120
    # The files went to S3, through the server.
    names = {path.name for path in objects(services)}
    assert {"encoder.onnx", "MLmodel", "params.yaml", "lineage.json", "decision.json"} <= names
    version = connect().get_model_version(name, "2")
    assert connect().get_model_version_download_uri(name, "2").startswith("mlflow-artifacts:/")
    assert version.tags["mvqkd.dvc.codebook-indexes"].endswith(".dir")
    found = connect().get_run(version.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["student_wer_onnx"] == 0.3


def test_wrong_password_is_one_line_and_loses_nothing(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "wrong password"
    lineage = make_lineage(tmp_path / "artifacts", variant=name)
    judge(lineage)
    log_in(monkeypatch, (PIPELINE[0], "not-the-phrase"))
    with pytest.raises(StoreError, match=r"check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        publish(lineage, config=config_for(name))
    assert "not-the-phrase" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_PASSWORD"):
        resolve_bundle(f"models:/{name}@champion")
    log_in(monkeypatch, PIPELINE)
    (done,) = sync(lineage.root)
    assert done.delivered is not None
    assert aliases(name) == {"challenger": 1, "champion": 1}


def test_wrong_s3_secret_is_one_line_and_loses_nothing(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "wrong secret"
    lineage = make_lineage(tmp_path / "artifacts", variant=name)
    judge(lineage)
    before = len(objects(services))
    with services.another(AWS_SECRET_ACCESS_KEY="wrong-and-not-to-be-shown") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(StoreError, match=r"keys and bucket of its file store.*`mvqkd sync`") as caught:
            publish(lineage, config=config_for(name))
        assert "wrong-and-not-to-be-shown" not in str(caught.value)
    assert len(objects(services)) == before
    # The server is gone with that: the next attempt finds nobody.
    with pytest.raises(StoreError, match=r"Connection refused.*|no answer"):
        sync(lineage.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.url)
    (done,) = sync(lineage.root)
    assert done.delivered is not None
    assert load_artifact(resolve_bundle(f"models:/{name}@champion")).id == lineage.bundle.id


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_server_that_goes_down_in_mid_stage(
    share: float, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"down at {share}"
    with bad_line(services.url) as line:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", line.url)
        line.fate = lambda _number, _method, _path: 0.01  # slow, which costs time and nothing else
        promoted(tmp_path, f"{name}, slow", 0.3)
        last = int(share * len(line.requests))
        line.requests.clear()
        lineage = make_lineage(tmp_path / "artifacts", variant=name)
        judge(lineage)
        line.fate = lambda number, _method, _path: "refuse" if number > last else "pass"
        with pytest.raises(StoreError, match="nothing is lost"):
            publish(lineage, config=config_for(name))
        # Back at the same address: MLflow remembers in a process where a run's files go.
        line.fate = lambda _number, _method, _path: "pass"
        assert len(sync(lineage.root)) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services.url)
    client = connect()
    experiment = client.get_experiment_by_name(config_for(name).experiment).experiment_id
    assert sorted(run.info.status for run in client.search_runs([experiment])) == ["FINISHED"] * 9
    assert [outcome.verdict for _, outcome in history(name).rows] == ["done"]
    assert len(client.search_model_versions(f"name = '{name}'")) == 1


def test_who_may_do_what(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server's manifest grants everybody is reading; deciding takes EDIT on the model and on its log."""
    name = "reviewed"
    old, _ = promoted(tmp_path, name, 0.4), promoted(tmp_path, name, 0.3)
    log_in(monkeypatch, REVIEWER)
    assert history(name).champion == 2
    with pytest.raises(StoreError, match=r"ask who runs the server for EDIT"):
        rollback(name, why="I am not allowed to")
    assert aliases(name)["champion"] == 2
    for model in (name, f"{name}.audit"):
        what = {"resource_type": "registered_model", "resource_id": model, "permission": "EDIT"}
        grant, path = {**what, "username": REVIEWER[0]}, "/api/3.0/mlflow/users/permissions/grant"
        assert services.call(path, grant, user=ADMIN)["status"] == 200
    rollback(name, why="it mumbles")
    assert load_artifact(resolve_bundle(f"models:/{name}@champion")).id == old.bundle.id
    reject(f"models:/{name}/2", why="it mumbles")
    log_in(monkeypatch, PIPELINE)
    new = make_lineage(tmp_path / "new", wer=0.1, variant=f"{name} new")
    judge(new, champion=champion_bundle(name))
    publish(new, config=PromoteConfig(**{**config_for(name).model_dump(), "approval": "reviewer"}))
    assert history(name).previous is None
    log_in(monkeypatch, REVIEWER)
    approve(f"models:/{name}@challenger", why="listened to it")
    assert aliases(name) == {"challenger": 3, "champion": 3, "previous": 1}
    who = [(entry.action, entry.who) for entry, _ in history(name).rows]
    assert who[2:] == [("rollback", "reviewer"), ("reject", "reviewer"), ("promote", "reviewer")]


def test_a_byte_that_changed_on_s3_is_refused(services: Services, tmp_path: Path) -> None:
    name = "tampered"
    promoted(tmp_path, name, 0.4)
    lineage = promoted(tmp_path, name, 0.3)
    content = (lineage.bundle.path / "encoder.onnx").read_bytes()
    (stored,) = [path for path in objects(services) if path.name == "encoder.onnx" and path.read_bytes() == content]
    bundle = resolve_bundle(f"models:/{name}@champion")
    stored.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert resolve_bundle(f"models:/{name}@champion") == bundle, "the verified copy is still good"
    for path in sorted(bundle.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    bundle.rmdir()
    with pytest.raises(ArtifactCorruptError, match=r"encoder\.onnx"):
        resolve_bundle(f"models:/{name}@champion")
    # A pickle that was put beside the bundle is refused, too, and is not opened.
    stored.write_bytes(content)
    (stored.parents[1] / "model.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    time.sleep(S3_FORGETS_S + 0.5)
    with pytest.raises(RegistryError, match=r"model\.pkl'.*can run code"):
        resolve_bundle(f"models:/{name}@champion")
    rollback(name, why="its files were changed")
    assert aliases(name)["champion"] == 1


def test_promotions_at_once(services: Services, tmp_path: Path) -> None:
    race(tmp_path, repetitions=4)


def test_a_student_from_speech_to_transcript(services: Services, tmp_path: Path) -> None:
    """The pipeline on a tiny corpus, by the command line, in processes of its own."""
    manifest = make_corpus(tmp_path / "corpus", num_utterances=24)
    params = tiny_params(manifest)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "mvqkd", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    for stage in ("prepare-data", "extract-teacher", "fit-quantizer", "encode-ci", "train-student", "evaluate"):
        command(stage)
    command("export-onnx")
    command("gate")
    assert "model_version 1" in command("promote")
    recording = next((tmp_path / "corpus" / "audio").glob("*.wav"))
    assert soundfile.info(recording).samplerate == 16_000
    by_name = command("transcribe", "--bundle", "models:/tiny@champion", str(recording))
    assert by_name == command("transcribe", "--bundle", "artifacts/bundle", str(recording))
    promotion: dict[str, Any] = json.loads((tmp_path / "artifacts" / "promotion" / "promotion.json").read_text())
    tags = connect().get_model_version("tiny", "1").tags
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", tags["mvqkd.dvc.codebook-indexes"])
    nested = connect().search_runs(
        [connect().get_run(promotion["run_id"]).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{promotion['run_id']}'",
    )
    assert len(nested) == 8
    train = next(run for run in nested if run.info.run_name == "train-student")
    assert len(connect().get_metric_history(train.info.run_id, "loss")) > 1
