"""The pipeline as Kubeflow wires it, every component in a process of its own, on a tiny corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import local

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.stages import STAGES
from mvqkd.testing.corpus import make_corpus
from pipelines.distill import distill
from tests.pipeline_budget import tiny_params

pytestmark = [
    # kfp looks for "python" in the image's name before it runs a component without an image.
    pytest.mark.filterwarnings("ignore:You may be attemp:RuntimeWarning"),
    # Names for the graph mean nothing to the local runner, and it says so.
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner:UserWarning"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a corpus, in which kfp.local works; the registry lies in it as well."""
    folder = tmp_path_factory.mktemp("kfp")
    make_corpus(folder / "corpus", num_utterances=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        local.init(
            runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "runs"), raise_on_error=True
        )
        yield folder


def _run(workspace: Path, **changes: dict[str, object]) -> dict[str, list[Artifact]]:
    """Run the pipeline; returns the artifacts of this run by kind."""
    before = set((workspace / "runs").glob("*"))
    params = tiny_params(workspace / "corpus" / "manifest.jsonl")
    sections = {name: json.dumps(values | changes.get(name.replace("-", "_"), {})) for name, values in params.items()}
    distill(**{f"{name.replace('-', '_')}_config": text for name, text in sections.items()})
    (run,) = set((workspace / "runs").glob("*")) - before
    found: dict[str, list[Artifact]] = {}
    for manifest in run.rglob("artifact.json"):
        if not any(part.startswith(".") for part in manifest.relative_to(run).parts):
            artifact = load_artifact(manifest.parent)
            found.setdefault(artifact.kind, []).append(artifact)
    return found


@pytest.fixture(scope="module")
def promoted(workspace: Path) -> dict[str, list[Artifact]]:
    """What a first run leaves: there is no champion yet, and the bounds are wide."""
    return _run(workspace)


def test_every_stage_wrote_its_artifact_once(promoted: dict[str, list[Artifact]]) -> None:
    assert {kind: len(artifacts) for kind, artifacts in promoted.items()} == {
        stage.output_kind: 1 for stage in STAGES.values()
    }


def test_lineage_goes_back_to_the_data(promoted: dict[str, list[Artifact]]) -> None:
    (bundle,), (student,), (data,) = (promoted[kind] for kind in ("onnx-bundle", "student-checkpoint", "cut-manifest"))
    bundle.require_parent(student)
    student.require_parent(data)
    student.require_parent(promoted["codebook-indexes"][0])


def test_sections_reach_their_stages(promoted: dict[str, list[Artifact]]) -> None:
    assert promoted["quantizer"][0].config["num_codebooks"] == 2
    assert promoted["student-checkpoint"][0].config["model"]["encoder_dim"] == 32
    assert promoted["codebook-indexes"][0].config["shard_cuts"] == 200, "a default, not named in the section"


def test_promote_branch_was_taken(promoted: dict[str, list[Artifact]]) -> None:
    # kfp.local counts a condition that fails to evaluate as false: look at what the branch did.
    (promotion,) = promoted["promotion"]
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "promote"
    assert record["aliases"]["champion"] == record["version"]


@pytest.mark.slow
def test_rejected_challenger_is_recorded_and_the_champion_stays(
    workspace: Path, promoted: dict[str, list[Artifact]]
) -> None:
    champion = json.loads((promoted["promotion"][0].path / "promotion.json").read_text())["version"]
    rejected = _run(workspace, gate={"min_test_utterances": 1000}, train_student={"seed": 1})
    (promotion,) = rejected["promotion"]
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "reject"
    assert record["version"] != champion
    assert record["aliases"]["champion"] == champion
