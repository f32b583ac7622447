"""Which store is meant, without opening one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mvqkd.adapters import mlflow_store as store
from mvqkd.adapters.registry import resolve_bundle
from mvqkd.errors import RegistryError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_default_store_lies_in_the_current_directory(tmp_path: Path) -> None:
    assert store.tracking_uri() == store.registry_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifact_location(store.tracking_uri()) == f"{tmp_path}/mlartifacts"
    assert store.registry_is_missing()
    (tmp_path / "mlflow.db").touch()
    assert not store.registry_is_missing()


def test_environment_names_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert store.tracking_uri() == store.registry_uri() == "http://mlflow.example:5000"
    assert store.artifact_location(store.tracking_uri()) is None
    assert not store.registry_is_missing()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///sub/registry.db")
    assert store.registry_uri() == f"sqlite:///{tmp_path}/sub/registry.db"
    assert store.registry_is_missing()


def test_passwords_do_not_show() -> None:
    text = "could not reach postgresql://ann:s3cret@db:5432/mlflow or https://token@host/x"
    assert store.redacted(text) == "could not reach postgresql://***@db:5432/mlflow or https://***@host/x"


def test_looking_for_a_champion_makes_nothing_and_imports_no_mlflow(tmp_path: Path) -> None:
    script = """
        import sys
        from mvqkd.adapters.registry import champion_bundle
        assert champion_bundle("mvqkd-student") is None
        print([name for name in ("mlflow", "torch") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not a database, but longer than a header", b"short"])
def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(RegistryError, match=r"mlflow\.db: expected a readable sqlite database"):
        store.connect()


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(RegistryError, match="a directory"):
        store.connect()


def test_only_the_store_s_own_faults_are_translated() -> None:
    with pytest.raises(ZeroDivisionError), store.registry_errors("dividing"):
        _ = 1 / 0
    message = "reading: expected an answer, got disk full"
    with pytest.raises(RegistryError, match=message) as caught, store.registry_errors("reading"):
        raise OSError("disk full\nsecond line")
    assert "\n" not in str(caught.value)
    with pytest.raises(RegistryError, match=r"pip install 'mvqkd\[registry\]'"), store.registry_errors("connecting"):
        raise ModuleNotFoundError("No module named 'psycopg2'")


@pytest.mark.parametrize(
    "uri", ["models:/", "models:/name", "models:/name@", "models:/name/latest", "models:/a/b/1", "models:name/1"]
)
def test_malformed_model_uris(uri: str) -> None:
    with pytest.raises(RegistryError, match=r"for example models:/mvqkd-student@champion"):
        resolve_bundle(uri)


def test_model_uri_without_a_registry_says_how_to_get_one() -> None:
    with pytest.raises(RegistryError, match=r"no file .*mlflow\.db; run `mvqkd promote`"):
        resolve_bundle("models:/mvqkd-student@champion")


@pytest.mark.parametrize(
    ("said", "gist"),
    [
        (
            "API request to http://h/api/x failed with exception HTTPConnectionPool(host='h', port=5): Max retries "
            "exceeded with url: /api/x?y=1 (Caused by NewConnectionError(\"HTTPConnection(host='h', port=5): Failed to "
            'establish a new connection: [Errno 111] Connection refused"))',
            "none to /api/x: [Errno 111] Connection refused",
        ),
        (
            "HTTPConnectionPool(host='h', port=5): Max retries exceeded with url: /api/x (Caused by ReadTimeoutError("
            "\"HTTPConnectionPool(host='h', port=5): Read timed out. (read timeout=1)\"))",
            "none to /api/x: Read timed out. (read timeout=1)",
        ),
        (
            "Max retries exceeded with url: /api/2.0/mlflow-artifacts/artifacts/1/m (Caused by ResponseError('too many "
            "500 error responses'))",
            "none to /api/2.0/mlflow-artifacts/artifacts/1/m: too many 500 error responses",
        ),
        (
            "Max retries exceeded with url: /api/x (Caused by ProtocolError('Connection aborted.', "
            "ConnectionResetError(104, 'Connection reset by peer')))",
            "none to /api/x: Connection reset by peer",
        ),
        ("something else: entirely", "something else: entirely"),
    ],
)
def test_of_a_failed_request_the_path_and_the_cause_are_told(said: str, gist: str) -> None:
    with pytest.raises(store.StoreError) as caught, store.registry_errors("asking"):
        raise OSError(said)
    assert caught.value.got == gist


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("failed with error code 401 != 200. Response body: 'You are not authenticated.", "MLFLOW_TRACKING_PASSWORD"),
        ("failed with error code 403 != 200. Response body: 'Permission denied'", "EDIT on the experiment"),
        ("url: /api/2.0/mlflow-artifacts/artifacts/1 failed with error code 500", "keys and bucket of its file store"),
        ("Connection refused", "check MLFLOW_TRACKING_URI and its credentials"),
    ],
)
def test_advice_fits_the_fault(said: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    with pytest.raises(store.StoreError) as caught, store.registry_errors("asking"):
        raise OSError(said)
    assert advice in caught.value.next_step


def test_a_busy_store_is_asked_again_and_others_faults_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store.import_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, TEMPORARILY_UNAVAILABLE

    monkeypatch.setattr(store.time, "sleep", lambda _pause_s: None)
    calls: list[str] = []

    def fails(message: str, code: int, times: int) -> str:
        calls.append(message)
        if len(calls) <= times:
            raise MlflowException(message, code)
        return "answer"

    assert store._patiently(fails, "database is locked", TEMPORARILY_UNAVAILABLE, 30) == "answer"
    calls.clear()
    assert store._patiently(fails, "(sqlite3.IntegrityError) UNIQUE constraint failed", BAD_REQUEST, 5) == "answer"
    calls.clear()
    with pytest.raises(MlflowException, match="UNIQUE"):
        store._patiently(fails, "(sqlite3.IntegrityError) UNIQUE constraint failed", BAD_REQUEST, 99)
    assert len(calls) == 6
    calls.clear()
    with pytest.raises(MlflowException, match="no such column"):
        store._patiently(fails, "no such column", BAD_REQUEST, 1)
    assert len(calls) == 1
