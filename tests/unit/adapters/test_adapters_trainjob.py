"""A TrainJob's life over HTTP: posted, adopted, refused, failed, stopped. The API server is a small one on loopback."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mvqkd.adapters.launch import LaunchConfig, launch_training
from mvqkd.adapters.launch_storage import place_of
from mvqkd.adapters.launch_torchrun import AGENT_GRACE_S
from mvqkd.adapters.trainjob_spec import NODE, VOLUME
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import PrepareDataConfig, TrainStudentConfig
from mvqkd.errors import ConfigError, MissingDependencyError, TrainingError
from mvqkd.train.preemption import TrainingStopped
from tests.trainjob_cluster import NAMESPACE, Cluster, Json, Refusal, Request, condition, pod

SCHEMA = json.loads(Path("infra/schemas/trainjob-v1alpha1.json").read_text(encoding="utf-8"))
CONFIG = TrainStudentConfig(objective="none", num_epochs=2)
POLL_S = 0.02
# Long enough for a slow machine; no test waits for it.
PATIENCE_S = 20.0
COMPLETE = condition("Complete", "JobsCompleted", "jobset completed successfully")
FAILED = condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")


def argument(job: Json, flag: str) -> Path:
    command = job["spec"]["trainer"]["command"]
    return Path(command[command.index(flag) + 1])


def train(job: Json) -> None:
    """What the job's command would do: leave a student that was made with the params file's section."""
    section = yaml.safe_load(argument(job, "--params").read_text())["train-student"]
    data = load_artifact(argument(job, "--data"), "cut-manifest")
    partial = PartialArtifact(
        argument(job, "--out"), "student-checkpoint", stage="train-student", config=section, parents=[data]
    )
    (partial.path / "student.safetensors").write_bytes(b"weights")
    partial.commit(facts={"objective": section["objective"]})


def complete(cluster: Cluster, job: Json) -> None:
    train(job)
    cluster.end(job, COMPLETE)


class Stand:
    """A cluster, the storage that it shares with the launcher, and one input."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.cluster, self.root, self.shared = cluster, root, root / "shared"
        self.shared.mkdir()
        partial = PartialArtifact(
            root / "data", "cut-manifest", stage="prepare-data", config=PrepareDataConfig().model_dump(mode="json")
        )
        (partial.path / "tokens.txt").write_text("<blk> 0\n")
        self.data = partial.commit()

    def config(self, **changes: Any) -> LaunchConfig:
        usual = {
            "launcher": "trainjob",
            "shared_dir": str(self.shared),
            "poll_s": POLL_S,
            "patience_s": PATIENCE_S,
            "timeout_s": 60.0,
        }
        return LaunchConfig(**{**usual, **changes})

    def launch(self, **changes: Any) -> Artifact:
        return launch_training(self.config(**changes), CONFIG, data=self.data.path, out=self.root / "student")

    @property
    def name(self) -> str:
        return place_of(self.shared, CONFIG, [self.data], runs_in="the image of mvqkd-torch").name


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with Cluster(complete).running() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.write_kubeconfig(tmp_path / "kubeconfig")))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        yield Stand(cluster, tmp_path)


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
    threading.Thread(target=complete, args=(stand.cluster, stand.cluster.jobs[stand.name])).start()
    stand.launch()
    assert list(stand.cluster.jobs) == [stand.name]


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


def soon(action: Callable[[], Any]) -> None:
    """Do it when the launcher has looked at the job a few times."""
    threading.Thread(target=lambda: (time.sleep(10 * POLL_S), action())).start()


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
def test_a_job_that_ended_without_an_artifact_is_replaced(stand: Stand, end: Json) -> None:
    before = running(stand, num_nodes=2)
    stand.cluster.end(before, end)
    stand.launch()
    assert stand.cluster.asked("DELETE") == 1
    assert stand.cluster.jobs[stand.name] is not before


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


def wait_for_looks(cluster: Cluster, count: int) -> None:
    """Until the launcher has asked for the events so many times more."""
    before = cluster.asked("GET", "/events")
    while cluster.asked("GET", "/events") < before + count:
        time.sleep(POLL_S)


