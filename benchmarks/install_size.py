"""How much the extra ``runtime`` installs: a fresh environment, its packages and the wheels that were fetched.

    python benchmarks/install_size.py            measure and write benchmarks/results/install_size.json
    python benchmarks/install_size.py --render   print the table of README.md from that file

Needs a package index (or PIP_* variables that name a folder of wheels). The environment is made in a temporary
directory and removed again.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import describe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "install_size.json"
# Come with the environment itself, not with the extra.
NOT_OURS = ("pip", "setuptools", "wheel", "distutils-precedence.pth", "_distutils_hack", "pkg_resources")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="print the table from the stored results")
    parser.add_argument("--extra", default="runtime", help="extra to install (runtime)")
    arguments = parser.parse_args()
    if not arguments.render:
        results = describe(()) | measure(arguments.extra)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(render(json.loads(RESULTS.read_text(encoding="utf-8"))))
    return 0


def measure(extra: str) -> dict[str, Any]:
    """Install into a fresh environment and weigh what came: bytes on disk, bytes of the wheels, seconds."""
    with tempfile.TemporaryDirectory(prefix="mvqkd-install-") as scratch:
        wheels, python = Path(scratch) / "wheels", Path(scratch) / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        source = _copy(Path(scratch) / "source")
        constraints = ["-c", str(ROOT / "constraints.txt")]
        started = time.perf_counter()
        subprocess.run([*pip, "wheel", *constraints, "-w", str(wheels), f"{source}[{extra}]"], check=True)
        subprocess.run(
            [*pip, "install", "--no-index", "--find-links", str(wheels), "--no-compile", f"mvqkd[{extra}]"], check=True
        )
        wall_s = time.perf_counter() - started
        (site,) = python.parents[1].glob("lib/python*/site-packages")
        rows = [
            {"package": path.name, "installed_bytes": _bytes(path)}
            for path in sorted(site.iterdir())
            if not path.name.startswith(NOT_OURS)
        ]
        return {
            "extra": extra,
            "installed_bytes": sum(row["installed_bytes"] for row in rows),
            "wheel_bytes": sum(path.stat().st_size for path in wheels.iterdir()),
            "num_wheels": len(list(wheels.iterdir())),
            "wall_s": round(wall_s, 1),
            "versions": _versions(python),
            "rows": sorted(rows, key=lambda row: -row["installed_bytes"]),
        }


def render(results: dict[str, Any]) -> str:
    """README's sentence and table."""
    rows = [row for row in results["rows"] if row["installed_bytes"] >= 1e6]
    rest = results["installed_bytes"] - sum(row["installed_bytes"] for row in rows)
    machine, versions = results["machine"], results["versions"]
    lines = [
        f"Measured by `{results['command']}` (Python {versions['python']}, onnxruntime {versions['onnxruntime']}, "
        f"{machine['system']}):",
        f"**{results['installed_bytes'] / 1e6:.0f} MB** installed, {results['wheel_bytes'] / 1e6:.0f} MB to download "
        f"({results['num_wheels']} wheels).",
        "",
        "| installed | MB |",
        "|---|---|",
        *(f"| {row['package']} | {row['installed_bytes'] / 1e6:.1f} |" for row in rows),
        f"| everything else | {rest / 1e6:.1f} |",
    ]
    return "\n".join(lines)


def _copy(target: Path) -> Path:
    """What a wheel is made of: building in the checkout would leave a build folder there."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return target


def _bytes(path: Path) -> int:
    """Bytes of the files below, as they are; disk blocks depend on the file system."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")


def _versions(python: Path) -> dict[str, str]:
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    found = {row["name"]: row["version"] for row in json.loads(listed.stdout)}
    return {"python": platform.python_version(), **{name: found[name] for name in found if name not in NOT_OURS}}


if __name__ == "__main__":
    sys.exit(main())
