"""The pipeline as Kubeflow wires it, every component in a process of its own, on a tiny corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import Artifact
from mvqkd.stages import STAGES
from mvqkd.testing.corpus import make_corpus
from pipelines.distill import NAME
from tests.checkout import Checkout
from tests.kfp_run import Artifacts, run_pipeline
from tests.pipeline_budget import tiny_params
from tests.webhook import Webhook, webhook

pytestmark = [
    # kfp looks for "python" in the image's name before it runs a component without an image.
    pytest.mark.filterwarnings("ignore:You may be attemp:RuntimeWarning"),
    # Resources and names for the graph mean nothing to the local runner, and it says so.
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*not supported.*:UserWarning"),
]
NUM_SHARDS = 3
TEST_SPLITS = ["test", "train"]


@pytest.fixture(scope="module")
def heard() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, heard: Webhook) -> Iterator[Path]:
    """A folder with a corpus, in which kfp.local works; the registry lies in it as well."""
    folder = tmp_path_factory.mktemp("kfp")
    make_corpus(folder / "corpus", num_utterances=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("MVQKD_WEBHOOK_URL", heard.url)
        patch.setenv("MVQKD_WEBHOOK_TOKEN", "of-the-test")
        yield folder


def _run(workspace: Path, *, changes: dict[str, dict[str, object]] | None = None, **parameters: Any) -> Artifacts:
    params = tiny_params(workspace / "corpus" / "manifest.jsonl")
    # One shard of encode-ci holds few cuts, so that there is one for every part.
    params["encode-ci"]["shard_cuts"] = 4
    sections = {name: values | (changes or {}).get(name, {}) for name, values in params.items()}
    return run_pipeline(workspace / "runs", sections, **parameters)


@pytest.fixture(scope="module")
def promoted(workspace: Path) -> Artifacts:
    """What a first run leaves: there is no champion yet, and the bounds are wide."""
    remote = str(workspace / "remote")
    return _run(workspace, num_shards=NUM_SHARDS, test_splits=TEST_SPLITS, dvc_remote=remote)


def _whole(artifacts: Artifacts) -> Artifact:
    whole = [artifact for artifact in artifacts["codebook-indexes"] if "world_size" not in artifact.facts]
    assert len({artifact.id for artifact in whole}) == 1, "a single shard is whole, and merges to itself"
    return whole[0]


def test_every_stage_wrote_its_artifact(promoted: Artifacts) -> None:
    # The gate passes on the report that it judged by.
    expected = {"codebook-indexes": NUM_SHARDS + 1, "wer-report": len(TEST_SPLITS) + 1}
    assert {kind: len(artifacts) for kind, artifacts in promoted.items()} == {
        stage.output_kind: expected.get(stage.output_kind, 1) for stage in STAGES.values()
    }


def test_shards_are_encoded_apart_and_merged(promoted: Artifacts) -> None:
    parts = [artifact for artifact in promoted["codebook-indexes"] if "world_size" in artifact.facts]
    assert sorted(artifact.facts["rank"] for artifact in parts) == list(range(NUM_SHARDS))
    assert all(artifact.files.keys() - {"index.json"} for artifact in parts), "no part is empty"
    whole = _whole(promoted)
    assert sum(artifact.facts["num_cuts"] for artifact in parts) == whole.facts["num_cuts"] == 19


def test_every_test_set_is_scored_and_judged(promoted: Artifacts) -> None:
    assert {artifact.facts["split"] for artifact in promoted["wer-report"]} == set(TEST_SPLITS)
    (decision,) = promoted["promotion-decision"]
    checks = json.loads((decision.path / "decision.json").read_text())["checks"]
    assert "absolute WER, train" in [check["name"] for check in checks]
    (other,) = [artifact.id for artifact in promoted["wer-report"] if artifact.facts["split"] == "train"]
    assert decision.facts["other_report_ids"] == [other]


def test_lineage_goes_back_to_the_data(promoted: Artifacts) -> None:
    (bundle,), (student,), (data,) = (promoted[kind] for kind in ("onnx-bundle", "student-checkpoint", "cut-manifest"))
    bundle.require_parent(student)
    student.require_parent(data)
    student.require_parent(_whole(promoted))


def test_sections_reach_their_stages(promoted: Artifacts) -> None:
    assert promoted["quantizer"][0].config["num_codebooks"] == 2
    assert promoted["student-checkpoint"][0].config["model"]["encoder_dim"] == 32
    assert promoted["codebook-indexes"][0].config["mode"] == "exact", "a default, not named in the section"


def test_promote_branch_was_taken(promoted: Artifacts) -> None:
    # kfp.local counts a condition that fails to evaluate as false: look at what the branch did.
    (promotion,) = promoted["promotion"]
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "promote"
    assert record["aliases"]["champion"] == record["version"]


def test_indexes_were_pushed_by_content_id(workspace: Path, promoted: Artifacts) -> None:
    from mvqkd.adapters.dvc_identity import directory_md5, pull

    whole = _whole(promoted)
    back = pull(directory_md5(whole.path), str(workspace / "remote"), workspace / "pulled")
    assert back.id == whole.id


def test_decision_has_a_page(workspace: Path, promoted: Artifacts) -> None:
    (page,) = (promoted["promotion-decision"][0].path.parent).glob("page*")
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert promoted["onnx-bundle"][0].id in text
    assert "absolute WER, train" in text


def test_webhook_hears_of_decision_and_figures(promoted: Artifacts, heard: Webhook) -> None:
    message, token = heard.messages[0], heard.tokens[0]
    assert (message["pipeline"], message["state"], message["decision"]) == (NAME, "SUCCEEDED", "promote")
    assert message["bundle_id"] == promoted["onnx-bundle"][0].id
    decision = promoted["promotion-decision"][0]
    assert message["figures"]["student_wer_onnx"] == pytest.approx(decision.figures["wer"])
    assert token == "Bearer of-the-test"


def test_webhook_hears_of_a_failure(workspace: Path, promoted: Artifacts, heard: Webhook) -> None:
    with pytest.raises(RuntimeError, match="prepare-data"):
        _run(workspace, changes={"prepare-data": {"manifest": "nowhere.jsonl"}})
    message = heard.messages[-1]
    assert (message["state"], message["decision"], message["figures"]) == ("FAILED", None, {})


@pytest.mark.slow
def test_rejected_challenger_is_recorded_and_the_champion_stays(
    workspace: Path, promoted: Artifacts, heard: Webhook
) -> None:
    champion = json.loads((promoted["promotion"][0].path / "promotion.json").read_text())["version"]
    rejected = _run(workspace, changes={"gate": {"min_test_utterances": 1000}, "train-student": {"seed": 1}})
    assert len(rejected["codebook-indexes"]) == 2, "one shard, and what it is merged to"
    assert _whole(rejected).id == _whole(promoted).id, "however many shards"
    (promotion,) = rejected["promotion"]
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "reject"
    assert record["version"] != champion
    assert record["aliases"]["champion"] == champion
    assert heard.messages[-1]["decision"] == "reject"


@pytest.mark.slow
def test_ids_are_those_of_dvc_repro(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Checkout(tmp_path / "checkout", git=False)
    result = checkout.demo()
    assert result.returncode == 0, result.stdout + result.stderr
    # A registry of its own, as the checkout has: the decision depends on the champion.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    made = run_pipeline(tmp_path / "runs", checkout.params, num_shards=2)
    ids = {STAGES[name].output_kind: artifact_id for name, artifact_id in checkout.ids().items()}
    assert _whole(made).id == ids.pop("codebook-indexes")
    ids.pop("promotion")  # names the registry's run
    assert {kind: {artifact.id for artifact in made[kind]} for kind in ids} == {kind: {ids[kind]} for kind in ids}
