"""``mvqkd merge-ci``: join the parts that the ranks of one encode-ci wrote."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the parts and the output."""
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART", help="directories of all ranks, in any order")
    parser.add_argument(
        "--out", type=Path, default=Path("artifacts/codebook-indexes"), metavar="DIR", help="artifact to write"
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge; the result has the id and the bytes of a single process's artifact."""
    from mvqkd.codebook.merge import merge

    artifact = merge(arguments.parts, arguments.out)
    print(f"merge-ci: {artifact.kind} {artifact.short_id} in {artifact.path}, of {len(arguments.parts)} parts")
    return 0
