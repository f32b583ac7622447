"""The MLflow server as its manifest starts it: what the rendered Deployment says runs here, on sqlite and a folder."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infra.render import render
from mvqkd.adapters.registry import resolve_bundle
from mvqkd.errors import RegistryError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ADMIN, PIPELINE, READER = "admin:first-login-only", "pipeline:a-long-phrase", "reader:another-phrase"
START_TIMEOUT_S = 180.0
EXPERIMENTS = "/api/2.0/mlflow/experiments"


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Server:
    """The server, its folder and what its start printed."""

    url: str
    folder: Path
    prepared: str

    def call(self, path: str, body: object = None, *, user: str = "", **headers: str) -> Answer:
        """Send a request, a POST where there is a body."""
        headers = {"Content-Type": "application/json", **headers}
        if user:
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Init container, then server, both with the environment of the manifest; ended by its process id."""
    folder = tmp_path_factory.mktemp("mlflow")
    objects = render(ROOT / "infra" / "overlays" / "dev")
    (pod,) = (obj.spec["template"]["spec"] for obj in objects if (obj.kind, obj.name) == ("Deployment", "mvqkd-mlflow"))
    settings, code = (
        next(obj.manifest["data"] for obj in objects if obj.kind == "ConfigMap" and name in obj.name)
        for name in ("mlflow-settings", "mlflow-code")
    )
    # Volumes of the pod, as folders here.
    places = {path: str(folder / path.strip("/").replace("/", "-")) for path in _mounts(pod)}
    for place in places.values():
        Path(place).mkdir()
    for name, text in code.items():
        Path(places["/etc/mvqkd-mlflow"], name).write_text(text, encoding="utf-8")
    port = _free_port()
    # A percent sign in it must survive the auth file, as that of a password must.
    secrets = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/100%25.db",
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN.partition(":")[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN.partition(":")[2],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
    }
    here = {**places, "5000": str(port), "s3://mvqkd-mlflow/artifacts": str(folder / "bucket"), "0.0.0.0": "127.0.0.1"}
    (prepare,), (main,) = pod["initContainers"], pod["containers"]
    prepared = subprocess.run(
        [sys.executable, *_here(prepare["command"][1:], here)],
        env=_environment(prepare, secrets, {}, here),
        cwd=places["/data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert prepared.returncode == 0, prepared.stderr
    command = [
        str(Path(sys.executable).with_name(main["command"][0])),
        *_here([*main["command"][1:], *main["args"]], here),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=_environment(main, secrets, settings, here),
            cwd=places["/data"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            running = Server(f"http://localhost:{port}", folder, prepared.stdout)
            _await(running, main["startupProbe"]["httpGet"]["path"], process)
            yield running
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _mounts(pod: dict[str, Any]) -> list[str]:
    return sorted({mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]})


def _here(texts: list[str], here: dict[str, str]) -> list[str]:
    """The same with the addresses and paths of this machine."""
    # At once: what has been put in place of one may look like another. Longer ones come first.
    pattern = re.compile("|".join(re.escape(there) for there in sorted(here, key=len, reverse=True)))
    return [pattern.sub(lambda match: here[match[0]], text) for text in texts]


def _environment(
    container: dict[str, Any], secrets: dict[str, str], settings: dict[str, str], here: dict[str, str]
) -> dict[str, str]:
    values = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    values |= settings if "envFrom" in container else {}
    values = dict(zip(values, _here(list(values.values()), here), strict=True))
    for variable in container["env"]:
        if "valueFrom" in variable:
            values[variable["name"]] = secrets[variable["valueFrom"]["secretKeyRef"]["key"]]
    # What the image sets, and one thread: the machine is shared.
    image = {"HOME": here["/data"], "TMPDIR": here["/tmp"], "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return {"PATH": os.environ["PATH"], **image, **values}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(server: Server, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if server.call(path).status == 200:
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer; {(server.folder / 'log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def logins(server: Server) -> Server:
    """The server with the two logins of docs/kubernetes.md."""
    for login in (PIPELINE, READER):
        name, _, password = login.partition(":")
        made = server.call("/api/2.0/mlflow/users/create", {"username": name, "password": password}, user=ADMIN)
        assert made.json["user"]["is_admin"] is False
    return server


def test_prepares_the_tables_and_keeps_the_auth_file_to_itself(server: Server) -> None:
    assert server.prepared.endswith("tables are up to date\n")
    (file,) = server.folder.rglob("auth.ini")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "100%%25.db" in file.read_text()
    assert [found.name for found in server.folder.rglob("*.db")] == ["100%.db"], "logins are beside the rest"


def test_answers_nobody_without_a_login(server: Server) -> None:
    assert server.call(f"{EXPERIMENTS}/search", {"max_results": 1}).status == 401
    assert server.call(f"{EXPERIMENTS}/search", {"max_results": 1}, user="admin:wrong").status == 401
    assert server.call(f"{EXPERIMENTS}/search", {"max_results": 1}, user=ADMIN).status == 200


def test_answers_to_its_own_names_only(server: Server) -> None:
    port = server.url.rpartition(":")[2]
    for host, status in (("mvqkd-mlflow.mvqkd.svc", 200), ("mvqkd-mlflow", 200), ("evil.example", 403)):
        found = server.call(f"{EXPERIMENTS}/search", {"max_results": 1}, user=ADMIN, Host=f"{host}:{port}")
        assert found.status == status, host
    assert server.call("/health", Host="10.1.2.3:5000").status == 200, "a probe names the pod's address"


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "artifact_location": "file:///etc"},
        {"name": "b", "artifactLocation": "file:///etc"},
        {"name": "c", "artifact_location": "/etc"},
        {"name": "d", "artifact_location": "s3://another-bucket"},
        '{"name": "e", "artifact_location": "file:///etc"}',
        b'{"name": "f", "artifact\\u005flocation": "file:///etc"}',
    ],
    ids=["file", "other name", "path", "bucket", "text in text", "escaped"],
)
@pytest.mark.parametrize("user", [ADMIN, PIPELINE], ids=["admin", "pipeline"])
def test_decides_by_itself_where_files_are_kept(logins: Server, body: object, user: str) -> None:
    refused = logins.call(f"{EXPERIMENTS}/create", body, user=user)
    assert refused.status == 400
    assert refused.json["message"].startswith("artifact_location is not accepted")
    assert logins.call(f"/ajax-api{EXPERIMENTS.removeprefix('/api')}/create", body, user=user).status == 400


def test_keeps_files_behind_itself_and_the_readers_hands_off(logins: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    experiment = logins.call(f"{EXPERIMENTS}/create", {"name": "distill"}, user=PIPELINE).json["experiment_id"]
    found = logins.call(f"{EXPERIMENTS}/get?experiment_id={experiment}", user=PIPELINE).json["experiment"]
    assert found["artifact_location"] == f"mlflow-artifacts:/{experiment}"

    def log_in(login: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", login.partition(":")[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", login.partition(":")[2])

    monkeypatch.setenv("MLFLOW_TRACKING_URI", logins.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    log_in(PIPELINE)
    client = mlflow.MlflowClient(logins.url)
    run = client.create_run(experiment).info
    client.log_text(run.run_id, "hello", "bundle/note.txt")
    assert [file.read_text() for file in (logins.folder / "bucket").rglob("note.txt")] == ["hello"]
    client.create_registered_model("mvqkd-student")
    with pytest.raises(mlflow.MlflowException, match="Invalid model version source"):
        client.create_model_version("mvqkd-student", "s3://another-bucket/x", run_id=run.run_id)
    version = client.create_model_version("mvqkd-student", f"{run.artifact_uri}/bundle", run_id=run.run_id).version
    client.set_registered_model_alias("mvqkd-student", "champion", version)

    log_in(READER)
    assert client.get_model_version_by_alias("mvqkd-student", "champion").version == version
    for forbidden in (
        lambda: client.set_registered_model_alias("mvqkd-student", "champion", version),
        lambda: client.delete_registered_model("mvqkd-student"),
        lambda: client.log_metric(run.run_id, "wer", 0.0),
    ):
        with pytest.raises(mlflow.MlflowException, match="Permission denied"):
            forbidden()
    # What mvqkd serve does first: the files come through the server, and are no bundle here.
    with pytest.raises(RegistryError, match="expected its bundle below"):
        resolve_bundle("models:/mvqkd-student@champion")
