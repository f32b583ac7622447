"""Set the images of the prod overlay: ``python -m infra.images --cpu REF --cuda REF --serve REF``.

REF is REGISTRY/NAME@sha256:DIGEST, as a push prints it. Writes one file, to be committed like any change.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from mvqkd.errors import ConfigError, MvqkdError

FILE = Path(__file__).parent / "overlays" / "prod" / "images" / "kustomization.yaml"

# The image's name in infra/base -> the target of the Dockerfile that it is built from.
TARGETS = {"mvqkd-cpu": "cpu", "mvqkd-train": "cuda", "mvqkd-serve": "serve"}
_REFERENCE = re.compile(r"(?P<name>[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+)(:[\w.-]+)?@(?P<digest>sha256:[0-9a-f]{64})")
_HEAD = """\
# Written by: python -m infra.images --cpu REF --cuda REF --serve REF, with REF as REGISTRY/NAME@sha256:DIGEST.
"""


def write(references: Mapping[str, str], file: Path = FILE) -> None:
    """Write the component of kustomize that puts these images in place.

    Args:
        references: target of the Dockerfile -> image by digest.
    Raises:
        ConfigError: one of them has no digest, or no registry.
    """
    images = []
    for name, target in TARGETS.items():
        match = _REFERENCE.fullmatch(references[target])
        if match is None:
            raise ConfigError(
                f"image of target {target}",
                expected="REGISTRY/NAME@sha256: and 64 hexadecimal digits",
                got=references[target],
                next_step="push it, and take the digest that the push prints",
            )
        images.append({"name": name, "newName": match["name"], "digest": match["digest"]})
    component = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "images": images}
    file.write_text(_HEAD + yaml.safe_dump(component, sort_keys=False), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the file and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.images", description=__doc__)
    for target in TARGETS.values():
        parser.add_argument(f"--{target}", required=True, metavar="REF", help=f"image of target {target}")
    parser.add_argument("--file", type=Path, default=FILE, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    try:
        write({target: getattr(parsed, target) for target in TARGETS.values()}, parsed.file)
    except MvqkdError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {parsed.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
