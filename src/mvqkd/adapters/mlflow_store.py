"""Reach MLflow quietly: which store, a client of it, and its faults as this project's errors.

Without configuration everything lies in the current directory: ``mlflow.db`` (sqlite) and ``mlartifacts/``.
MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI name another store; credentials stay in MLflow's own variables.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator
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
    # A server that has taken a request and says nothing for a minute says nothing in two.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    # Models are files and code here; nothing that is loaded may be a pickle.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}
_LOUD_LOGGERS = ("mlflow", "alembic")
_STORE_LIBRARIES = {"mlflow", "sqlalchemy", "alembic", "requests", "urllib3", "boto3", "botocore", "psycopg2"}

# How long to go on asking a store that says "not now", and the first pause between.
_PATIENCE_S = 60.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
# Two that set the same alias or tag for the first time at the same moment: MLflow inserts twice, the database refuses.
_COLLISION = re.compile(r"IntegrityError|UniqueViolation|UNIQUE constraint|Duplicate entry")
_MAX_COLLISIONS = 5


class StoreError(RegistryError):
    """The store gave no answer, or not the one that was asked for: the same request may succeed later."""


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
    """Client of tracking store and registry: an ``mlflow.MlflowClient``; makes the sqlite file on first use.

    A call that the store turns down for now (a database that another process has locked) is repeated for a minute.

    Raises:
        RegistryError: the store cannot be opened.
    """
    _refuse_foreign_file(tracking_uri())
    mlflow = import_mlflow()
    with registry_errors("opening the MLflow store"):
        return _Patient(mlflow.MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri()))


class _Patient:
    """A client whose calls are repeated while the store says that it is busy."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        return functools.partial(_patiently, value) if callable(value) else value


def _patiently(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException

    deadline, pause_s, collisions = time.monotonic() + _PATIENCE_S, _FIRST_PAUSE_S, 0
    while True:
        try:
            return call(*arguments, **named)
        except MlflowException as error:
            # In either case the transaction was rolled back: nothing of the call has happened.
            is_busy = error.error_code == "TEMPORARILY_UNAVAILABLE" and time.monotonic() + pause_s < deadline
            has_collided = _COLLISION.search(str(error)) is not None and collisions < _MAX_COLLISIONS
            collisions += has_collided
            if not is_busy and not has_collided:
                raise
        # Two that were in each other's way must not meet again.
        time.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


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
    """Turn the faults of MLflow and of the libraries below it into a StoreError without secrets."""
    try:
        yield
    except MvqkdError:
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if library not in _STORE_LIBRARIES and not isinstance(error, OSError | ImportError):
            raise
        raise _as_store_error(doing, next_step, error) from error


@contextlib.contextmanager
def permission_not_needed() -> Iterator[None]:
    """Go on where a server refuses what is only tidying up: logins that may edit may not delete."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise


def _as_store_error(doing: str, next_step: str | None, error: Exception) -> StoreError:
    uri = redacted(tracking_uri())
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return StoreError(
        f"MLflow store {uri}, {doing}",
        expected="an answer",
        got=_gist(said)[:300],
        next_step=next_step or _advice(error, said),
    )


def _gist(said: str) -> str:
    """What matters of a failed request, which libraries wrap into each other: its path and the innermost cause."""
    request = re.search(r"with url: ([^ ?]+)", said)
    cause = re.search(r"\(Caused by \w+\((.*?)\)*$", said)
    if request is None or cause is None:
        return said
    innermost = re.split(r": |, '", cause[1])[-1].strip("'\"")
    return f"none to {request[1]}: {innermost}"


def _advice(error: Exception, said: str) -> str:
    code = getattr(error, "error_code", "")
    if isinstance(error, ImportError):
        return "pip install 'mvqkd[registry]'"
    if sqlite_file(tracking_uri()) is not None:
        return "check that the file and its directory can be written and that no other MLflow version made it"
    if code == "UNAUTHENTICATED" or re.search(r"\b401\b", said):
        return "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, then run it again"
    if code == "PERMISSION_DENIED" or re.search(r"\b403\b", said):
        return "ask who runs the server for EDIT on the experiment, the model and its audit log, then run it again"
    if "mlflow-artifacts" in said and re.search(r"\b50\d\b|Connection aborted", said):
        return (
            "the server dropped a file: whoever runs it finds in its log why (keys and bucket of its file store);"
            " then run it again"
        )
    if type(error).__module__.partition(".")[0] in ("boto3", "botocore"):
        return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and MLFLOW_S3_ENDPOINT_URL, then run it again"
    return "check MLFLOW_TRACKING_URI and its credentials, and that the server is up, then run it again"


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
