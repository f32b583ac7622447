"""infra/ builds, is what API servers take, and agrees with the code, the pipeline and the page about it."""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from infra import images, validate
from infra.check import check, main
from infra.objects import Object
from infra.policy.network import selects
from infra.render import kubectl, render
from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.adapters.trainjob_api import GROUP, PLURAL, VERSION
from mvqkd.cli import serve
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.settings import DEFAULT_PORT
from pipelines.cluster import ClusterConfig, SharedVolume

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
NUM_OBJECTS = {"base": 26, "overlays/dev": 26, "overlays/prod": 30}
DIGESTS = {
    target: f"r.example/mvqkd@sha256:{digit * 64}"
    for target, digit in zip(("cpu", "cuda", "serve"), "abc", strict=True)
}


@functools.cache
def _objects(overlay: str) -> tuple[Object, ...]:
    return tuple(render(INFRA / overlay))


def _named(overlay: str, kind: str, name: str) -> Any:
    (found,) = (obj.manifest for obj in _objects(overlay) if (obj.kind, obj.name) == (kind, name))
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """infra/ with the images of prod set."""
    shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("__pycache__"))
    images.write(DIGESTS, tmp_path / "infra" / "overlays" / "prod" / "images" / "kustomization.yaml")
    return tmp_path / "infra"


@pytest.mark.parametrize("overlay", NUM_OBJECTS)
def test_builds_without_notes_on_its_origin(overlay: str) -> None:
    built = subprocess.run([kubectl(), "kustomize", str(INFRA / overlay)], capture_output=True, text=True, check=True)
    assert built.stderr == "", "kustomize warns of what it will drop"
    applied = [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]
    assert len(applied) == NUM_OBJECTS[overlay]
    assert applied == [obj.manifest for obj in _objects(overlay)]
    for obj in _objects(overlay):
        assert (ROOT / obj.file).is_file(), obj.file
        assert obj.namespace in ("mvqkd", None)
    assert {obj.kind for obj in _objects(overlay) if obj.namespace is None} == {"Namespace", "ClusterTrainingRuntime"}


def test_dev_has_no_problems_in_the_oldest_and_newest_kubernetes() -> None:
    oldest, newest = validate.known_versions()
    # Nothing here needs a newer one: autoscaling/v2 came with 1.23, podFailurePolicy with 1.25.
    assert f"manifests are checked against {oldest} and {newest}" in PAGE
    assert f"Kubernetes {oldest} or newer" in PAGE
    assert check(_objects("overlays/dev")) == []