def test_a_failed_job_says_why(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    def fail(cluster: Cluster, job: Json) -> None:
        name = job["metadata"]["name"]
        ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        waits = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        starts = {"waiting": {"reason": "ContainerCreating"}}
        cluster.pods.append(pod(name, containerStatuses=[{"name": "node", "lastState": ended, "state": starts}]))
        cluster.pods.append(pod(name, 1, ready=False, containerStatuses=[{"name": "node", "state": waits}]))
        cluster.warn(f"{name}-node-0-1-x1y2z", "FailedScheduling", "0/3 nodes are available")
        cluster.warn("another-job-node-0-0", "FailedScheduling", "of no concern")
        cluster.say(f"{name}-node-0-0-x1y2z", "step 12", "Killed")
        wait_for_looks(cluster, 3)
        cluster.end(job, condition("Suspended", "Resumed", "resumed", status="False"), FAILED)

    stand.cluster.started = fail
    with pytest.raises(TrainingError) as caught:
        stand.launch(delete_job="always")
    message = str(caught.value)
    assert "got Failed (FailedJobs: jobset failed due to one or more job failures)" in message
    for part in ("OOMKilled: exit code 137", "FailedScheduling: 0/3 nodes", "ImagePullBackOff: Back-off", "| Killed"):
        assert part in message
    assert "raise launch.memory" in message
    assert "of no concern" not in caplog.text + message
    assert "ContainerCreating" not in caplog.text
    assert caplog.text.count("FailedScheduling") == 1
    assert stand.cluster.jobs == {}


def test_the_logs_of_all_nodes_are_passed_on_once(
    stand: Stand, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mvqkd.launch")

    def work(cluster: Cluster, job: Json) -> None:
        name = job["metadata"]["name"]
        cluster.pods += [pod(name, 0, ready=False), pod(name, 1)]
        job["status"] = {"jobsStatus": [{"name": "node", "active": 1}]}
        for number in range(5):
            cluster.say(f"{name}-node-0-0-x1y2z", f"line {number}")
            cluster.say(f"{name}-node-0-1-x1y2z", f"other {number}")
            wait_for_looks(cluster, 2)
        complete(cluster, job)

    stand.cluster.started = work
    stand.launch()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {number}" for number in range(5)]
    assert [line for line in lines if "other" in line] == [f"node 1: other {number}" for number in range(5)]
    assert "running, 1/2 pods ready" in caplog.text


def test_training_goes_on_where_logs_and_events_may_not_be_read(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.cluster.refusals += [
        Refusal("GET", "/events", 403, 'events is forbidden: User "x" cannot list', times=100),
        Refusal("GET", "/pods", 403, 'pods is forbidden: User "x" cannot list', times=100),
    ]
    stand.cluster.started = lambda cluster, job: soon(lambda: complete(cluster, job))
    stand.launch()
    assert caplog.text.count("events is forbidden") == 1
    assert caplog.text.count("pods is forbidden") == 1


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (Refusal("POST", "trainjobs", 401, "Unauthorized"), "got 401 Unauthorized; log in again"),
        (Refusal("POST", "trainjobs", 403, 'User "x" cannot create'), "let this account create, get and delete"),
        (
            Refusal("POST", "trainjobs", 403, 'admission webhook "v" denied the request: runtime "r" not found'),
            "mend the field of section launch that it names",
        ),
        (Refusal("POST", "trainjobs", 404, "page not found"), "install Kubeflow Trainer"),
        (Refusal("POST", "trainjobs", 422, "spec.trainer.numNodes: Invalid value"), "422 spec.trainer.numNodes"),
        (Refusal("POST", "trainjobs", 500, "etcd is away", times=100), "an answer within 0.6 s, got 500 etcd is away"),
        (Refusal("POST", "trainjobs", 0, "", times=100), "an answer within 0.6 s, got ProtocolError"),
        (Refusal("GET", "trainjobs", 401, "Unauthorized"), "to get mvqkd/mvqkd-train-.*log in again"),
    ],
    ids=lambda value: f"{value.method} {value.status}" if isinstance(value, Refusal) else "",
)
def test_a_refusal_is_one_line_with_a_next_step(stand: Stand, refusal: Refusal, message: str) -> None:
    stand.cluster.refusals.append(refusal)
    with pytest.raises(TrainingError, match=message) as caught:
        stand.launch(patience_s=0.6)
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_token_and_a_server_that_is_not_there(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = stand.cluster.write_kubeconfig(tmp_path / "wrong", token="another")
    monkeypatch.setenv("KUBECONFIG", str(wrong))
    with pytest.raises(TrainingError, match="401 Unauthorized; log in again"):
        stand.launch()
    nobody = json.loads(wrong.read_text())
    nobody["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    wrong.write_text(json.dumps(nobody))
    with pytest.raises(TrainingError, match=r"to create .*an answer within 0\.1 s, got NewConnectionError"):
        stand.launch(patience_s=0.1)


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal("POST", "trainjobs", 500, "etcd is away"),
        Refusal("GET", "trainjobs", 503, "apiserver is starting", times=2),
        Refusal("GET", "trainjobs", 429, "too many requests", headers={"Retry-After": "1"}),
        Refusal("GET", "trainjobs", 0, ""),
        # The job was made, but nobody heard so.
        Refusal("POST", "trainjobs", 0, "", after_doing_it=True),
        Refusal("POST", "trainjobs", 504, "timeout", after_doing_it=True),
    ],
    ids=lambda refusal: f"{refusal.method} {refusal.status}{' done' * refusal.after_doing_it}",
)
def test_a_fault_of_the_server_is_waited_out(stand: Stand, refusal: Refusal) -> None:
    stand.cluster.refusals.append(refusal)
    stand.cluster.started = lambda cluster, job: soon(lambda: complete(cluster, job))
    began = time.monotonic()
    assert stand.launch().kind == "student-checkpoint"
    assert list(stand.cluster.jobs) == [stand.name]
    assert refusal.times == 0
    if refusal.headers:
        assert time.monotonic() - began > 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delete_job", ["stopped", "never"])
def test_a_stopped_launcher_deletes_its_job_unless_told_not_to(
    stand: Stand, number: signal.Signals, delete_job: str
) -> None:
    stand.cluster.started = lambda cluster, job: soon(lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt if number is signal.SIGINT else TrainingStopped) as caught:
        stand.launch(delete_job=delete_job)
    assert signal.getsignal(number) is before
    assert (stand.name in stand.cluster.jobs) is (delete_job == "never")
    if number is signal.SIGTERM:
        word = "the job runs on" if delete_job == "never" else "the job is deleted"
        assert word in str(caught.value)
        assert "run the same command again to go on" in str(caught.value)


def test_a_job_is_deleted_even_by_a_server_that_falters(stand: Stand) -> None:
    stand.cluster.started = lambda cluster, job: soon(lambda: os.kill(os.getpid(), signal.SIGTERM))
    stand.cluster.refusals.append(Refusal("DELETE", "trainjobs", 500, "etcd is away"))
    with pytest.raises(TrainingStopped, match="the job is deleted"):
        stand.launch()
    assert stand.cluster.jobs == {}


def test_a_job_that_takes_too_long_is_deleted(stand: Stand) -> None:
    stand.cluster.started = lambda cluster, job: None
    with pytest.raises(TrainingError, match=r"its end within 0.2 s, got none; the job is deleted"):
        stand.launch(timeout_s=0.2)
    assert stand.cluster.jobs == {}


def test_a_job_that_somebody_deletes_is_an_error(stand: Stand) -> None:
    stand.cluster.started = lambda cluster, job: soon(lambda: cluster.delete(job["metadata"]["name"]))
    with pytest.raises(TrainingError, match="somebody has deleted it"):
        stand.launch()


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


def test_what_the_launcher_needs_is_asked_for_first(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"launch\.shared_dir: expected a directory"):
        stand.launch(shared_dir=str(tmp_path / "none"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-such-file"))
    with pytest.raises(ConfigError, match="expected a cluster, named by KUBECONFIG"):
        stand.launch()
    monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mvqkd\[kfp\]'"):
        stand.launch()


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
    stand.cluster.started = lambda cluster, job: (
        cluster.pods.append(pod(job["metadata"]["name"])),
        complete(cluster, job),
    )
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
