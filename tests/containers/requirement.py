"""Skip a test that needs the images, or fail it where they are promised."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import pytest

from tests.containers.engine import IMAGES, Engine, EngineError, find_engine

_SOURCE = Path(__file__).parents[2] / "src" / "mvqkd"
# Prints one digest of the package's modules, whose folder is the argument or where Python finds them.
_DIGEST = """
import hashlib, importlib.util, pathlib
root = pathlib.Path(importlib.util.find_spec("mvqkd").origin).parent
print(hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.py")))).hexdigest())
"""


def required_engine(target: str) -> tuple[Engine, str]:
    """Podman and the name of the image of a target, built from the code that lies here.

    Without them the test is skipped; with MVQKD_CONTAINERS=1, which `make test-containers` sets, it fails.
    """
    try:
        return _engine(target), IMAGES[target]
    except EngineError as error:
        if os.environ.get("MVQKD_CONTAINERS") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@functools.cache
def _engine(target: str) -> Engine:
    image = IMAGES[target]
    engine = find_engine(image)
    found = engine.run(image, "-c", _DIGEST, entrypoint="python3")
    here = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_SOURCE.rglob("*.py")))).hexdigest()
    if found.stdout.strip() != here:
        raise EngineError(f"the image {image} holds other code than src/; make test-containers builds it anew")
    return engine
