"""A TrainJob that is posted, adopted, replaced: requests over HTTP to a small API server on loopback."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.adapters.launch_torchrun import AGENT_GRACE_S
from mvqkd.adapters.trainjob_spec import NODE, VOLUME
from mvqkd.artifacts import load_artifact
from mvqkd.errors import TrainingError
from tests.trainjob_cluster import NAMESPACE, Cluster, Json, Refusal, Request, pod
from tests.trainjob_stand import (
    COMPLETE,
    CONFIG,
    FAILED,
    Stand,
    argument,
    complete,
    soon,
)

SCHEMA = json.loads(Path("infra/schemas/trainjob-v1alpha1.json").read_text(encoding="utf-8"))


def patch_of(job: Json) -> Json:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    return node["template"]["spec"]["template"]["spec"]


def test_a_job_is_posted_watched_and_its_artifact_taken_back(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mvqkd.launch")
    artifact = stand.launch()
    assert artifact.path == stand.root / "student"
    assert artifact.parents == {"cut-manifest": stand.data.id}
    assert load_artifact(stand.root / "student").config == CONFIG.model_dump(mode="json")

    (job,) = stand.cluster.posted()
    jsonschema.validate(job, SCHEMA)
    assert job["metadata"]["name"] == stand.name
    assert job["metadata"]["namespace"] == NAMESPACE
    assert job["spec"]["runtimeRef"]["name"] == "mvqkd-torch"
    assert "runtimePatches" not in job["spec"]
    assert not {"env", "image", "resourcesPerNode"} & set(job["spec"]["trainer"])
    command = job["spec"]["trainer"]["command"]
    assert command[:2] == ["mvqkd", "train-student"]
    assert argument(job, "--data") == stand.shared / "artifacts" / f"cut-manifest-{stand.data.short_id}"
    assert argument(job, "--launcher") == Path("torchrun")
    assert argument(job, "--launch-rdzv-id") == Path(stand.name)
    assert "--codebook-indexes" not in command
    # Inputs without a flag are looked for here, so nothing may lie there.
    assert not argument(job, "--artifacts-dir").exists()
    assert f"trainjob mvqkd/{stand.name}: posted" in caplog.text
    assert f"trainjob {stand.name}: complete (JobsCompleted: jobset completed successfully)" in caplog.text


def test_every_setting_reaches_the_job(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_RUN_ID", "run-1")
    stand.launch(
        num_nodes=4,
        min_nodes=2,
        num_processes=8,
        max_restarts=7,
        grace_s=90,
        image="registry/mvqkd@sha256:" + "0" * 64,
        claim="other-claim",
        service_account="trainer",
        cpu="16",
        memory="64Gi",
        num_accelerators=8,
        node_selector={"pool": "gpu"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        env={"NCCL_DEBUG": "WARN"},
        env_secrets={"mvqkd-mlflow-client": {"password": "MLFLOW_TRACKING_PASSWORD"}},
    )
    (job,) = stand.cluster.posted()
    jsonschema.validate(job, SCHEMA)
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert trainer["image"].startswith("registry/mvqkd@")
    wanted = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": wanted, "limits": wanted}
    secret = {"secretKeyRef": {"name": "mvqkd-mlflow-client", "key": "password"}}
    assert trainer["env"] == [
        {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"},
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": secret},
        {"name": "MLFLOW_RUN_ID", "value": "run-1"},
    ]
    flags = dict(zip(trainer["command"], trainer["command"][1:], strict=False))
    passed = {name: flags[f"--launch-{name}"] for name in ("num-nodes", "min-nodes", "num-processes", "max-restarts")}
    assert passed == {"num-nodes": "4", "min-nodes": "2", "num-processes": "8", "max-restarts": "7"}
    assert flags["--launch-grace-s"] == "90"
    patch = patch_of(job)
    assert patch["serviceAccountName"] == "trainer"
    assert patch["nodeSelector"] == {"pool": "gpu"}
    assert patch["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert patch["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "other-claim"}}]
    (container,) = patch["containers"]
    assert container == {"name": "node", "volumeMounts": [{"name": "shared", "mountPath": str(stand.shared)}]}


def test_credentials_stay_out_of_the_manifest_and_a_new_run_is_no_other_job(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    monkeypatch.setenv("MLFLOW_RUN_ID", "run-1")
    stand.cluster.started = lambda cluster, job: None
    with pytest.raises(TrainingError, match=r"within 0\.1 s"):
        stand.launch(timeout_s=0.1, delete_job="never")
    assert "secret@" not in json.dumps(stand.cluster.posted())
    monkeypatch.setenv("MLFLOW_RUN_ID", "run-2")
    job = stand.cluster.jobs[stand.name]
    soon(lambda: complete(stand.cluster, job))
    stand.launch()
    assert stand.cluster.jobs[stand.name] is job, "adopted"


def running(stand: Stand, **changes: Any) -> Json:
    """A job that a launcher before has posted."""
    stand.cluster.started = lambda cluster, job: None
    with pytest.raises(TrainingError):
        stand.launch(**{"timeout_s": 0.01, "delete_job": "never", **changes})
    job = stand.cluster.jobs[stand.name]
    job["status"] = {"jobsStatus": [{"name": "node", "active": 1}]}
    stand.cluster.started = complete
    stand.cluster.requests.clear()
    return job


def test_a_launcher_that_is_started_again_adopts_the_job(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mvqkd.launch")
    job = running(stand)
    soon(lambda: complete(stand.cluster, job))
    stand.launch()
    assert "runs already, adopted" in caplog.text
    assert stand.cluster.jobs[stand.name] is job
    assert stand.cluster.asked("DELETE") == 0


def test_a_job_with_other_settings_is_not_touched(stand: Stand) -> None:
    running(stand, num_nodes=2)
    with pytest.raises(TrainingError, match=r"got one that runs with other nodes.*kubectl -n mvqkd delete trainjob"):
        stand.launch()
    assert stand.cluster.asked("DELETE") == 0


@pytest.mark.parametrize("end", [FAILED, COMPLETE], ids=["failed", "complete without an artifact"])
def test_a_job_that_ended_without_an_artifact_is_replaced(
    stand: Stand, end: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvqkd.adapters.launch_command._VISIBLE_WITHIN_S", 0.1)
    before = running(stand, num_nodes=2)
    stand.cluster.end(before, end)
    stand.launch()
    assert stand.cluster.asked("DELETE") == 1
    assert stand.cluster.jobs[stand.name] is not before


def test_a_job_that_completes_while_it_is_looked_for_is_not_run_again(stand: Stand) -> None:
    job = running(stand)
    stand.cluster.started = lambda cluster, job: None
    # When the launcher looks for the artifact it is not there yet; when it is told of the job, that has ended.
    stand.cluster.refusals.append(Refusal("POST", "trainjobs", 503, "busy"))
    threading.Thread(target=lambda: (time.sleep(0.2), complete(stand.cluster, job))).start()
    stand.launch()
    assert stand.cluster.jobs[stand.name] is job
    assert stand.cluster.asked("DELETE") == 0


def test_a_job_that_is_being_deleted_is_waited_for(stand: Stand) -> None:
    before = running(stand)
    before["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    soon(lambda: stand.cluster.delete(stand.name))
    stand.launch()
    assert stand.cluster.asked("DELETE") == 0
    assert stand.cluster.asked("POST") > 1


def test_an_artifact_that_no_launcher_has_taken_away_needs_no_job(stand: Stand) -> None:
    first = stand.launch()
    before = len(stand.cluster.requests)
    other = launch_training(stand.config(num_nodes=3), CONFIG, data=stand.data.path, out=stand.root / "again")
    assert other.id == first.id
    assert len(stand.cluster.requests) == before


def test_a_complete_job_is_kept_for_its_log_unless_told_not_to(stand: Stand) -> None:
    stand.launch()
    assert list(stand.cluster.jobs) == [stand.name]
    launch_training(
        stand.config(delete_job="always"),
        CONFIG.model_copy(update={"seed": 1}),
        data=stand.data.path,
        out=stand.root / "s",
    )
    assert list(stand.cluster.jobs) == [stand.name]


def test_the_runtime_and_the_permissions_in_infra_fit_the_launcher(stand: Stand) -> None:
    usual = LaunchConfig(launcher="trainjob")
    runtime = yaml.safe_load(Path("infra/base/training/runtime.yaml").read_text(encoding="utf-8"))
    assert runtime["metadata"]["name"] == usual.runtime
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod_spec = node["template"]["spec"]["template"]["spec"]
    # The names that patches use, and time for the ranks, then for their launcher.
    assert node["name"] == NODE == pod_spec["containers"][0]["name"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod_spec["containers"][0]["volumeMounts"]}
    assert mounts[VOLUME] == str(usual.shared_path)
    assert pod_spec["terminationGracePeriodSeconds"] > usual.grace_s + AGENT_GRACE_S

    objects = list(yaml.safe_load_all(Path("infra/base/access.yaml").read_text(encoding="utf-8")))
    (role,) = (one for one in objects if one["kind"] == "Role" and one["metadata"]["name"] == "mvqkd-pipeline")
    assert role["metadata"]["namespace"] == usual.namespace
    granted = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}

    def work(cluster: Cluster, job: Json) -> None:
        cluster.pods.append(pod(job["metadata"]["name"]))
        complete(cluster, job)

    stand.cluster.started = work
    stand.launch(delete_job="always")
    used = {(resource_of(request.path), verb_of(request)) for request in stand.cluster.requests}
    assert ("pods/log", "get") in used
    assert ("trainjobs", "delete") in used
    assert used <= granted


def resource_of(path: str) -> str:
    """``trainjobs``, ``pods``, ``pods/log``: what a rule of RBAC names."""
    resource, *name = path.partition(f"/namespaces/{NAMESPACE}/")[2].split("/")
    return "/".join([resource, *name[1:]])


def verb_of(request: Request) -> str:
    named = len(request.path.partition(f"/namespaces/{NAMESPACE}/")[2].split("/")) > 1
    return {"POST": "create", "DELETE": "delete", "GET": "get" if named else "list"}[request.method]
