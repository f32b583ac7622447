"""The parent's side of a worker: start it with one thread, send it utterances, hear what it used."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from deployment_systems import System
from deployment_worker import END

WORKER = Path(__file__).with_name("deployment_worker.py")
SOURCES = Path(__file__).resolve().parent.parent / "src" / "mvqkd"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}


class WorkerDiedError(Exception):
    """A system's process has ended; the message says what it said last."""


class Worker:
    """A running system; made by ``start``."""

    def __init__(self, system: System, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.system, self._process, self._errors = system, process, errors
        self.load_s = float(self._read()["load_s"])

    def hear(self, samples: Any) -> dict[str, Any]:
        """Recognise float32 (num_samples,), 16 kHz."""
        self._send(len(samples), np.ascontiguousarray(samples, dtype="<f4").tobytes())
        return self._read()

    def usage(self) -> dict[str, Any]:
        """What the process has used; it ends with that."""
        self._send(END)
        return self._read()

    def _send(self, count: int, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # A process that has gone is reported by _read, with what it said.
            self._process.stdin.write(struct.pack("<q", count) + data)
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            raise WorkerDiedError(f"{self.system.name}: ended with {code}: {said[-1][:300] if said else 'no message'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def start(system: System, core: int) -> Iterator[Worker]:
    """Start a system on one processor core; it ends with the block.

    Raises:
        WorkerDiedError: it cannot be loaded.
    """
    task = {"recognizer": system.recognizer, "options": system.options, "mode": system.mode, "core": core}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | ONE_THREAD,
        )
        try:
            yield Worker(system, process, errors)
        finally:
            process.kill()
            process.communicate()


def package_sizes(files: Iterable[str], model_files: Iterable[Path]) -> dict[str, int]:
    """Bytes on disk of the packages that any of ``files`` belongs to, without the model's files and compiled Python."""
    owners, models = _owners(), {path.resolve() for path in model_files}
    sizes: dict[str, int] = {}
    for path in map(Path, files):
        name = "mvqkd" if path.is_relative_to(SOURCES) else owners.get(path)
        # setuptools has a hook in every start of Python.
        if name in (None, "setuptools") or name in sizes:
            continue
        owned = SOURCES.rglob("*.py") if name == "mvqkd" else _files(importlib.metadata.distribution(name))
        sizes[name] = sum(file.stat().st_size for file in owned if file not in models)
    return dict(sorted(sizes.items()))


@cache
def _owners() -> dict[Path, str]:
    return {path: dist.name for dist in importlib.metadata.distributions() for path in _files(dist)}


def _files(dist: importlib.metadata.Distribution) -> list[Path]:
    paths = [Path(str(dist.locate_file(file))).resolve() for file in dist.files or () if file.suffix != ".pyc"]
    return [path for path in paths if path.is_file()]
