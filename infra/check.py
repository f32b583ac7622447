"""Hold manifests to their schemas and to the rules of infra.policy: ``python -m infra.check [PATH ...]``.

A path is the directory of a kustomization or a YAML file. Without one: both overlays, prod with images by digest.
Prints a line a problem, ``file: Kind/name: what``, and exits with 1 when there is any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from infra import policy, validate
from infra.objects import Object, Problem
from infra.render import read, render, shown
from mvqkd.errors import MvqkdError

OVERLAYS = Path(__file__).with_name("overlays")


def check(objects: Sequence[Object], *, digests: bool = False, versions: Sequence[str] | None = None) -> list[Problem]:
    """All problems of the objects of one cluster."""
    return [*validate.problems(objects, versions), *policy.problems(objects, digests=digests)]


def main(arguments: list[str] | None = None) -> int:
    """Check, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.check", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="kustomization or YAML file")
    parser.add_argument("--digests", action="store_true", help="refuse images without a digest")
    parser.add_argument(
        "--kubernetes", action="append", metavar="VERSION", help="e.g. 1.31; again for more (oldest and newest known)"
    )
    parsed = parser.parse_args(arguments)
    wanted = [(path, parsed.digests) for path in parsed.paths]
    failed = False
    for path, digests in wanted or [(OVERLAYS / "dev", False), (OVERLAYS / "prod", True)]:
        try:
            objects = render(path) if path.is_dir() else read(path)
            found = check(objects, digests=digests, versions=parsed.kubernetes)
        except MvqkdError as error:
            print(error, file=sys.stderr)
            return 2
        for problem in found:
            print(problem)
        print(f"{shown(path)}: {len(objects)} objects, {len(found)} problems")
        failed = failed or bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
