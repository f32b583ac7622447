"""Reach MLflow quietly: which store, a client of it, and its faults as this project's errors.

Without configuration everything lies in the current directory: ``mlflow.db`` (sqlite) and ``mlartifacts/``.
MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI name another store; credentials stay in MLflow's own variables.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvqkd.errors import MvqkdError, RegistryError

DEFAULT_DATABASE = "mlflow.db"
ARTIFACTS_DIRECTORY = "mlartifacts"

_SQLITE = "sqlite:///"
_SQLITE_HEADER = b"SQLite format 3\x00"

# Set before mlflow is imported, and only where the user has not decided otherwise.
_ENVIRONMENT = {
    # Nothing leaves this machine unless a tracking URI says so.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Three retries outlast a restart of the server; MLflow's own seven keep a wrong address waiting for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # Models are files and code here; nothing that is loaded may be a pickle.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
_LOUD_LOGGERS = ("mlflow", "alembic")
_STORE_LIBRARIES = {"mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "boto3", "botocore", "psycopg2"}


def tracking_uri() -> str:
    """URI of the tracking store; a relative sqlite path is made absolute, because MLflow caches stores by URI."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _SQLITE + DEFAULT_DATABASE
    file = sqlite_file(uri)
    return uri if file is None else f"{_SQLITE}{file}"


def registry_uri() -> str:
    """URI of the model registry: the tracking store's unless MLFLOW_REGISTRY_URI names another."""
    uri = os.environ.get("MLFLOW_REGISTRY_URI")
    if not uri:
        return tracking_uri()
    file = sqlite_file(uri)
    return uri if file is None else f"{_SQLITE}{file}"


def sqlite_file(uri: str) -> Path | None:
    """Absolute path of a sqlite store's file; None for any other store."""
    if not uri.startswith(_SQLITE) or uri.removeprefix(_SQLITE) in ("", ":memory:"):
        return None
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its files: beside a sqlite database; None lets a server decide."""
    file = sqlite_file(uri)
    return None if file is None else str(file.parent / ARTIFACTS_DIRECTORY)


def registry_is_missing() -> bool:
    """Whether the registry is a sqlite file that nobody has made yet. Does not import MLflow."""
    file = sqlite_file(registry_uri())
    return file is not None and not file.exists()


def redacted(text: str) -> str:
    """Hide user names and passwords of URLs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def connect() -> Any:
    """Client of tracking store and registry (``mlflow.MlflowClient``); makes the sqlite file on first use.

    Raises:
        RegistryError: the store cannot be opened.
    """
    _refuse_foreign_file(tracking_uri())
    mlflow = import_mlflow()
    with registry_errors("opening the MLflow store"):
        return mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri())


def import_mlflow() -> Any:
    """Import mlflow with telemetry off and its chatter held back; returns the module."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # mlflow.pyfunc warns of its own type hints while it is imported.
        warnings.simplefilter("ignore")
        import mlflow

        # mlflow-skinny, which finds and fetches bundles, has no pandas.
        with contextlib.suppress(ModuleNotFoundError):
            import mlflow.pyfunc
    for name in _LOUD_LOGGERS:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.ERROR:
            logger.setLevel(logging.ERROR)
    return mlflow


@contextlib.contextmanager
def registry_errors(doing: str, next_step: str | None = None) -> Iterator[None]:
    """Turn the faults of MLflow and of the libraries below it into a RegistryError without secrets."""
    try:
        yield
    except MvqkdError:
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if library not in _STORE_LIBRARIES and not isinstance(error, OSError | ImportError):
            raise
        raise _as_registry_error(doing, next_step, error) from error


def _as_registry_error(doing: str, next_step: str | None, error: Exception) -> RegistryError:
    uri = redacted(tracking_uri())
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    got = lines[0][:300] if lines else type(error).__name__
    if isinstance(error, ImportError):
        default = "pip install 'mvqkd[registry]'"
    elif sqlite_file(tracking_uri()) is not None:
        default = "check that the file and its directory can be written and that no other MLflow version made it"
    else:
        default = "check MLFLOW_TRACKING_URI and its credentials, and that the server is up, then run it again"
    return RegistryError(f"MLflow store {uri}, {doing}", expected="an answer", got=got, next_step=next_step or default)


def _refuse_foreign_file(uri: str) -> None:
    # MLflow would retry such a file for a minute and a half before it gives up.
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return
    head = b""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        head = stream.read(len(_SQLITE_HEADER))
        if not head:
            return
    if head != _SQLITE_HEADER:
        raise RegistryError(
            f"MLflow store {file}",
            expected="a readable sqlite database",
            got="a directory" if file.is_dir() else "a file that is none",
            next_step="move it away or set MLFLOW_TRACKING_URI",
        )