def test_prod_has_no_problem_but_images_until_they_are_set(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(_objects("overlays/prod"), digests=True)
    assert len(found) == 4
    assert all(problem.what.endswith("the digest is not set; run python -m infra.images") for problem in found)
    assert main([str(copied / "overlays" / "prod"), "--digests"]) == 0
    assert "30 objects, 0 problems" in capsys.readouterr().out
    used = {
        container["image"] for obj in render(copied / "overlays" / "prod") for container in _containers(obj.manifest)
    }
    assert used == set(DIGESTS.values())


def test_optional_secrets_of_a_vault_fit_in(copied: Path) -> None:
    file = copied / "overlays" / "prod" / "kustomization.yaml"
    file.write_text(file.read_text().replace("components:\n", "components:\n  - ../../components/external-secrets\n"))
    objects = render(copied / "overlays" / "prod")
    assert check(objects, digests=True) == []
    made = {obj.spec["target"]["name"] for obj in objects if obj.kind == "ExternalSecret"}
    assert made == set(_secrets_used()), "one for every Secret that is referred to"


@pytest.mark.parametrize("reference", ["mvqkd:0.1.0", "r.example/mvqkd:0.1.0", "r.example/mvqkd@sha256:abc"])
def test_images_are_refused_without_a_whole_digest(reference: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "kustomization.yaml"
    arguments = ["--cpu", DIGESTS["cpu"], "--cuda", reference, "--serve", DIGESTS["serve"], "--file", str(file)]
    assert images.main(arguments) == 1
    assert f"image of target cuda: expected REGISTRY/NAME@sha256: and 64 hexadecimal digits, got {reference};" in (
        capsys.readouterr().err
    )
    assert not file.exists()


def test_images_command_takes_what_a_push_prints(tmp_path: Path) -> None:
    file = tmp_path / "kustomization.yaml"
    images.write({**DIGESTS, "cpu": f"r.example:5000/mvqkd:0.1.0-cpu@sha256:{'d' * 64}"}, file)
    first = yaml.safe_load(file.read_text())["images"][0]
    assert first == {"name": "mvqkd-cpu", "newName": "r.example:5000/mvqkd", "digest": f"sha256:{'d' * 64}"}
    targets = re.findall(r"^FROM \S+ AS (\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(images.TARGETS.values()) <= set(targets)


# What each account does, and what it must not be able to do.
MAY = [
    *(("mvqkd-pipeline", verb, GROUP, PLURAL, "") for verb in ("create", "get", "list", "watch", "delete")),
    *(("mvqkd-pipeline", verb, "", kind, "") for verb in ("get", "list", "watch") for kind in ("pods", "events")),
    ("mvqkd-pipeline", "get", "", "pods/log", ""),
    *(("mvqkd-pipeline", verb, "argoproj.io", "workflowtaskresults", "") for verb in ("create", "patch")),
    ("mvqkd-pipeline", "get", "", "configmaps", "kfp-launcher"),
    ("mvqkd-pipeline", "get", "", "secrets", "mlpipeline-minio-artifact"),
    *(("mvqkd-submit", verb, "pipelines.kubeflow.org", "runs", "") for verb in ("create", "get", "list", "terminate")),
    *(("mvqkd-submit", verb, "pipelines.kubeflow.org", "jobs", "") for verb in ("create", "enable", "disable")),
    *(("mvqkd-submit", verb, "pipelines.kubeflow.org", "jobs", "") for verb in ("delete", "get", "list")),
    *(
        ("mvqkd-submit", verb, "pipelines.kubeflow.org", kind, "")
        for verb in ("create", "get", "list")
        for kind in ("experiments", "pipelines", "pipelineversions")
    ),
]


def _grants(overlay: str) -> Iterator[tuple[str, str, str, str, str]]:
    roles = {obj.name: obj.manifest for obj in _objects(overlay) if obj.kind == "Role"}
    for binding in (obj.manifest for obj in _objects(overlay) if obj.kind == "RoleBinding"):
        for subject in binding["subjects"]:
            for rule in roles[binding["roleRef"]["name"]]["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for name in rule.get("resourceNames", [""]):
                            yield from ((subject["name"], verb, group, resource, name) for verb in rule["verbs"])


@pytest.mark.parametrize("overlay", NUM_OBJECTS)
def test_accounts_may_do_what_they_do_and_nothing_else(overlay: str) -> None:
    assert sorted(_grants(overlay)) == sorted(MAY)
    assert VERSION == "v1alpha1"


def test_secrets_and_volume_are_those_of_the_pipeline() -> None:
    named = {secret.name: set(secret.keys) for secret in ClusterConfig().secrets}
    documented = _documented_secrets()
    for name, keys in named.items():
        assert keys <= documented[name], f"docs/kubernetes.md does not make {name} with {keys}"
    for name, keys in _secrets_used().items():
        assert keys <= documented[name], f"docs/kubernetes.md does not make {name} with {keys}"
    assert set(documented) == set(named) | set(_secrets_used())
    claim = _named("base", "PersistentVolumeClaim", "mvqkd-shared")
    assert SharedVolume().claim == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def _secrets_used() -> dict[str, set[str]]:
    """Secret -> keys that manifests or, by default, steps of the pipeline refer to."""
    used: dict[str, set[str]] = {secret.name: set(secret.keys) for secret in ClusterConfig().secrets}
    for obj in _objects("overlays/prod"):
        for container in _containers(obj.manifest):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    used.setdefault(reference["name"], set()).add(reference["key"])
    return used


def _documented_secrets() -> dict[str, set[str]]:
    commands = re.findall(r"create secret generic (\S+) ((?:\\\n\s*--from-\S+ ?)+)", PAGE)
    return {name: set(re.findall(r"--from-(?:file|literal)=([\w.-]+)=", rest)) for name, rest in commands}


def test_ranks_get_what_their_launcher_expects() -> None:
    launch = LaunchConfig()
    runtime = _named("overlays/prod", "ClusterTrainingRuntime", launch.runtime)
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    # Their launcher waits for 15 s more before it ends them by force.
    assert pod["terminationGracePeriodSeconds"] > launch.grace_s + 15
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "shared")
    assert volume["persistentVolumeClaim"]["claimName"] == SharedVolume().claim
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["shared"] == str(launch.shared_path) == SharedVolume().mount_path
    assert launch.accelerator in pod["containers"][0]["resources"]["limits"]
    assert launch.namespace == _named("base", "Namespace", "mvqkd")["metadata"]["name"]
    # A lost pod comes back while the others wait for it.
    assert job["template"]["spec"]["backoffLimit"] >= launch.max_restarts
    assert pod["restartPolicy"] == "Never", "a condition of podFailurePolicy"


def test_server_is_started_with_flags_that_it_has_and_has_time_to_end() -> None:
    pod = _named("overlays/prod", "Deployment", "mvqkd-serve")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, *flags = container["args"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve.add_arguments(parser)
    parsed = parser.parse_args(flags)
    assert command == "serve"
    assert (parsed.bundle, parsed.host, parsed.port) == ("models:/mvqkd-student@champion", "0.0.0.0", DEFAULT_PORT)
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause_s + parsed.drain_s + 10
    assert container["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT}]
    writable = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert writable == {"/data", "/tmp"}, "all that the image writes to"


@pytest.mark.parametrize("name", ["mvqkd-serve", "mvqkd-mlflow"])
def test_services_find_their_pods(name: str) -> None:
    service, deployment = _named("base", "Service", name), _named("base", "Deployment", name)
    pod = deployment["spec"]["template"]
    assert selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
    ports = {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    url = ClusterConfig().environment["MLFLOW_TRACKING_URI"]
    assert url == "http://mvqkd-mlflow.mvqkd.svc:5000"


def test_prod_follows_the_load_and_outlives_a_node() -> None:
    deployment = _named("overlays/prod", "Deployment", "mvqkd-serve")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    scaler = _named("overlays/prod", "HorizontalPodAutoscaler", "mvqkd-serve")["spec"]
    budget = _named("overlays/prod", "PodDisruptionBudget", "mvqkd-serve")["spec"]
    assert "replicas" not in deployment["spec"], "it would undo the autoscaler's at every apply"
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["minReplicas"] > budget["maxUnavailable"]
    assert selects(budget["selector"], labels)
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert selects(spread["labelSelector"], labels)


def test_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    metrics = Metrics()
    samples = {
        **_labels_of(metrics),
        # Of others, as their documentation names them.
        "up": {"namespace", "job", "pod"},
        "kube_deployment_status_replicas_available": {"namespace", "deployment"},
        "kube_job_status_failed": {"namespace", "job_name"},
        "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
        "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
    }
    spec = _named("overlays/prod", "PrometheusRule", "mvqkd")["spec"]
    rules = [rule for group in spec["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used: set[str] = set()
    for rule in rules:
        for selector in _selectors(promql_parser.parse(rule["expr"])):
            name, labels = selector.name, {matcher.name for matcher in selector.matchers.matchers}
            used.add(name)
            if name not in recorded:
                # The Prometheus Operator adds where a sample is from.
                assert labels <= samples[name] | {"namespace", "pod", "job"}, (rule, name)
    assert {name for name in used if name.startswith("mvqkd_")} >= {
        "mvqkd_chunk_latency_seconds_bucket",
        "mvqkd_queue_seconds",
        "mvqkd_rejected_total",
        "mvqkd_model_swaps_total",
        "mvqkd_worker_errors_total",
        "mvqkd_model_info",
    }
    assert recorded & used, "what is recorded is also used"
    assert len({rule["alert"] for rule in rules if "alert" in rule}) == 10


def _labels_of(metrics: Metrics) -> Mapping[str, set[str]]:
    """Sample names that the server's registry gives, with their labels."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not hasattr(metric, "_labelnames"):
            continue
        labels = set(metric._labelnames)
        name = metric._name
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}[metric._type]
        found |= {name + ending: labels | ({"le"} if ending == "_bucket" else set()) for ending in kinds}
    return found


def _selectors(node: Any) -> Iterator[Any]:
    """Vector selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    else:
        for part in ("expr", "lhs", "rhs", "param"):
            if (child := getattr(node, part, None)) is not None:
                yield from _selectors(child)
        for argument in getattr(node, "args", None) or []:
            yield from _selectors(argument)


def _containers(node: object) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for group in ("initContainers", "containers"):
            if isinstance(node.get(group), list):
                yield from node[group]
        for value in node.values():
            yield from _containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from _containers(value)
