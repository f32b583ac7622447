"""Every stage by command line in the image, restricted and without network, beside the same stages on this machine.

Equal parameters, equal packages: equal artifacts. Recordings lie at the same path in both, since cuts name them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.stages import STAGES
from mvqkd.testing.corpus import make_corpus
from tests.containers.engine import Engine, readable_folder, writable_folder
from tests.containers.requirement import required_engine
from tests.pipeline_budget import tiny_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_RANKS = 2
PARTS = [f"artifacts/codebook-indexes-{rank}-of-{NUM_RANKS}" for rank in range(NUM_RANKS)]
# A promotion holds the ids that MLflow drew.
REPEATABLE = [name for name in STAGES if name != "promote"]


_UPLOAD = """
import pathlib, sys, urllib.request
body = pathlib.Path(sys.argv[1]).read_bytes()
print(urllib.request.urlopen("http://127.0.0.1:8470/v1/transcribe", data=body, timeout=60).read().decode())
"""


@dataclass(frozen=True)
class Folders:
    """Where the stages ran in containers and on this machine, and the recordings that both read."""

    container: Path
    host: Path
    corpus: Path

    def artifacts(self, where: Path) -> Mapping[str, Artifact]:
        root = where / "artifacts"
        return {
            stage.name: load_artifact(root / stage.output_directory)
            for stage in STAGES.values()
            if (root / stage.output_directory).is_dir()
        }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Both folders, after every stage has run in its container; on this machine nothing has run yet."""
    engine, image = required_engine("cpu")
    root = tmp_path_factory.mktemp("containers")
    manifest = make_corpus(root / "corpus", num_utterances=24)
    for name in ("container", "host"):
        writable_folder(root / name)
        (root / name / "params.yaml").write_text(yaml.safe_dump(tiny_params(manifest), sort_keys=False))
    volumes = [f"{root / 'corpus'}:{root / 'corpus'}:ro", f"{root / 'container'}:/data"]
    for name in STAGES:
        commands = [[name]]
        if name == "encode-ci":
            commands = [[name, "--rank", str(rank), "--world-size", str(NUM_RANKS)] for rank in range(NUM_RANKS)]
            commands.append(["merge-ci", *PARTS])
        for command in commands:
            done = engine.run(image, *command, volumes=volumes)
            assert done.returncode == 0, f"{command}: {done.stderr}"
    return Folders(root / "container", root / "host", root / "corpus")


