"""``mvqkd ui``: MLflow's pages of runs and registered versions, on loopback, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal

from mvqkd.errors import RegistryError

DEFAULT_PORT = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the port."""
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"to listen on; 0: any free ({DEFAULT_PORT})")


def run(arguments: argparse.Namespace) -> int:
    """Serve the store of this directory, or say where the configured server is.

    Raises:
        RegistryError: there is no store yet, the port is taken, or the server does not start.
    """
    from mvqkd.adapters.mlflow_store import redacted, sqlite_file, tracking_uri

    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI names a server already: open {redacted(uri)}")
        return 0
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise RegistryError(
            f"MLflow store {file}",
            expected="the database that `mvqkd promote` writes",
            got="no such file",
            next_step="run `mvqkd demo` first, or change into the directory with mlflow.db",
        )
    from mvqkd.adapters.mlflow_server import serve

    # Whoever ends this process (a terminal, a supervisor) ends the server with it.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"starting MLflow on {redacted(uri)} ...", flush=True)
    try:
        with serve(uri, arguments.port) as server:
            print(f"MLflow is at {server.url} (Ctrl-C ends it); versions: {server.url}/#/models", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        print("MLflow has ended")
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
