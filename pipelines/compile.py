"""Compile the pipeline: ``python -m pipelines.compile`` renews the golden file that a test holds the wiring to.

``--image REGISTRY/mvqkd@sha256:... --out FILE`` writes the specification to submit, with that image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from kfp import compiler

from components.image import IMAGE
from pipelines.distill import distill

GOLDEN_FILE = Path(__file__).with_name("distill.golden.yaml")


def compiled(image: str = IMAGE) -> str:
    """The pipeline specification as YAML text, every component in ``image``. Deterministic."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "distill.yaml"
        compiler.Compiler().compile(distill, str(package))
        text = package.read_text(encoding="utf-8")
    if image == IMAGE:
        return text
    specification = yaml.safe_load(text)
    for executor in specification["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = image
    return yaml.safe_dump(specification, sort_keys=False)


def main(arguments: list[str] | None = None) -> int:
    """Write the specification; with ``--check`` only say whether the golden file is up to date."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("--image", default=IMAGE, help=f"image of every component ({IMAGE})")
    parser.add_argument("--out", type=Path, default=GOLDEN_FILE, metavar="FILE", help="file to write (the golden file)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is out of date")
    parsed = parser.parse_args(arguments)
    text = compiled(parsed.image)
    if parsed.check:
        current = parsed.out.is_file() and parsed.out.read_text(encoding="utf-8") == text
        print(f"{parsed.out.name}: {'up to date' if current else 'out of date, run python -m pipelines.compile'}")
        return 0 if current else 1
    parsed.out.write_text(text, encoding="utf-8")
    print(f"wrote {parsed.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
