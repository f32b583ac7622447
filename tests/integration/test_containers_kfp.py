"""The compiled pipeline by kfp's local runner, every component in a container of its own.

The runner counts a container that is gone before it looks as a success: only what components wrote counts here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.types
import pytest
from kfp import components, local

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.stages import STAGES
from mvqkd.testing.corpus import make_corpus
from pipelines.cluster import ClusterConfig
from pipelines.compile import compiled
from tests.containers.engine import writable_folder
from tests.containers.requirement import required_engine
from tests.pipeline_budget import tiny_params

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Names for the graph mean nothing to the local runner, and it says so.
    pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner:UserWarning"),
]

NUM_SHARDS = 2


@dataclass(frozen=True)
class Workspace:
    """Folders that containers see: recordings, registry, and what the runs write."""

    corpus: Path
    registry: Path
    runs: Path
    pipeline: Any

    def run(self, **changes: dict[str, object]) -> dict[str, list[Artifact]]:
        """Run the pipeline; returns the artifacts of this run by kind."""
        before = set(self.runs.glob("*"))
        params = tiny_params(self.corpus / "manifest.jsonl")
        sections = {
            f"{name.replace('-', '_')}_config": json.dumps(values | changes.get(name.replace("-", "_"), {}))
            for name, values in params.items()
        }
        self.pipeline(**sections, num_shards=NUM_SHARDS)
        (run,) = set(self.runs.glob("*")) - before
        found: dict[str, list[Artifact]] = {}
        for manifest in sorted(run.rglob("artifact.json")):
            if not any(part.startswith(".") for part in manifest.relative_to(run).parts):
                artifact = load_artifact(manifest.parent)
                found.setdefault(artifact.kind, []).append(artifact)
        return found


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A folder for each need, and Docker's API spoken by podman."""
    engine, image = required_engine("cpu")
    root = tmp_path_factory.mktemp("kfp-containers")
    make_corpus(root / "corpus", num_utterances=24)
    registry, runs = writable_folder(root / "registry"), writable_folder(root / "runs")
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{registry / 'mlflow.db'}", "OMP_NUM_THREADS": "1"}
    package = compiled(cluster=ClusterConfig(image=image, environment=environment))
    with pytest.MonkeyPatch.context() as patch, engine.service(tmp_path_factory.mktemp("socket")) as address:
        patch.chdir(root)
        patch.setenv("DOCKER_HOST", address)
        local.init(
            runner=local.DockerRunner(
                # On Kubernetes a component's command takes the place of the image's entrypoint. Here it is added to it,
                # and podman understands an empty one as the image's.
                entrypoint=["env"],
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                network_mode="none",
                tmpfs={"/tmp": "rw,noexec,nosuid,nodev,size=1g"},
                mounts=[
                    docker.types.Mount(str(root / "corpus"), str(root / "corpus"), type="bind", read_only=True),
                    docker.types.Mount(str(registry), str(registry), type="bind"),
                ],
                **({"userns_mode": mapping} if (mapping := next(iter(engine.user_mapping), None)) else {}),
            ),
            pipeline_root=str(runs),
            workspace_root=str(writable_folder(root / "workspace")),
            raise_on_error=True,
        )
        yield Workspace(root / "corpus", registry, runs, components.load_component_from_text(package))


@pytest.fixture(scope="module")
def promoted(workspace: Workspace) -> dict[str, list[Artifact]]:
    """What a first run leaves: there is no champion yet, and the bounds are wide."""
    return workspace.run()


def test_every_stage_wrote_its_artifact(promoted: dict[str, list[Artifact]]) -> None:
    counts = {kind: len(artifacts) for kind, artifacts in promoted.items()}
    # Parts of two shards and what they were merged into; the report is passed on by the gate.
    assert counts == {stage.output_kind: 1 for stage in STAGES.values()} | {"codebook-indexes": 3, "wer-report": 2}
    assert len({report.id for report in promoted["wer-report"]}) == 1


def test_shards_were_merged_and_the_student_learned_from_all(promoted: dict[str, list[Artifact]]) -> None:
    (student,) = promoted["student-checkpoint"]
    indexes = {artifact.id: artifact for artifact in promoted["codebook-indexes"]}
    merged = indexes.pop(student.parents["codebook-indexes"])
    assert len(indexes) == NUM_SHARDS
    assert merged.figures["bytes"] == sum(part.figures["bytes"] for part in indexes.values()) > 0


def test_they_ran_in_the_image(promoted: dict[str, list[Artifact]], workspace: Workspace) -> None:
    engine, image = required_engine("cpu")
    (found,) = json.loads(engine.call("image", "inspect", image).stdout)
    revision = found["Labels"]["org.opencontainers.image.revision"]
    artifacts = [artifact for kind in promoted.values() for artifact in kind]
    assert {artifact.git_sha for artifact in artifacts} == {revision}
    assert {artifact.path.stat().st_uid for artifact in artifacts} == {workspace.runs.stat().st_uid}


def test_the_first_champion_is_registered(promoted: dict[str, list[Artifact]], workspace: Workspace) -> None:
    (decision,), (promotion,) = promoted["promotion-decision"], promoted["promotion"]
    assert decision.figures["decision"] == "promote"
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "promote"
    assert record["aliases"]["champion"] == record["version"]
    assert (workspace.registry / "mlflow.db").stat().st_size > 0


def test_a_rejected_challenger_is_recorded_and_the_champion_stays(
    promoted: dict[str, list[Artifact]], workspace: Workspace
) -> None:
    champion = json.loads((promoted["promotion"][0].path / "promotion.json").read_text())["version"]
    rejected = workspace.run(gate={"min_test_utterances": 1000}, train_student={"seed": 1})
    (promotion,) = rejected["promotion"]
    record = json.loads((promotion.path / "promotion.json").read_text())
    assert record["decision"] == "reject"
    assert record["version"] != champion
    assert record["aliases"]["champion"] == champion
