"""The policy of infra/ refuses what it is there to refuse: every rule is broken once, in copies of the manifests."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import policy
from infra.objects import Object
from infra.policy.network import selects
from infra.render import render

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]
Change = Callable[[Manifest], object]


@functools.cache
def _dev() -> tuple[Object, ...]:
    return tuple(render(ROOT / "infra" / "overlays" / "dev"))


def _changed(kind: str, name: str, change: Change) -> list[Object]:
    """The dev overlay with one object changed."""
    objects = copy.deepcopy(list(_dev()))
    (target,) = (obj for obj in objects if (obj.kind, obj.name) == (kind, name))
    change(target.manifest)
    return objects


def _container(manifest: Manifest) -> Manifest:
    container: Manifest = _pod(manifest)["containers"][0]
    return container


def _pod(manifest: Manifest) -> Manifest:
    template = manifest["spec"]["template"]
    if "replicatedJobs" in template["spec"]:
        template = template["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    pod: Manifest = template["spec"]
    return pod


def _security(manifest: Manifest) -> Manifest:
    context: Manifest = _container(manifest)["securityContext"]
    return context


SERVE, MLFLOW = ("Deployment", "mvqkd-serve"), ("Deployment", "mvqkd-mlflow")
RUNTIME, ROLE = ("ClusterTrainingRuntime", "mvqkd-torch"), ("Role", "mvqkd-pipeline")
BINDING, CLIENTS = ("RoleBinding", "mvqkd-pipeline"), ("NetworkPolicy", "serving")

# What is broken, in which object, how, and what the message must say.
CASES: dict[str, tuple[tuple[str, str], Change, str]] = {
    "wildcard verb": (ROLE, lambda m: m["rules"][0].update(verbs=["*"]), "wildcard in verbs"),
    "wildcard resource": (ROLE, lambda m: m["rules"][0].update(resources=["*"]), "wildcard in resources"),
    "wildcard subresource": (ROLE, lambda m: m["rules"][0].update(resources=["pods/*"]), "wildcard in resources"),
    "wildcard group": (ROLE, lambda m: m["rules"][0].update(apiGroups=["*"]), "wildcard in apiGroups"),
    "rights of the cluster": (ROLE, lambda m: m.update(kind="ClusterRole"), "rights in the whole cluster"),
    "right to take rights": (ROLE, lambda m: m["rules"][0].update(verbs=["escalate"]), "leads to any right"),
    "all secrets": (ROLE, lambda m: m["rules"][-1].pop("resourceNames"), "secrets may be got by resourceNames only"),
    "listed secrets": (ROLE, lambda m: m["rules"][-1].update(verbs=["get", "list"]), "neither listed nor written"),
    "shells": (ROLE, lambda m: m["rules"][2].update(resources=["pods/exec"]), "leads into other pods"),
    "cluster-admin": (BINDING, lambda m: m.update(roleRef={"kind": "ClusterRole", "name": "cluster-admin"}), "binds"),
    "binding of the cluster": (BINDING, lambda m: m.update(kind="ClusterRoleBinding"), "rights in the whole cluster"),
    "everybody": (
        BINDING,
        lambda m: m["subjects"].append({"kind": "Group", "name": "system:authenticated"}),
        "which others share",
    ),
    "default account": (BINDING, lambda m: m["subjects"][0].update(name="default"), "which others share"),
    "lax namespace": (
        ("Namespace", "mvqkd"),
        lambda m: m["metadata"]["labels"].update({"pod-security.kubernetes.io/enforce": "baseline"}),
        "no label pod-security.kubernetes.io/enforce: restricted",
    ),
    "root": (SERVE, lambda m: _pod(m)["securityContext"].update(runAsUser=0), "runAsUser is root"),
    "root's group": (MLFLOW, lambda m: _pod(m)["securityContext"].update(runAsGroup=0), "runAsGroup is root"),
    "root of one container": (SERVE, lambda m: _security(m).update(runAsUser=0), "runAsUser is root"),
    "maybe root": (RUNTIME, lambda m: _pod(m)["securityContext"].pop("runAsNonRoot"), "runAsNonRoot is not true"),
    "maybe root in one": (SERVE, lambda m: _security(m).update(runAsNonRoot=False), "runAsNonRoot is not true"),
    "written root": (SERVE, lambda m: _security(m).pop("readOnlyRootFilesystem"), "readOnlyRootFilesystem"),
    "written root in init": (
        MLFLOW,
        lambda m: _pod(m)["initContainers"][0].pop("securityContext"),
        "container prepare: readOnlyRootFilesystem",
    ),
    "escalation": (RUNTIME, lambda m: _security(m).pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation"),
    "capabilities kept": (SERVE, lambda m: _security(m).pop("capabilities"), "does not drop ALL"),
    "capability added": (SERVE, lambda m: _security(m)["capabilities"].update(add=["NET_ADMIN"]), "adds NET_ADMIN"),
    "no seccomp": (MLFLOW, lambda m: _pod(m)["securityContext"].pop("seccompProfile"), "no seccompProfile"),
    "seccomp off": (
        SERVE,
        lambda m: _pod(m)["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        "no seccompProfile",
    ),
    "privileged": (RUNTIME, lambda m: _security(m).update(privileged=True), "has all rights on the node"),
    "host path": (
        SERVE,
        lambda m: _pod(m)["volumes"].append({"name": "disk", "hostPath": {"path": "/var/lib"}}),
        "mounts a path of the node",
    ),
    "host path in a custom kind": (
        RUNTIME,
        lambda m: _pod(m)["volumes"][0].update(hostPath={"path": "/"}),
        "mounts a path of the node",
    ),
    "host network": (RUNTIME, lambda m: _pod(m).update(hostNetwork=True), "shares the node's"),
    "host port": (SERVE, lambda m: _container(m)["ports"][0].update(hostPort=80), "shares the node's"),
    "node port": (("Service", "mvqkd-serve"), lambda m: m["spec"].update(type="NodePort"), "without a gateway"),
    "shared account": (SERVE, lambda m: _pod(m).pop("serviceAccountName"), "no serviceAccountName of its own"),
    "token": (SERVE, lambda m: _pod(m).pop("automountServiceAccountToken"), "automountServiceAccountToken"),
    "latest": (SERVE, lambda m: _container(m).update(image="mvqkd:latest"), "tag latest moves"),
    "no tag": (RUNTIME, lambda m: _container(m).update(image="host:5000/mvqkd"), "tag latest moves"),
    "short digest": (SERVE, lambda m: _container(m).update(image="r.example/m@sha256:ab"), "the digest is not set"),
    "no resources": (SERVE, lambda m: _container(m).pop("resources"), "lacks requests.cpu, requests.memory, limits."),
    "no limit": (RUNTIME, lambda m: _container(m)["resources"]["limits"].pop("memory"), "lacks limits.memory"),
    "Secret": (
        ("ServiceAccount", "mvqkd-train"),
        lambda m: m.update(kind="Secret", data={"a": "Yg=="}),
        "a Secret with its contents",
    ),
    "Secret as text": (
        ("ServiceAccount", "mvqkd-train"),
        lambda m: m.update(kind="Secret", stringData={"a": "b"}),
        "a Secret with its contents",
    ),
    "password in env": (
        SERVE,
        lambda m: _container(m)["env"].append({"name": "MLFLOW_TRACKING_PASSWORD", "value": "hunter2"}),
        "looks like a secret",
    ),
    "key in env of a custom kind": (
        RUNTIME,
        lambda m: _container(m)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
        "looks like a secret",
    ),
    "password in a URL": (
        MLFLOW,
        lambda m: _container(m)["env"].append({"name": "DATABASE", "value": "postgresql://ann:hunter2@db/mlflow"}),
        "a password in a URL",
    ),
    "password in a command": (
        MLFLOW,
        lambda m: _container(m)["args"].append("--admin-password=hunter2"),
        "a password among the arguments",
    ),
    "key of AWS": (
        SERVE,
        lambda m: m["metadata"].update(annotations={"note": "AKIA" + "A" * 16}),
        "an access key of AWS",
    ),
    "private key": (
        SERVE,
        lambda m: m["metadata"].update(annotations={"key": "-----BEGIN RSA PRIVATE " + "KEY-----"}),
        "a private key",
    ),
    "token in a value": (
        SERVE,
        lambda m: _container(m)["args"].append("ghp_" + "a" * 36),
        "a token",
    ),
    "policy that opens all": (CLIENTS, lambda m: m["spec"].update(ingress=[{}]), "opens it to everybody"),
    "policy without ports": (CLIENTS, lambda m: m["spec"]["ingress"][0].pop("ports"), "opens all of them"),
    "every namespace": (
        CLIENTS,
        lambda m: m["spec"]["ingress"][0].update({"from": [{"namespaceSelector": {}}]}),
        "opens it to every pod of the cluster",
    ),
    "the internet": (
        CLIENTS,
        lambda m: m["spec"]["ingress"][0].update({"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
        "opens it to 0.0.0.0/0",
    ),
    "credentials of the cloud": (
        ("NetworkPolicy", "pipeline"),
        lambda m: m["spec"]["egress"][-1]["to"][0]["ipBlock"].pop("except"),
        "where clouds hand out credentials",
    ),
}


def test_the_real_manifests_are_without_problems() -> None:
    assert policy.problems(_dev()) == []


@pytest.mark.parametrize("case", CASES)
def test_refuses(case: str) -> None:
    (kind, name), change, message = CASES[case]
    found = policy.problems(_changed(kind, name, change))
    assert any(message in problem.what for problem in found), found or "nothing was found"
    # One object was changed, and nothing else is blamed.
    assert {(problem.name, problem.file) for problem in found} == {
        (name, obj.file) for obj in _dev() if (obj.kind, obj.name) == (kind, name)
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Deployment", "mvqkd-serve"), ("Deployment", "mvqkd-mlflow"), ("ClusterTrainingRuntime", "mvqkd-torch")],
)
def test_refuses_pods_that_no_network_policy_selects(kind: str, name: str) -> None:
    def relabel(manifest: Manifest) -> None:
        template = manifest["spec"]["template"]
        if "replicatedJobs" in template["spec"]:
            template = template["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        template["metadata"]["labels"] = {"app": "other"}

    objects = _changed(kind, name, relabel)
    assert policy.problems(objects) == [], "the default policy still closes it"
    without = [obj for obj in objects if (obj.kind, obj.name) != ("NetworkPolicy", "default-deny")]
    (problem,) = policy.problems(without)
    # The one for DNS selects every pod, but for what goes out only.
    assert (problem.kind, problem.name) == (kind, name)
    assert problem.what == "no NetworkPolicy of namespace mvqkd closes Ingress"
    none = [obj for obj in objects if obj.kind != "NetworkPolicy"]
    assert {problem.what.rpartition(" closes ")[2] for problem in policy.problems(none)} == {"Ingress and Egress"}


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"key": "app", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "app", "operator": "In", "values": ["b"]}, False),
        ({"key": "app", "operator": "NotIn", "values": ["b"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["a"]}, False),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "other", "operator": "DoesNotExist"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_policies_select_as_kubernetes_does(expression: Manifest, matches: bool) -> None:
    assert selects({"matchLabels": {"app": "a"}, "matchExpressions": [expression]}, {"app": "a"}) is matches
    assert not selects({"matchLabels": {"app": "b"}, "matchExpressions": [expression]}, {"app": "a"})


def test_policy_without_types_closes_egress_only_where_it_speaks_of_it() -> None:
    def untyped(manifest: Manifest) -> None:
        manifest["spec"] = {"podSelector": {}}

    without_dns = [
        obj
        for obj in _changed("NetworkPolicy", "default-deny", untyped)
        if obj.kind != "NetworkPolicy" or obj.name == "default-deny"
    ]
    assert {problem.what for problem in policy.problems(without_dns)} == {
        "no NetworkPolicy of namespace mvqkd closes Egress"
    }


def test_images_must_have_digests_where_asked_to() -> None:
    found = policy.problems(_dev(), digests=True)
    assert {problem.name for problem in found} == {"mvqkd-serve", "mvqkd-mlflow", "mvqkd-torch"}
    assert all("no digest; run python -m infra.images" in problem.what for problem in found)


def test_values_that_are_no_secrets_pass() -> None:
    variables = [
        {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
        {"name": "TOKEN_FILE", "value": "/var/run/token"},
        {"name": "WEBHOOK_URL", "value": "https://hooks.example:8443/path@x"},
        {"name": "TEMPLATE", "value": "postgresql://$(USER):$(PASSWORD)@db/mlflow"},
        {"name": "API_KEY", "value": ""},
    ]
    objects = _changed(*SERVE, lambda m: _container(m)["env"].extend(variables))
    assert policy.problems(objects) == []


def test_refuses_secrets_among_settings() -> None:
    (settings,) = (obj for obj in _dev() if obj.name.startswith("mvqkd-mlflow-settings"))
    data = {**settings.manifest["data"], "AWS_SECRET_ACCESS_KEY": "abc"}
    (problem,) = policy.problems([Object(settings.file, {**settings.manifest, "data": data})])
    assert problem.what == "data.AWS_SECRET_ACCESS_KEY: looks like a secret; use a Secret made by others"
    assert problem.file == "infra/base/mlflow/kustomization.yaml"


def test_command_prints_file_kind_name_and_what(tmp_path: Path) -> None:
    (manifest,) = (obj.manifest for obj in _changed(*ROLE, CASES["wildcard verb"][1]) if (obj.kind, obj.name) == ROLE)
    file = tmp_path / "role.yaml"
    file.write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "infra.check", str(file)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"{file}: Role/mvqkd-pipeline: wildcard in verbs\n" in result.stdout
