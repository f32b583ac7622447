"""What can go wrong between a laptop and a Kubeflow Pipelines server: each one clear line, no secret in any."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines.answers import PipelineServerError
from pipelines.client import Connection, connect
from tests.kfp_http import serving
from tests.kfp_server import Fault, KfpServer
from tests.pipeline_cli import Cli, isolate
from tests.small_pipeline import small_text

TOKEN = "header.secret-payload.signature"
HTML = {"Content-Type": "text/html; charset=utf-8"}
LOGIN = "set MVQKD_KFP_TOKEN or MVQKD_KFP_COOKIES, or pass --token-file"


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with serving(KfpServer()) as memory:
        yield memory


@pytest.fixture
def cli(server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    isolate(monkeypatch, tmp_path)
    # No test here is about the pauses between repetitions.
    monkeypatch.setattr("pipelines.commands.Connection", functools.partial(Connection, pause_s=0.0))
    package = tmp_path / "small.yaml"
    package.write_text(small_text(), encoding="utf-8")
    return Cli(server, package, capsys)


def _gateway(code: int, message: str) -> str:
    """An error as the API's gateway writes it: every layer in the message, the last one in the details."""
    detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": message}
    return json.dumps({"code": code, "message": f"Failed to do A: Failed to do B: {message}", "details": [detail]})


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        pytest.param(
            Fault("POST", "/runs", status=401, body=_gateway(16, "no user identity")),
            f"expected credentials that the server accepts, got HTTP 401 Unauthorized: no user identity; {LOGIN}",
            id="401",
        ),
        pytest.param(
            Fault("POST", "/runs", status=403, body=_gateway(7, "User 'x' is not authorized with reason: none")),
            "expected permission to do this, got HTTP 403 Forbidden: User 'x' is not authorized with reason: none; "
            "ask for a role in that namespace that allows it, or pass another --namespace",
            id="403",
        ),
        pytest.param(
            Fault("POST", "/runs", status=403, body="RBAC: access denied", headers={"Content-Type": "text/plain"}),
            "expected permission to do this, got HTTP 403 Forbidden: RBAC: access denied; ask",
            id="403 of a proxy",
        ),
        pytest.param(
            Fault("POST", "/runs", status=404, body=_gateway(5, "Experiment x not found")),
            "expected something of that name or id, got HTTP 404 Not Found: Experiment x not found; "
            "check it, --namespace, and the path in --host",
            id="404",
        ),
        pytest.param(
            Fault("POST", "/runs", status=409, body=_gateway(6, "The name x already exist. Please specify a new name")),
            "expected a free name, got HTTP 409 Conflict: The name x already exist. Please specify a new name; "
            "take another name, or delete what has it",
            id="409",
        ),
        pytest.param(
            Fault("POST", "/runs", status=409, body=_gateway(10, "Invalid run name")),
            "expected a request that the server finds valid, got HTTP 409 Conflict: Invalid run name; change what the "
            "message names",
            id="409 that means 400",
        ),
        pytest.param(
            Fault(
                "POST", "/runs", status=400, body=_gateway(3, "parameter(s) provided are not required by pipeline: x")
            ),
            "got HTTP 400 Bad Request: parameter(s) provided are not required by pipeline: x; change what the message",
            id="400",
        ),
        pytest.param(
            Fault(
                "POST", "/pipelines/upload_version", status=500, body=json.dumps({"error_message": "Failed to create"})
            ),
            "expected a working server, got HTTP 500 Internal Server Error: Failed to create; read the log of the "
            "deployment ml-pipeline, then run the command again (it looks first whether this request was carried out)",
            id="500 of an upload",
        ),
        pytest.param(
            Fault("POST", "/runs", status=500, body=_gateway(13, "Internal Server Error")),
            "got HTTP 500 Internal Server Error: Failed to do A: Failed to do B: Internal Server Error; read the log",
            id="500",
        ),
        pytest.param(
            Fault("GET", "/experiments", times=9, status=503, body="<html><body>no healthy upstream", headers=HTML),
            "expected a working server, got HTTP 503 Service Unavailable; read the log of the deployment ml-pipeline, "
            "then run the command again\n",
            id="503 of a proxy",
        ),
        pytest.param(
            Fault("POST", "/runs", status=429, body=""),
            "expected time for this request, got HTTP 429 Too Many Requests; wait a minute and run the command again",
            id="429",
        ),
        pytest.param(
            Fault(
                "GET", "/healthz", status=302, body="", headers={"Location": "https://dex.example/auth?state=s3cr3t"}
            ),
            f"expected an answer, got HTTP 302, a redirect to dex.example; {LOGIN}",
            id="redirect to a login page",
        ),
        pytest.param(
            Fault("GET", "/healthz", status=200, body="<html>Sign in", headers=HTML),
            f"check the path in --host; if it is a login page, {LOGIN}",
            id="login page",
        ),
        pytest.param(
            Fault("POST", "/runs", delay_s=1.0),
            "expected an answer from URL, got none within 0.4 s; check that the server is up, or pass a longer "
            "--timeout-s; then run the command again (it looks first whether this request was carried out)",
            id="silence",
        ),
    ],
)
def test_errors_are_one_line(cli: Cli, server: KfpServer, fault: Fault, line: str) -> None:
    # Faults are used up, and tests may be repeated in one process.
    server.faults.append(Fault(**vars(fault)))
    result = cli.submit("--timeout-s", "0.4")
    assert result.code == 1
    assert line.replace("URL", server.url) in result.err
    assert result.err.count("\n") == 1
    assert "s3cr3t" not in result.err


