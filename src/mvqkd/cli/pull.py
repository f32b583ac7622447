"""``mvqkd pull``: download an artifact from a DVC remote by its id, with neither checkout nor pointer file."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.cli.push import add_remote


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to download, from where and to where."""
    parser.add_argument("source", metavar="ID|FILE.dvc", help="what push printed, or the pointer file that it wrote")
    add_remote(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to make; must not exist yet")


def run(arguments: argparse.Namespace) -> int:
    """Pull, verify every byte, and print what it is."""
    from mvqkd.adapters.dvc_identity import pull

    artifact = pull(arguments.source, arguments.remote, arguments.out)
    print(f"pull: {artifact.kind} {artifact.short_id} in {artifact.path}")
    return 0
