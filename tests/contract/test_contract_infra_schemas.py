"""The schemas of infra/schemas: the launcher's TrainJob fits, and what an API server would refuse or drop does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from infra import validate
from infra.objects import Object
from infra.render import read, render
from mvqkd.adapters.launch_config import RESERVED_VARIABLES, LaunchConfig
from mvqkd.adapters.trainjob_spec import describe
from mvqkd.artifacts import load_artifact
from mvqkd.config import TrainStudentConfig
from mvqkd.testing.lineage import make_lineage

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
Change = Callable[[Manifest], object]
LAUNCH = LaunchConfig(
    launcher="trainjob",
    num_nodes=4,
    num_processes=2,
    image=f"r.example/mvqkd@sha256:{'a' * 64}",
    claim="other-claim",
    service_account="mvqkd-train",
    cpu="8",
    memory="32Gi",
    num_accelerators=2,
    node_selector={"mvqkd/pool": "gpu-spot"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    env={"NCCL_DEBUG": "WARN"},
    env_secrets={"mvqkd-mlflow-client": {"MLFLOW_TRACKING_PASSWORD": "MLFLOW_TRACKING_PASSWORD"}},
)


@pytest.fixture(scope="module")
def train_job(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A TrainJob as the launcher posts it, with everything in it that it can set."""
    lineage = make_lineage(tmp_path_factory.mktemp("lineage"))
    data = load_artifact(lineage.data.path, verify="size")
    return describe(LAUNCH, TrainStudentConfig(), {"data": data}).manifest


def _problems(manifest: Manifest) -> list[str]:
    return [problem.what for problem in validate.problems([Object("test.yaml", manifest)])]