def test_a_wrong_path_in_the_host(cli: Cli, server: KfpServer) -> None:
    result = cli("submit", "--host", f"{server.url}/pipeline", "--package", str(cli.package))
    assert "got HTTP 404 Not Found: Not Found; check it, --namespace, and the path in --host" in result.err


def test_nobody_listens(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        result = cli("status", "--host", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert result.code == 1
    assert (
        "got no connection ([Errno 111] Connection refused); check --host, or run `kubectl port-forward" in result.err
    )


def test_a_name_that_nobody_knows(cli: Cli) -> None:
    result = cli("status", "--host", "http://ml-pipeline.invalid:8888")
    assert (
        "got no address for that name; check --host; names of a cluster's services are known inside only" in result.err
    )


def test_no_host(cli: Cli) -> None:
    result = cli("status")
    assert result.code == 1
    assert (
        "server: expected the URL of a Kubeflow Pipelines API, got none; pass --host or set MVQKD_KFP_HOST"
        in result.err
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("kubeflow.example", "got 'kubeflow.example'; pass --host http://... or https://..."),
        ("https://user:s3cr3t@kubeflow.example", "got credentials in it; put them into MVQKD_KFP_TOKEN"),
        ("https://kubeflow.example/?token=s3cr3t", "got what follows the path; leave out ? and #"),
    ],
)
def test_hosts_that_are_none(cli: Cli, host: str, words: str) -> None:
    result = cli("status", "--host", host)
    assert result.code == 1
    assert words in result.err
    assert "s3cr3t" not in result.err


def test_token_and_cookies_are_sent_and_never_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(KfpServer(token=TOKEN, cookie="authservice_session=abc")) as server:
        cli.server = server
        refused = cli.submit()
        assert (
            f"got HTTP 401 Unauthorized: Request header error: there is no user identity header.; {LOGIN}"
            in refused.err
        )
        monkeypatch.setenv("MVQKD_KFP_TOKEN", TOKEN)
        monkeypatch.setenv("MVQKD_KFP_COOKIES", "authservice_session=abc")
        accepted = cli.submit()
        assert accepted.code == 0
        assert {request.headers["authorization"] for request in server.requests[-4:]} == {f"Bearer {TOKEN}"}
        # A server that repeats what it was sent.
        server.faults.append(Fault("POST", "/runs", status=400, body=_gateway(3, f"bad header Bearer {TOKEN}")))
        echoed = cli.submit("--force")
        assert "bad header Bearer ***" in echoed.err
        monkeypatch.setenv("MVQKD_KFP_TOKEN", f"{TOKEN}-expired")
        expired = cli.submit()
        assert "the token or cookie may have expired: get a new one for MVQKD_KFP_TOKEN" in expired.err
        for result in (refused, accepted, echoed, expired):
            assert "secret-payload" not in result.out + result.err
            assert "abc" not in result.err
        assert "secret-payload" not in repr(Connection(server.url, token=TOKEN, cookies="abc"))


def test_a_token_file_is_read_for_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    with serving(KfpServer(token="first")) as server:
        client = connect(Connection(server.url, token_file=file))
        experiments = client.client.experiments.experiment_service_list_experiments
        client.ask("it", experiments)
        server.token = "second"  # Kubernetes has renewed it
        file.write_text("second\n")
        client.ask("it", experiments)
        assert [request.headers["authorization"] for request in server.asked("GET", "/experiments")] == [
            "Bearer first",
            "Bearer second",
        ]
        server.faults.append(Fault("GET", "/experiments", status=400, body=_gateway(3, "what is Bearer second?")))
        with pytest.raises(PipelineServerError, match=r"what is Bearer \*\*\*"):
            client.ask("it", experiments)
        file.unlink()
        with pytest.raises(PipelineServerError, match=f"it: expected a file to read, got No such .*: {file}; pass"):
            client.ask("it", experiments)


@pytest.mark.parametrize(
    ("flag", "empty"), [("--token-file", "an empty one"), ("--ca-cert", "one without certificates")]
)
def test_files_that_are_not_there(cli: Cli, server: KfpServer, tmp_path: Path, flag: str, empty: str) -> None:
    result = cli("status", "--host", server.url, flag, str(tmp_path / "none"))
    assert f"{flag} {tmp_path / 'none'}: expected a file to read, got No such file or directory" in result.err
    (tmp_path / "empty").write_text("\n")
    assert f"got {empty}" in cli("status", "--host", server.url, flag, str(tmp_path / "empty")).err


def test_in_a_pod(cli: Cli, server: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host, token and namespace come from where a cluster puts them; the token is for no server that is named."""
    (tmp_path / "token").write_text("of-the-pod")
    (tmp_path / "namespace").write_text("team-a")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("mvqkd.cli.pipeline._TOKEN_FILE", tmp_path / "token")
    monkeypatch.setattr("mvqkd.cli.pipeline._NAMESPACE_FILE", tmp_path / "namespace")
    with serving(KfpServer(multi_user=True, token="of-the-pod")) as inside:
        monkeypatch.setattr("mvqkd.cli.pipeline._HOST_IN_CLUSTER", inside.url)
        assert cli("submit", "--package", str(cli.package)).code == 0
        assert {item["namespace"] for item in inside.experiments.values()} == {"team-a"}
    assert cli.submit().code == 0
    assert not any("authorization" in request.headers for request in server.requests)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_tls(
    cli: Cli, server: KfpServer, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = server.url
    with serving(KfpServer(), certificate) as secure:
        cli.server = secure
        untrusted = cli.submit()
        assert untrusted.code == 1
        assert "got a certificate that is not trusted (self-signed certificate); pass --ca-cert FILE" in untrusted.err
        assert cli.submit("--ca-cert", str(certificate[0])).code == 0
        monkeypatch.setenv("MVQKD_KFP_CA_CERT", str(certificate[0]))
        assert cli.submit().code == 0
        by_name = cli("submit", "--host", secure.url.replace("127.0.0.1", "localhost"), "--package", str(cli.package))
        assert "got a certificate that is not trusted (Hostname mismatch" in by_name.err
        assert "pass --host with a name that is in it" in by_name.err
        (tmp_path / "not.pem").write_text("no certificate")
        assert "got one without certificates in PEM" in cli.submit("--ca-cert", str(tmp_path / "not.pem")).err
    no_tls = cli("status", "--host", plain.replace("http:", "https:"))
    assert "got something that is not TLS; pass --host http://... if the server has none" in no_tls.err
