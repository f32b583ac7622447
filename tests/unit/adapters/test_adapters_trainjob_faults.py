"""A TrainJob that fails, is refused, is stopped: what the launcher says and does, over HTTP to a server on loopback."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from mvqkd.errors import ConfigError, MissingDependencyError, TrainingError
from mvqkd.train.preemption import TrainingStopped
from tests.trainjob_cluster import Cluster, Json, Refusal, condition, pod
from tests.trainjob_stand import (
    FAILED,
    Stand,
    complete,
    soon,
    wait_for_looks,
)


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
