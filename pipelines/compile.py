"""Compile the pipeline: ``python -m pipelines.compile`` renews the golden file that a test holds the wiring to.

`mvqkd pipeline compile -o FILE` calls this. ``--image`` and ``--cluster`` give what a cluster adds, see
``pipelines.cluster``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from kfp import compiler

from mvqkd.errors import MvqkdError
from pipelines.cluster import ClusterConfig, load_cluster
from pipelines.distill import distill_on

GOLDEN_FILE = Path(__file__).with_name("distill.golden.yaml")


def compiled(image: str | None = None, cluster: ClusterConfig | None = None) -> str:
    """The pipeline specification as YAML text, every component in ``image``. Deterministic.

    Args:
        image: takes the place of the cluster's.
        cluster: settings; None: the defaults.
    """
    cluster = cluster or ClusterConfig()
    if image is not None:
        cluster = cluster.model_copy(update={"image": image})
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "distill.yaml"
        compiler.Compiler().compile(distill_on(cluster), str(package))
        return package.read_text(encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `mvqkd pipeline compile` takes."""
    parser.add_argument("--image", metavar="REF", help="image of every component, by digest (the cluster file's)")
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="YAML of pipelines/cluster.py (its defaults)")
    parser.add_argument(
        *("-o", "--out"), type=Path, default=GOLDEN_FILE, metavar="FILE", help="file to write (the golden file)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is out of date")


def run(arguments: argparse.Namespace) -> int:
    """Write the specification; with ``--check`` only say whether the file is up to date."""
    out: Path = arguments.out
    text = compiled(arguments.image, load_cluster(arguments.cluster))
    if arguments.check:
        current = out.is_file() and out.read_text(encoding="utf-8") == text
        print(f"{out.name}: {'up to date' if current else 'out of date, compile it again and look at the difference'}")
        return 0 if current else 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(f"wrote {out}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """``python -m pipelines.compile``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except MvqkdError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
