"""A training as a TrainJob of Kubeflow Trainer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.adapters.launch_command import stage_arguments
from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.adapters.launch_storage import Place, place_of
from mvqkd.adapters.mlflow_store import redacted
from mvqkd.adapters.trainjob_api import GROUP, VERSION
from mvqkd.artifacts import Artifact, content_hash
from mvqkd.config import TrainStudentConfig

HASH_LABEL = "mvqkd/spec-hash"
# The job of a runtime's template that trains, and its container: Kubeflow Trainer's own names.
NODE = "node"
VOLUME = "shared"
# Fields that the launcher in each pod needs, which is torchrun's.
_PASSED_ON = ("num_processes", "num_nodes", "min_nodes", "max_restarts", "grace_s", "join_timeout_s")
# Where ranks report metrics while they train. The second is new in every run of a pipeline.
_TRACKING, _TRACKED_RUN = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"


@dataclass(frozen=True)
class TrainJob:
    """A training on a cluster, named after its place on the shared storage."""

    place: Place
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.place.name

    def is_specified_as(self, other: Mapping[str, Any]) -> bool:
        """Whether a job found on the cluster asks for the same."""
        label: str = self.manifest["metadata"]["labels"][HASH_LABEL]
        return bool((other["metadata"].get("labels") or {}).get(HASH_LABEL) == label)


def describe(launch: LaunchConfig, config: TrainStudentConfig, staged: Mapping[str, Artifact]) -> TrainJob:
    """The TrainJob that trains with this section on these artifacts, which lie on the shared storage."""
    runs_in = launch.image or f"the image of {launch.runtime}"
    place = place_of(launch.shared_path, config, staged.values(), runs_in=runs_in)
    spec = _spec(launch, place, {name: artifact.path for name, artifact in staged.items()})
    labels = {
        "app.kubernetes.io/name": "mvqkd",
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/managed-by": "mvqkd",
        HASH_LABEL: content_hash(spec)[:40],
    }
    tracked_run = os.environ.get(_TRACKED_RUN)
    if tracked_run and _TRACKED_RUN not in launch.env:
        spec["trainer"].setdefault("env", []).append({"name": _TRACKED_RUN, "value": tracked_run})
    metadata = {"name": place.name, "namespace": launch.namespace, "labels": labels}
    return TrainJob(place, {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec})


def _spec(launch: LaunchConfig, place: Place, inputs: Mapping[str, Path]) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "numNodes": launch.num_nodes,
        "numProcPerNode": launch.num_processes,
        "command": ["mvqkd", *stage_arguments(place.params, inputs, place.out), *_launcher_flags(launch, place.name)],
    }
    if launch.image is not None:
        trainer["image"] = launch.image
    if environment := _environment(launch):
        trainer["env"] = environment
    if resources := _resources(launch):
        # Equal, so that the node's kubelet evicts others first.
        trainer["resourcesPerNode"] = {"requests": resources, "limits": resources}
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": launch.runtime},
        "trainer": trainer,
    }
    if pod := _pod_patch(launch):
        template = {"spec": {"template": {"spec": pod}}}
        jobs = {"replicatedJobs": [{"name": NODE, "template": template}]}
        patch = {"manager": "mvqkd/launcher", "trainingRuntimeSpec": {"template": {"spec": jobs}}}
        spec["runtimePatches"] = [patch]
    return spec


def _launcher_flags(launch: LaunchConfig, name: str) -> list[str]:
    flags = ["--launcher", "torchrun", "--launch-rdzv-id", name]
    for field in _PASSED_ON:
        value = getattr(launch, field)
        if value is not None:
            flags += [f"--launch-{field.replace('_', '-')}", str(value)]
    return flags


def _environment(launch: LaunchConfig) -> list[dict[str, Any]]:
    plain = dict(launch.env)
    uri = os.environ.get(_TRACKING, "")
    # Credentials belong in a Secret, never in a manifest.
    if uri and uri == redacted(uri):
        plain.setdefault(_TRACKING, uri)
    variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(plain.items())]
    for secret, keys in sorted(launch.env_secrets.items()):
        for key, name in sorted(keys.items()):
            variables.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return variables


def _resources(launch: LaunchConfig) -> dict[str, str]:
    wanted = {"cpu": launch.cpu, "memory": launch.memory}
    if launch.num_accelerators:
        wanted[launch.accelerator] = str(launch.num_accelerators)
    return {name: amount for name, amount in wanted.items() if amount is not None}


def _pod_patch(launch: LaunchConfig) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    if launch.service_account is not None:
        patch["serviceAccountName"] = launch.service_account
    if launch.node_selector:
        patch["nodeSelector"] = dict(launch.node_selector)
    if launch.tolerations:
        patch["tolerations"] = [dict(toleration) for toleration in launch.tolerations]
    if launch.claim is not None:
        patch["volumes"] = [{"name": VOLUME, "persistentVolumeClaim": {"claimName": launch.claim}}]
        mount = {"name": VOLUME, "mountPath": str(launch.shared_path)}
        patch["containers"] = [{"name": NODE, "volumeMounts": [mount]}]
    return patch
