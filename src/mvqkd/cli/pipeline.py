"""``mvqkd pipeline``: compile the Kubeflow pipeline, look at changes, submit, schedule and watch it.

What it does lies in ``pipelines/`` of a checkout, because the library knows nothing of Kubeflow. Environment:
``MVQKD_KFP_HOST``, ``MVQKD_KFP_NAMESPACE``, ``MVQKD_KFP_TOKEN``, ``MVQKD_KFP_TOKEN_FILE``, ``MVQKD_KFP_COOKIES``,
``MVQKD_KFP_CA_CERT``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from mvqkd.errors import ConfigError

DEFAULT_EXPERIMENT = "mvqkd"
DEFAULT_SCHEDULE = "nightly"
_PARAMS_FILE = Path("params.yaml")
_MARK = Path("pipelines") / "distill.golden.yaml"
# What a pod finds: the API's service, its own namespace, and a token for the API where its volume was asked for.
_HOST_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TOKEN_FILE = Path("/var/run/secrets/kubeflow/pipelines/token")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add_compile(_action(actions, "compile", "write the pipeline's specification, the golden file by default"))
    _add_diff(_action(actions, "diff", "say what this checkout changes, step by step, for a reviewer"))
    _add_submit(_action(actions, "submit", "start a run, unless the same one is under way or done"))
    _add_schedule(_action(actions, "schedule", "let the server start runs by itself"))
    _add_status(
        _action(actions, "status", "show a run and its steps; exit code 0 succeeded, 3 ended otherwise, 4 not ended")
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the action.

    Raises:
        ConfigError: this is no checkout, or the arguments do not fit.
        MvqkdError: what the action cannot do.
    """
    commands = _checkout_module("pipelines.commands")
    if arguments.action == "compile":
        return int(commands.compile_pipeline(arguments))
    if hasattr(arguments, "params") and arguments.params is None and _PARAMS_FILE.is_file():
        arguments.params = _PARAMS_FILE
    needs_server = arguments.action != "diff" or arguments.server
    return int(getattr(commands, arguments.action)(arguments, _connection(arguments) if needs_server else {}))


