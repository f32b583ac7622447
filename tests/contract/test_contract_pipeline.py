"""The compiled pipeline is the golden file, wired as the table of stages says; a cluster's settings reach steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.image import IMAGE
from mvqkd.errors import ConfigError
from mvqkd.stages import STAGES
from pipelines.cluster import STEPS, load_cluster
from pipelines.compile import GOLDEN_FILE, compiled, main

ROOT = Path(__file__).parents[2]


Specification = dict[str, Any]
# Two documents: the pipeline, and what only Kubernetes understands.
SPECIFICATION, KUBERNETES = yaml.safe_load_all(GOLDEN_FILE.read_text(encoding="utf-8"))
EXECUTORS: dict[str, Any] = SPECIFICATION["deploymentSpec"]["executors"]
NEVER_REUSED = {"gate", "promote", "promote-2", "notify"}


def levels() -> list[tuple[str, Specification]]:
    """Every DAG, the root and those inside it, with its name."""
    inner = [(name, component) for name, component in SPECIFICATION["components"].items() if "dag" in component]
    return [("root", SPECIFICATION["root"]), *inner]


def all_tasks() -> dict[str, Specification]:
    """Tasks that run a component, by name."""
    tasks = {name: task for _, level in levels() for name, task in level["dag"]["tasks"].items()}
    return {
        name: task
        for name, task in tasks.items()
        if "executorLabel" in SPECIFICATION["components"][task["componentRef"]["name"]]
    }


def step(task: str) -> str:
    """Which step of a cluster's settings a task or an executor is."""
    return task.removeprefix("exec-").removesuffix("-2")


def test_golden_file_is_up_to_date() -> None:
    assert compiled() == GOLDEN_FILE.read_text(encoding="utf-8"), "run python -m pipelines.compile, look at the diff"


def test_check_notices_a_difference(tmp_path: Path) -> None:
    other = tmp_path / "pipeline.yaml"
    assert main(["--check", "--out", str(other)]) == 1
    assert main(["--out", str(other)]) == 0
    assert main(["--check", "--out", str(other)]) == 0
    other.write_text(other.read_text().replace("train-student", "train-pupil"))
    assert main(["--check", "--out", str(other)]) == 1


