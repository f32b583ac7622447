"""How much the extra ``runtime`` installs: a fresh environment, its packages and the wheels that were fetched.

    python benchmarks/install_size.py            measure and write benchmarks/results/install_size.json
    python benchmarks/install_size.py --render   print what README.md says, from that file

Needs a package index (or PIP_* variables that name a folder of wheels). The environment is made in a temporary
directory and removed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

from environment import describe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "install_size.json"
# Come with the environment itself, not with the extra.
NOT_OURS = ("pip", "setuptools", "wheel")
# Packages that README.md names; the others are summed up.
NAMED = 4


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
        rows = [_row(path) for path in sorted(site.glob("*.dist-info"))]
        rows = [row for row in rows if row["package"] not in NOT_OURS]
        return {
            "extra": extra,
            "installed_bytes": sum(row["installed_bytes"] for row in rows),
            "wheel_bytes": sum(path.stat().st_size for path in wheels.iterdir()),
            "num_wheels": len(list(wheels.iterdir())),
            "wall_s": round(wall_s, 1),
            "versions": {"python": platform.python_version()} | {row["package"]: row["version"] for row in rows},
            "rows": sorted(rows, key=lambda row: -row["installed_bytes"]),
        }


def render(results: dict[str, Any]) -> str:
    """README's paragraph."""
    rows, versions = results["rows"], results["versions"]
    named = ", ".join(f"{row['package']} {_mb(row['installed_bytes'])}" for row in rows[:NAMED])
    rest = sum(row["installed_bytes"] for row in rows[NAMED:])
    text = (
        f"That is **{_mb(results['installed_bytes'])} MB** on disk and {_mb(results['wheel_bytes'])} MB to download, "
        f"{results['num_wheels']} wheels, none of them torch: {named}, all else {_mb(rest)} MB. Measured in a fresh "
        f"environment by `{results['command']}` on {results['machine']['system']}, Python {versions['python']}, "
        f"onnxruntime {versions['onnxruntime']}; compiled Python files, which come with use, are not counted."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f}"


def _copy(target: Path) -> Path:
    """What a wheel is made of: building in the checkout would leave a build folder there."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return target


def _row(dist_info: Path) -> dict[str, Any]:
    """A distribution: what its own record says was installed, less what Python compiles."""
    name, version = dist_info.name.removesuffix(".dist-info").rsplit("-", 1)
    with (dist_info / "RECORD").open(encoding="utf-8", newline="") as record:
        files = [dist_info.parent / row[0] for row in csv.reader(record) if row and not row[0].endswith(".pyc")]
    return {
        "package": name,
        "version": version,
        "installed_bytes": sum(file.stat().st_size for file in files if file.is_file()),
    }


if __name__ == "__main__":
    sys.exit(main())