def _action(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    # Without abbreviations: --token SECRET would be --token-file SECRET, and its error would show the secret.
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
    # The command's own flags, which the parser above knows, also work after the action.
    for flag in ("--debug", "--verbose"):
        parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _add_compile(parser: argparse.ArgumentParser) -> None:
    _add_compiling(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="file to write (pipelines/distill.golden.yaml)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is out of date")


def _add_diff(parser: argparse.ArgumentParser) -> None:
    old = parser.add_mutually_exclusive_group()
    old.add_argument("file", type=Path, nargs="?", metavar="FILE", help="compiled pipeline to compare with (golden)")
    old.add_argument("--server", action="store_true", help="compare with the server's latest version")
    parser.add_argument("--exit-code", action="store_true", help="exit with 3 where something differs")
    _add_compiling(parser)
    _add_connection(parser)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--run-name", metavar="NAME", help="name of the run (version and a hash of the arguments)")
    parser.add_argument("--force", action="store_true", help="start a run though the same one is under way or done")
    _add_waiting(parser)
    parser.set_defaults(json=False)


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default=DEFAULT_SCHEDULE, metavar="NAME", help=f"({DEFAULT_SCHEDULE})")
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument(
        "--cron",
        metavar="EXPRESSION",
        help="create it, or change it to this: 6 fields, '0 0 2 * * *' is every night at two",
    )
    todo.add_argument("--list", action="store_true", help="print all schedules of the pipeline")
    todo.add_argument("--enable", action="store_true", help="let it fire")
    todo.add_argument("--disable", action="store_true", help="keep it from firing")
    todo.add_argument("--delete", action="store_true", help="delete it; its runs stay")
    parser.add_argument("--disabled", action="store_true", help="with --cron: do not let it fire yet")
    parser.add_argument("--max-concurrency", type=int, default=1, metavar="N", help="runs of it at the same time (1)")
    _add_run(parser)


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="id or name of a run (the latest of the experiment)")
    parser.add_argument("--experiment", default=DEFAULT_EXPERIMENT, metavar="NAME", help=f"({DEFAULT_EXPERIMENT})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_waiting(parser)
    _add_connection(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add what a run is made of."""
    group = parser.add_argument_group("the run")
    group.add_argument("--params", type=Path, metavar="FILE", help="YAML with a section a stage (params.yaml)")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline, e.g. num_shards=8; may be repeated, lists and objects are JSON",
    )
    group.add_argument("--experiment", default=DEFAULT_EXPERIMENT, metavar="NAME", help=f"({DEFAULT_EXPERIMENT})")
    group.add_argument("--service-account", metavar="NAME", help="service account of the pods (the server's default)")
    group.add_argument("--pipeline-root", metavar="URI", help="where artifacts lie (the server's default)")
    group.add_argument("--no-cache", action="store_true", help="run every step anew; uploads a version of its own")
    group.add_argument("--package", type=Path, metavar="FILE", help="compiled pipeline (compiled from this checkout)")
    _add_compiling(parser)
    _add_connection(parser)


def _add_compiling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("compiling")
    group.add_argument("--image", metavar="REF", help="image of every step, by digest (the cluster file's)")
    group.add_argument("--cluster", type=Path, metavar="FILE", help="YAML of pipelines/cluster.py (its defaults)")


def _add_waiting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for the end; exit code as of `pipeline status`")
    parser.add_argument("--wait-timeout-s", type=float, metavar="S", help="end waiting after so long, with 4 (never)")
    parser.add_argument("--poll-s", type=float, default=10.0, metavar="S", help="seconds between two looks (10)")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server", "secrets come from MVQKD_KFP_TOKEN, MVQKD_KFP_COOKIES or a file only")
    group.add_argument("--host", metavar="URL", help="of the API (MVQKD_KFP_HOST; in a pod, the cluster's own)")
    group.add_argument("--namespace", metavar="NAME", help="of a server with several users (MVQKD_KFP_NAMESPACE)")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="read before each request (MVQKD_KFP_TOKEN_FILE)"
    )
    group.add_argument(
        "--ca-cert", type=Path, metavar="FILE", help="CA of the server's certificate (MVQKD_KFP_CA_CERT)"
    )
    group.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="for each request (30)")


def _connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``pipelines.client.Connection`` from flags, environment and, in a pod, the cluster's files."""
    environment = os.environ
    host = arguments.host or environment.get("MVQKD_KFP_HOST")
    namespace = arguments.namespace or environment.get("MVQKD_KFP_NAMESPACE")
    token_file = arguments.token_file or _path(environment.get("MVQKD_KFP_TOKEN_FILE"))
    token = "" if arguments.token_file else environment.get("MVQKD_KFP_TOKEN", "")
    if host is None:
        if "KUBERNETES_SERVICE_HOST" not in environment:
            raise ConfigError(
                "server",
                expected="the URL of a Kubeflow Pipelines API",
                got="none",
                next_step="pass --host or set MVQKD_KFP_HOST; with `kubectl port-forward -n kubeflow svc/ml-pipeline "
                "8888` it is http://localhost:8888",
            )
        # Only here: a pod's token is not for a server that somebody names.
        host = _HOST_IN_CLUSTER
        token_file = token_file or (_TOKEN_FILE if _TOKEN_FILE.is_file() and not token else None)
    if namespace is None and _NAMESPACE_FILE.is_file():
        namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return {
        "host": host,
        "namespace": namespace or "",
        "token": token.strip(),
        "token_file": token_file,
        "cookies": environment.get("MVQKD_KFP_COOKIES", "").strip(),
        "ca_cert": arguments.ca_cert or _path(environment.get("MVQKD_KFP_CA_CERT")),
        "timeout_s": arguments.timeout_s,
    }


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _checkout_module(name: str) -> Any:
    """Import a module of a checkout's ``pipelines``: of the current folder, or of the one this package is run from."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (root / _MARK).is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return importlib.import_module(name)
    raise ConfigError(
        f"folder {Path.cwd()}",
        expected=f"a checkout of mvqkd, with {_MARK}",
        got="none",
        next_step="run the command in one; the installed package does not bring the pipeline",
    )
