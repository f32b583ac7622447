"""``mvqkd push``: upload an artifact to a DVC remote and print the id by which ``mvqkd pull`` gets it back."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

REMOTE_VARIABLE = "MVQKD_DVC_REMOTE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the artifact, the remote and what to write."""
    parser.add_argument("artifact", type=Path, metavar="DIR", help="artifact that a stage wrote")
    add_remote(parser)
    parser.add_argument("--pointer", type=Path, metavar="FILE", help="also write a .dvc file that names the artifact")
    parser.add_argument(
        "--verify", action="store_true", help="read back what the remote has of it and send again what is damaged"
    )


def add_remote(parser: argparse.ArgumentParser) -> None:
    """Add ``--remote``, whose default is in the environment."""
    remote = os.environ.get(REMOTE_VARIABLE) or None
    parser.add_argument(
        "--remote",
        default=remote,
        required=remote is None,
        metavar="URL",
        help=f"DVC remote: s3://BUCKET/PATH (extra registry), a directory, ... (${REMOTE_VARIABLE}); endpoint and"
        " credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Push; standard output is the id and nothing else, for scripts."""
    from mvqkd.adapters.dvc_identity import push

    print(push(arguments.artifact, arguments.remote, arguments.pointer, verify=arguments.verify))
    return 0