@pytest.fixture(scope="module")
def on_host(folders: Folders) -> Mapping[str, Artifact]:
    """Artifacts of the same stages on this machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    for name in REPEATABLE:
        done = subprocess.run(
            [sys.executable, "-m", "mvqkd", name],
            cwd=folders.host,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folders.artifacts(folders.host)


def test_every_stage_runs_without_network(folders: Folders) -> None:
    artifacts = folders.artifacts(folders.container)
    assert list(artifacts) == list(STAGES)
    assert artifacts["gate"].figures["decision"] == "promote"
    record = json.loads((artifacts["promote"].path / "promotion.json").read_text())
    assert record["aliases"]["champion"] == record["version"]
    assert (folders.container / "mlflow.db").is_file()


def test_artifacts_say_which_commit_the_image_was_built_from(folders: Folders) -> None:
    engine, image = required_engine("cpu")
    (found,) = json.loads(engine.call("image", "inspect", image).stdout)
    revision = found["Labels"]["org.opencontainers.image.revision"]
    assert {artifact.git_sha for artifact in folders.artifacts(folders.container).values()} == {revision}


def test_packages_are_those_of_this_machine(folders: Folders, on_host: Mapping[str, Artifact]) -> None:
    # What the next test stands on: another build of torch computes other last digits; a patch level of Python does not.
    artifacts = folders.artifacts(folders.container)
    for name in REPEATABLE:
        inside, outside = ({**artifact.versions, "python": ""} for artifact in (artifacts[name], on_host[name]))
        assert inside == outside


@pytest.mark.parametrize("name", REPEATABLE)
def test_ids_are_those_of_this_machine(name: str, folders: Folders, on_host: Mapping[str, Artifact]) -> None:
    artifact = folders.artifacts(folders.container)[name]
    assert artifact.files == on_host[name].files
    assert artifact.id == on_host[name].id


def test_files_belong_to_the_user_of_the_image_and_others_may_read_them(folders: Folders) -> None:
    files = [path for path in (folders.container / "artifacts").rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in files} == {folders.container.stat().st_uid}
    assert [path for path in files if path.stat().st_mode & 0o777 != 0o644] == []


def test_a_champion_goes_through_a_registry_to_the_server(folders: Folders, tmp_path: Path) -> None:
    """MLflow's server, the last stages and `mvqkd serve`: four containers with one loopback, like those of a pod."""
    engine, image = required_engine("cpu")
    _, serve_image = required_engine("serve")
    stages, mlflow = readable_folder(tmp_path) / "stages", writable_folder(tmp_path / "mlflow")
    shutil.copytree(folders.container, stages, ignore=shutil.ignore_patterns("mlflow*", "decision", "promotion"))
    writable_folder(stages)
    recording = folders.corpus / "audio" / "utterance-0000.wav"
    shutil.copy(recording, tmp_path / "a.wav")
    server = ["server", "--host=127.0.0.1", "--port=5000", "--workers=1"]
    server += ["--backend-store-uri=sqlite:////data/mlflow.db", "--artifacts-destination=/data/artifacts"]
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    with engine.background(image, *server, entrypoint="mlflow", volumes=[f"{mlflow}:/data"]) as registry:
        _wait_for(engine, registry, "http://127.0.0.1:5000/health")
        shared = {"network": f"container:{registry}", "environment": environment}
        for name in ("gate", "promote"):
            done = engine.run(image, name, volumes=[f"{stages}:/data"], **shared)
            assert done.returncode == 0, done.stderr
        champion = ["serve", "--bundle=models:/tiny@champion"]
        with engine.background(serve_image, *champion, volumes=[f"{tmp_path}:/data:ro"], **shared) as serving:
            _wait_for(engine, serving, "http://127.0.0.1:8470/readyz")
            heard = json.loads(engine.call("exec", serving, "python3", "-c", _UPLOAD, "/data/a.wav").stdout)
    assert heard["bundle_id"] == load_artifact(stages / "artifacts" / "bundle").id
    command = [sys.executable, "-m", "mvqkd", "transcribe", "--format", "jsonl"]
    here = subprocess.run(
        [*command, "--bundle", str(stages / "artifacts" / "bundle"), str(recording)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert heard["tokens"] == json.loads(here.stdout)["tokens"]


def _wait_for(engine: Engine, container: str, url: str) -> None:
    code = f"import urllib.request; urllib.request.urlopen({url!r}, timeout=5)"
    deadline = time.monotonic() + 180
    while engine.call("exec", container, "python3", "-c", code, check=False).returncode:
        running = engine.call("inspect", "--format={{.State.Running}}", container).stdout.strip()
        assert running == "true", engine.call("logs", container).stderr
        assert time.monotonic() < deadline, engine.call("logs", container).stderr
        time.sleep(1)


def test_a_stage_that_fails_is_one_line(tmp_path: Path) -> None:
    engine, image = required_engine("cpu")
    done = engine.run(image, "extract-teacher", volumes=[f"{readable_folder(tmp_path)}:/data:ro"])
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mvqkd extract-teacher: ")


def test_a_work_folder_that_may_not_be_written_to_is_told(folders: Folders, tmp_path: Path) -> None:
    engine, image = required_engine("cpu")
    shutil.copy(folders.container / "params.yaml", tmp_path)
    volumes = [f"{folders.corpus}:{folders.corpus}:ro", f"{readable_folder(tmp_path)}:/data:ro"]
    done = engine.run(image, "prepare-data", volumes=volumes)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Read-only file system" in done.stderr
