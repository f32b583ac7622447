"""Before the MLflow server starts: bring its tables and those of its logins up to date, and write the auth file.

Runs in an init container. The database's address, with its password, comes by environment, never as an argument that
others on the node could read; MLflow takes the address of its logins' tables from a file only.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

import sqlalchemy
from mlflow.db import commands as tables

# One number for everybody who migrates this database: of several pods that start at once, the first one does it.
_LOCK = 0x6D76716B64
_AUTHORIZATION = "mlflow_guard:authenticate"


def main() -> None:
    """Write MLFLOW_AUTH_CONFIG_PATH, then migrate what MLFLOW_BACKEND_STORE_URI names."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    _write_auth_file(Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"]), uri)
    # Reads that file as soon as it is imported.
    from mlflow.server.auth.db.cli import commands as login_tables

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            connection.commit()  # the lock is the session's, not the transaction's
        tables.main(["upgrade", uri], standalone_mode=False)
        login_tables.main(["upgrade", "--url", uri], standalone_mode=False)
    engine.dispose()
    print("tables are up to date")


def _write_auth_file(path: Path, uri: str) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser["mlflow"] = {
        "default_permission": "READ",
        # MLflow reads it with interpolation, to which a percent sign is special.
        "database_uri": uri.replace("%", "%%"),
        "authorization_function": _AUTHORIZATION,
        "grant_default_workspace_access": "false",
    }
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as stream:
        parser.write(stream)


if __name__ == "__main__":
    main()
