"""A Kubernetes API server on loopback that knows TrainJobs, and what may stand behind one: a script, or processes.

It speaks the part of the API that a launcher uses, with the answers, errors included, of a real server. Requests are
kept, so that tests can look at them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "mvqkd"
TOKEN = "token-of-the-test"
_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_CORE = f"/api/v1/namespaces/{NAMESPACE}"
_POD_LOG = re.compile(rf"{_CORE}/pods/([^/]+)/log")

Json = dict[str, Any]


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Json | None


@dataclass
class Refusal:
    """An answer instead of the usual one; ``status`` 0 closes the connection without a word."""

    method: str
    path: str
    status: int
    message: str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    # The server has done what it was asked, but its answer gets lost.
    after_doing_it: bool = False


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


def condition(kind: str, reason: str, message: str = "", status: str = "True") -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}


def pod(job: str, index: int = 0, *, ready: bool = True, **status: Any) -> Json:
    labels = {"jobset.sigs.k8s.io/jobset-name": job, "batch.kubernetes.io/job-completion-index": str(index)}
    metadata = {"name": f"{job}-node-0-{index}-x1y2z", "labels": labels, "creationTimestamp": now()}
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": metadata, "status": {"phase": "Running", "conditions": conditions, **status}}


class Cluster:
    """The server and its objects.

    Args:
        started: is called in a thread of its own with every job that is posted; changes it as a controller would.
    """

    def __init__(self, started: Callable[[Cluster, Json], None] = lambda cluster, job: None) -> None:
        self.jobs: dict[str, Json] = {}
        self.pods: list[Json] = []
        self.events: list[Json] = []
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.requests: list[Request] = []
        self.refusals: list[Refusal] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.started = started
        self.lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
            self.end_processes(signal.SIGKILL)
            for started in self._threads:
                started.join()

    def write_kubeconfig(self, path: Path, token: str = TOKEN) -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def posted(self) -> list[Json]:
        """Bodies of all TrainJobs that were posted."""
        return [request.body for request in self.requests if request.method == "POST" and request.body is not None]

    def asked(self, method: str, path: str = "") -> int:
        return sum(request.method == method and path in request.path for request in self.requests)

    def post(self, body: Json) -> None:
        job = copy.deepcopy(body)
        name = job["metadata"]["name"]
        job["metadata"]["creationTimestamp"] = now()
        with self.lock:
            self.jobs[name] = job
        thread = threading.Thread(target=self.started, args=(self, job))
        self._threads.append(thread)
        thread.start()

    def end(self, job: Json, *conditions: Json) -> None:
        with self.lock:
            job["status"] = {"conditions": list(conditions)}

    def delete(self, name: str) -> None:
        with self.lock:
            self.jobs.pop(name)
            self.pods.clear()
        self.end_processes(signal.SIGTERM)

    def end_processes(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)

    def warn(self, about: str, reason: str, message: str, kind: str = "Pod") -> None:
        event = {"metadata": {"name": f"{about}.{len(self.events)}"}, "type": "Warning", "reason": reason}
        with self.lock:
            self.events.append({**event, "message": message, "involvedObject": {"kind": kind, "name": about}})

    def say(self, pod_name: str, *lines: str) -> None:
        with self.lock:
            self.logs.setdefault(pod_name, []).extend((now(), line) for line in lines)


def run_in_processes(cluster: Cluster, job: Json) -> None:
    """Run the command of a TrainJob as its pods would, a process a node, with the variables that Trainer sets."""
    trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": os.environ.get("HOME", "/"),
        "OMP_NUM_THREADS": "1",
        **{variable["name"]: variable["value"] for variable in trainer.get("env", ())},
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    readers = []
    for index in range(trainer["numNodes"]):
        process = subprocess.Popen(
            trainer["command"],
            env={**environment, "PET_NODE_RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        cluster.processes.append(process)
        with cluster.lock:
            cluster.pods.append(pod(name, index))
        readers.append(threading.Thread(target=_keep_log, args=(cluster, process, f"{name}-node-0-{index}-x1y2z")))
        readers[-1].start()
    with cluster.lock:
        job["status"] = {"conditions": [], "jobsStatus": [{"name": "node", "active": 1}]}
    for reader in readers:
        reader.join()
    codes = [process.wait() for process in cluster.processes]
    failed = condition("Failed", "FailedJobs", f"jobset failed, exit codes {codes}")
    cluster.end(job, failed if any(codes) else condition("Complete", "JobsCompleted", "jobset completed successfully"))


def _keep_log(cluster: Cluster, process: subprocess.Popen[str], name: str) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            cluster.say(name, line.rstrip("\n"))


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: in two they wait for each other's acknowledgement

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else None
        request = Request(self.command, url.path, parse_qs(url.query), body)
        with self.cluster.lock:
            self.cluster.requests.append(request)
            refusal = next((one for one in self.cluster.refusals if self._meets(one, request)), None)
            if refusal is not None:
                refusal.times -= 1
        if refusal is None or refusal.after_doing_it:
            answer = self._carry_out(request)
        if refusal is not None and refusal.status == 0:
            self.close_connection = True
            return
        if refusal is not None:
            answer = (refusal.status, _status(refusal.status, refusal.message))
        self._send(*answer, headers=refusal.headers if refusal is not None else {})

    @staticmethod
    def _meets(refusal: Refusal, request: Request) -> bool:
        return refusal.times > 0 and refusal.method == request.method and refusal.path in request.path

    def _carry_out(self, request: Request) -> tuple[int, Any]:
        cluster = self.cluster
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, _status(401, "Unauthorized")
        if request.path == _JOBS and request.method == "POST":
            assert request.body is not None
            name = request.body["metadata"]["name"]
            if name in cluster.jobs:
                return 409, _status(409, f'trainjobs.trainer.kubeflow.org "{name}" already exists')
            cluster.post(request.body)
            return 201, request.body
        if request.path.startswith(f"{_JOBS}/"):
            name = request.path.rpartition("/")[2]
            if name not in cluster.jobs:
                return 404, _status(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
            if request.method == "DELETE":
                cluster.delete(name)
                return 200, _status(200, "deleted")
            return 200, cluster.jobs[name]
        if request.path == f"{_CORE}/pods":
            label, _, value = request.query["labelSelector"][0].partition("=")
            return 200, {"items": [one for one in cluster.pods if one["metadata"]["labels"].get(label) == value]}
        if request.path == f"{_CORE}/events":
            assert request.query["fieldSelector"] == ["type=Warning"]
            return 200, {"items": cluster.events}
        if match := _POD_LOG.fullmatch(request.path):
            return self._log(match[1], request)
        return 404, _status(404, "the server could not find the requested resource")

    def _log(self, name: str, request: Request) -> tuple[int, Any]:
        assert request.query["timestamps"] == ["True"]
        if name not in self.cluster.logs:
            return 400, _status(400, f'container "node" in pod "{name}" is waiting to start: ContainerCreating')
        oldest = datetime.fromtimestamp(time.time() - int(request.query["sinceSeconds"][0]), UTC)
        since = oldest.strftime("%Y-%m-%dT%H:%M:%S")
        lines = [f"{stamp} {line}\n" for stamp, line in self.cluster.logs[name] if stamp >= since]
        return 200, "".join(lines)

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        with self.cluster.lock:
            content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(content)


def _status(code: int, message: str) -> Json:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}
