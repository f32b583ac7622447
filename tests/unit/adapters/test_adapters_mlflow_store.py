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