def test_another_image_reaches_every_component() -> None:
    specification, _ = yaml.safe_load_all(compiled("registry.example/mvqkd@sha256:0"))
    executors = specification["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {"registry.example/mvqkd@sha256:0"}


def test_every_step_of_the_cluster_settings_is_a_task() -> None:
    assert {step(name) for name in all_tasks()} == set(STEPS)
    assert set(STAGES) < set(STEPS)


def test_every_stage_gets_its_section() -> None:
    parameters = SPECIFICATION["root"]["inputDefinitions"]["parameters"]
    sections = {f"{name.replace('-', '_')}_config" for name in [*STAGES, "launch"]}
    assert set(parameters) == sections | {"source_id", "num_shards", "test_splits", "dvc_remote"}
    assert all(parameters[name]["defaultValue"] == "{}" for name in sections)
    tasks = all_tasks()
    for name in STAGES:
        wired = tasks[name]["inputs"]["parameters"]["config"]["componentInputParameter"]
        own = "config" if name == "encode-ci" else f"{name.replace('-', '_')}_config"
        assert wired.removeprefix("pipelinechannel--") == own


def producer_of(task: str, level: Specification, name: str, kind: str) -> str:
    """The task on the same level that an input comes from, or the name under which it enters the level."""
    wired = level["dag"]["tasks"][task]["inputs"][kind][name]
    inner = wired.get("taskOutputArtifact") or wired.get("taskOutputParameter")
    return inner["producerTask"] if inner else wired[f"componentInput{kind.title()[:-1]}"]


def test_an_artifact_and_its_id_come_from_the_same_task() -> None:
    for _, level in levels():
        for name, task in level["dag"]["tasks"].items():
            for item in task.get("inputs", {}).get("artifacts", {}):
                if item.startswith("pipelinechannel--") or item in ("parts", "wer_reports"):
                    continue
                artifact = producer_of(name, level, item, "artifacts")
                beside = producer_of(name, level, f"{item}_id", "parameters")
                # What enters a level is named after the task outside and its output.
                assert (
                    artifact == beside
                    or {artifact, beside} == {item, f"{item}_id"}
                    or (
                        artifact.removesuffix(f"-{item}")
                        == beside.removesuffix("-artifact_id").removesuffix(f"-{item}_id")
                    )
                ), f"{name}: {item} from {artifact}, its id from {beside}"


def test_artifacts_come_from_the_stage_that_makes_them() -> None:
    root = SPECIFICATION["root"]["dag"]["tasks"]
    (inside,) = [name for name, level in levels() if "train-student" in level["dag"]["tasks"]]
    tasks = SPECIFICATION["components"][inside]["dag"]["tasks"]
    made_in = {"codebook-indexes": "encode-in-shards"}
    producer = {stage.output_kind: made_in.get(stage.output_kind, stage.name) for stage in STAGES.values()}
    for name in ("extract-teacher", "fit-quantizer", "train-student"):
        for item in STAGES[name].inputs:
            assert (
                tasks[name]["inputs"]["artifacts"][item.name]["taskOutputArtifact"]["producerTask"]
                == (producer[item.kind])
            )
    assert set(root) == {"exit-handler-1", "notify"}
    assert root["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_image_and_caching() -> None:
    assert {executor["container"]["image"] for executor in EXECUTORS.values()} == {IMAGE}
    assert "pip install" not in GOLDEN_FILE.read_text(encoding="utf-8")
    for name, task in all_tasks().items():
        reused = bool(task.get("cachingOptions", {}).get("enableCache"))
        assert reused == (name not in NEVER_REUSED), f"{name}: gate, promote and notify depend on the world outside"


def test_what_may_be_repeated_is_repeated_with_pauses() -> None:
    repeated = {name for name, task in all_tasks().items() if "retryPolicy" in task}
    assert repeated == {
        *("prepare-data", "extract-teacher", "encode-ci", "push-ci", "train-student"),
        *("gate", "promote", "promote-2", "notify"),
    }
    for name in repeated:
        policy = all_tasks()[name]["retryPolicy"]
        assert policy["maxRetryCount"] >= 3
        assert policy["backoffFactor"] > 1
        assert int(policy["backoffDuration"][:-1]) < int(policy["backoffMaxDuration"][:-1])


def test_every_pod_has_limits_and_runs_without_root() -> None:
    on_kubernetes = KUBERNETES["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(on_kubernetes) == set(EXECUTORS)
    for name, executor in EXECUTORS.items():
        resources = executor["container"]["resources"]
        assert {"resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(
            resources
        )
        context = on_kubernetes[name]["securityContext"]
        assert context == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}


def test_secrets_reach_the_steps_that_need_them_and_no_others() -> None:
    on_kubernetes = KUBERNETES["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    seen = {
        step(name): {secret["secretName"] for secret in executor.get("secretAsEnv", [])}
        for name, executor in on_kubernetes.items()
    }
    login = {"mvqkd-mlflow-client"}
    assert {name: secrets for name, secrets in seen.items() if secrets} == {
        "train-student": login,
        "gate": login,
        "promote": login,
        "push-ci": {"mvqkd-dvc-remote"},
        "notify": {*login, "mvqkd-webhook"},
    }


def test_settings_of_a_gpu_cluster_compile() -> None:
    cluster = load_cluster(ROOT / "pipelines" / "cluster.gpu.yaml")
    specification, kubernetes = yaml.safe_load_all(compiled(cluster=cluster))
    on_kubernetes = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    encoder = specification["deploymentSpec"]["executors"]["exec-encode-ci"]["container"]["resources"]
    assert encoder["accelerator"] == {
        "count": "1",
        "resourceCount": "1",
        "resourceType": "nvidia.com/gpu",
        "type": "nvidia.com/gpu",
    }
    encoding = on_kubernetes["exec-encode-ci"]
    assert encoding["nodeSelector"]["labels"] == {"mvqkd/pool": "gpu-spot"}
    assert [toleration["key"] for toleration in encoding["tolerations"]] == ["nvidia.com/gpu", "mvqkd/preemptible"]
    assert encoding["pvcMount"][0]["mountPath"] == "/shared"
    assert "pvcMount" not in on_kubernetes["exec-fit-quantizer"]
    # Kubernetes refuses a path that is mounted twice.
    assert all(len(executor.get("pvcMount", [])) <= 1 for executor in on_kubernetes.values())
    assert "accelerator" not in specification["deploymentSpec"]["executors"]["exec-promote"]["container"]["resources"]
    assert cluster.steps["encode-ci"].retry == load_cluster(None).steps["encode-ci"].retry, "not named in the file"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepps": {}}, r"nearest: steps"),
        ({"steps": {"encode": {}}}, r"encode is none"),
        ({"steps": {"encode-ci": {"memory_limit": "lots"}}}, r"memory_limit: expected .*pattern"),
        ({"steps": {"encode-ci": {"retry": {"attempts": 100}}}}, r"attempts: expected"),
        ({"user": 0}, r"user: expected"),
        ({"secrets": [{"name": "s", "keys": {"a": "B"}, "steps": ["all"]}]}, r"all is none"),
    ],
)
def test_impossible_cluster_settings_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message):
        load_cluster(file)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_compiles_alike_with_the_plain_install_and_kfp(seed: str, tmp_path: Path) -> None:
    """In a process that cannot import what the stages stand on."""
    code = """
import sys
for name in ("torch", "lhotse", "mlflow", "dvc", "numpy", "onnxruntime"):
    sys.modules[name] = None
from pipelines.compile import main
sys.exit(main(["--check"]))
"""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "HOME": str(tmp_path), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