def test_every_schema_is_one_and_names_its_kind() -> None:
    files = sorted(validate.SCHEMAS.glob("*.json"))
    assert [file.name for file in files] == [
        "clustertrainingruntime-v1alpha1.json",
        "externalsecret-v1.json",
        "prometheusrule-v1.json",
        "servicemonitor-v1.json",
        "trainjob-v1alpha1.json",
    ]
    for file in files:
        schema = json.loads(file.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        assert file.name.startswith(schema["properties"]["kind"]["const"].lower())


def test_job_of_the_launcher_fits(train_job: Manifest) -> None:
    assert "runtimePatches" in train_job["spec"]
    assert _problems(train_job) == []


def test_variables_that_the_schema_reserves_are_those_of_the_launcher() -> None:
    schema = json.loads((validate.SCHEMAS / "trainjob-v1alpha1.json").read_text(encoding="utf-8"))
    (_, reserved) = schema["$defs"]["trainer"]["properties"]["env"]["allOf"]
    assert reserved["items"]["properties"]["name"]["not"]["enum"] == list(RESERVED_VARIABLES)


def _patch(manifest: Manifest) -> Manifest:
    patch: Manifest = manifest["spec"]["runtimePatches"][0]
    return patch


def _pod(manifest: Manifest) -> Manifest:
    jobs = _patch(manifest)["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod: Manifest = jobs[0]["template"]["spec"]["template"]["spec"]
    return pod


WRONG_JOBS: dict[str, Change] = {
    "overrides of an older version": lambda m: m["spec"].update(podTemplateOverrides=[]),
    "another old name": lambda m: m["spec"].update(podSpecOverrides=[]),
    "no runtime": lambda m: m["spec"].pop("runtimeRef"),
    "another version": lambda m: m.update(apiVersion="trainer.kubeflow.org/v2alpha1"),
    "a status": lambda m: m.update(status={}),
    "a name with a dot": lambda m: m["metadata"].update(name="a.b"),
    "a name that begins with a digit": lambda m: m["metadata"].update(name="1a"),
    "a name too long for the pods' names": lambda m: m["metadata"].update(name="a" * 48),
    "a label that is none": lambda m: m["metadata"]["labels"].update(a="b/c"),
    "no nodes": lambda m: m["spec"]["trainer"].update(numNodes=0),
    "processes as text": lambda m: m["spec"]["trainer"].update(numProcPerNode="2"),
    "a command that is a text": lambda m: m["spec"]["trainer"].update(command="mvqkd train-student"),
    "a memory that is none": lambda m: m["spec"]["trainer"]["resourcesPerNode"]["limits"].update(memory="32 GB"),
    "a variable of torchrun": lambda m: m["spec"]["trainer"]["env"].append({"name": "PET_NNODES", "value": "2"}),
    "a number as a variable": lambda m: m["spec"]["trainer"]["env"].append({"name": "A", "value": 1}),
    "a variable twice": lambda m: m["spec"]["trainer"]["env"][0].update(
        value="a", valueFrom={"secretKeyRef": {"name": "a", "key": "b"}}
    ),
    "a patch of nobody": lambda m: _patch(m).pop("manager"),
    "a manager without a domain": lambda m: _patch(m).update(manager="launcher"),
    "a patch of the policy": lambda m: _patch(m)["trainingRuntimeSpec"].update(mlPolicy={"numNodes": 2}),
    "a patched image": lambda m: _pod(m)["containers"][0].update(image="other"),
    "variables beside the trainer's": lambda m: _pod(m)["containers"][0].update(env=[{"name": "A", "value": "b"}]),
    "a patched grace that is a text": lambda m: _pod(m).update(terminationGracePeriodSeconds="60"),
    "an effect that is none": lambda m: _pod(m)["tolerations"][0].update(effect="Never"),
    "a volume of two kinds": lambda m: _pod(m)["volumes"][0].update(emptyDir={}),
    # What only Kubernetes' own schemas know.
    "a volume of no kind": lambda m: _pod(m)["volumes"].append({"name": "a", "disk": {"size": "1Gi"}}),
    "an affinity that is none": lambda m: _pod(m).update(affinity={"podAffinity": {"required": []}}),
    "a user that is a name": lambda m: _pod(m).update(securityContext={"runAsUser": "mvqkd"}),
}


@pytest.mark.parametrize("case", WRONG_JOBS)
def test_job_is_refused_with(case: str, train_job: Manifest) -> None:
    manifest = copy.deepcopy(train_job)
    WRONG_JOBS[case](manifest)
    assert _problems(manifest)


def _job(manifest: Manifest) -> Manifest:
    job: Manifest = manifest["spec"]["template"]["spec"]["replicatedJobs"][0]
    return job


def _ranks(manifest: Manifest) -> Manifest:
    pod: Manifest = _job(manifest)["template"]["spec"]["template"]["spec"]
    return pod


def _rule(manifest: Manifest) -> Manifest:
    rule: Manifest = manifest["spec"]["groups"][1]["rules"][0]
    return rule


WRONG_OBJECTS: dict[str, tuple[str, Change]] = {
    "two trainers": ("ClusterTrainingRuntime", lambda m: _job(m).update(replicas=2)),
    "no container of the trainer": ("ClusterTrainingRuntime", lambda m: _ranks(m)["containers"][0].update(name="main")),
    "a policy for MPI": ("ClusterTrainingRuntime", lambda m: m["spec"].update(mlPolicy={"mpi": {}})),
    "an elastic policy": (
        "ClusterTrainingRuntime",
        lambda m: m["spec"]["mlPolicy"]["torch"].update(elasticPolicy={"maxRestarts": 3}),
    ),
    "a restart of no kind": (
        "ClusterTrainingRuntime",
        lambda m: m["spec"]["template"]["spec"]["failurePolicy"].update(restartStrategy="Never"),
    ),
    "a namespace where there is none": (
        "ClusterTrainingRuntime",
        lambda m: m["metadata"].update(namespace="mvqkd"),
    ),
    "a field that pods lack": ("ClusterTrainingRuntime", lambda m: _ranks(m).update(gracePeriod=3)),
    "a field that jobs lack": (
        "ClusterTrainingRuntime",
        lambda m: _job(m)["template"]["spec"].update(retries=3),
    ),
    "a rule that says nothing": ("PrometheusRule", lambda m: _rule(m).pop("expr")),
    "an alert without an annotation": ("PrometheusRule", lambda m: _rule(m).pop("annotations")),
    "a severity of nobody": ("PrometheusRule", lambda m: _rule(m)["labels"].update(severity="bad")),
    "an alert that records": ("PrometheusRule", lambda m: _rule(m).update(record="a:b")),
    "a time that is none": ("PrometheusRule", lambda m: _rule(m).update({"for": "5 minutes"})),
    "a monitor of everything": ("ServiceMonitor", lambda m: m["spec"].update(selector={})),
    "a monitor of no port": ("ServiceMonitor", lambda m: m["spec"]["endpoints"][0].pop("port")),
    "a monitor with an old name": (
        "ServiceMonitor",
        lambda m: m["spec"]["endpoints"][0].update(scrape_interval="15s"),
    ),
    "a secret from nowhere": ("ExternalSecret", lambda m: m["spec"].pop("dataFrom")),
    "a secret with a template": (
        "ExternalSecret",
        lambda m: m["spec"]["target"].update(template={"data": {"a": "b"}}),
    ),
    "a deployment with a typing error": ("Deployment", lambda m: m["spec"].update(replica=1)),
    "a port that is a text": ("NetworkPolicy", lambda m: m["spec"].update(policyTypes="Egress")),
    "a group of an old version": ("HorizontalPodAutoscaler", lambda m: m.update(apiVersion="autoscaling/v2beta2")),
    "a kind that nobody knows": ("Deployment", lambda m: m.update(kind="Deploymnet")),
}


@pytest.fixture(scope="module")
def objects() -> dict[str, Manifest]:
    """One object of each kind."""
    found = [*render(ROOT / "infra" / "overlays" / "prod")]
    found += read(ROOT / "infra" / "components" / "external-secrets" / "secrets.yaml")
    return {obj.kind: dict(obj.manifest) for obj in found}


@pytest.mark.parametrize("case", WRONG_OBJECTS)
def test_object_is_refused_with(case: str, objects: dict[str, Manifest]) -> None:
    kind, change = WRONG_OBJECTS[case]
    manifest = copy.deepcopy(objects[kind])
    assert _problems(manifest) == []
    change(manifest)
    assert _problems(manifest)


def test_version_is_named_in_the_message(objects: dict[str, Manifest]) -> None:
    manifest = copy.deepcopy(objects["Deployment"])
    manifest["spec"]["replica"] = 1
    (oldest, newest) = _problems(manifest)
    assert oldest.startswith("Kubernetes 1.25: spec: Additional properties are not allowed ('replica' was unexpected)")
    assert newest.startswith("Kubernetes 1.37: spec: ")
