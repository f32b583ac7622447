"""Unmodified sherpa-onnx in a subprocess: the judge of whether a bundle deploys."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.tokens import SPACE, TOKENS_FILE
from mvqkd.decode.onnx_graphs import OFFLINE, Variant, existing_graph, parts_of
from mvqkd.decode.streaming import padding_samples
from mvqkd.errors import ExportParityError, MissingDependencyError
from mvqkd.frames import FEATURE_HOP_SAMPLES

Floats = NDArray[np.float32]

# Its streams decode a chunk when more frames than the chunk needs are there, not when just as many are.
SHERPA_EXTRA_FRAMES = 2
_WORKER = Path(__file__).with_name("sherpa_worker.py")


@dataclass(frozen=True)
class SherpaResult:
    """Symbols as tokens.txt names them, the text with single spaces, and that of each segment between endpoints."""

    symbols: tuple[str, ...]
    text: str
    segments: tuple[str, ...]


class SherpaDecoder:
    """A running sherpa-onnx; made by ``open_sherpa``."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], subject: str) -> None:
        self._process = process
        self._errors = errors
        self._subject = subject
        self.version = str(self._read("start")["version"])

    def decode(self, samples: Floats) -> SherpaResult:
        """Decode one recording, float32 (num_samples,), 16 kHz.

        Raises:
            ExportParityError: the process has ended.
        """
        data = np.ascontiguousarray(samples, dtype="<f4").tobytes()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            # A process that has gone is reported below, with what it said.
            self._process.stdin.write(struct.pack("<q", len(samples)) + data)
            self._process.stdin.flush()
        answer = self._read(f"a recording of {len(samples)} samples")
        # sherpa-onnx gives a leading word boundary as a space.
        symbols = tuple(
            SPACE + symbol.removeprefix(" ") if symbol.startswith(" ") else symbol for symbol in answer["tokens"]
        )
        return SherpaResult(symbols, _words(answer["text"]), tuple(_words(text) for text in answer["segments"]))

    def _read(self, doing: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        # The worker answers in JSON objects; anything else is a library talking.
        while (line := self._process.stdout.readline()) and not line.startswith(b"{"):
            pass
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = [text.strip() for text in self._errors.read().decode(errors="replace").splitlines() if text.strip()]
            raise ExportParityError(
                f"sherpa-onnx, {self._subject}, {doing}",
                expected="a result",
                got=f"the process ended with {code}: {said[-1][:300] if said else 'no message'}",
                next_step="check the metadata of the graphs and that tokens.txt fits vocab_size",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def open_sherpa(
    bundle_dir: Path, *, variant: Variant = OFFLINE, int8: bool = False, **options: str | float
) -> Iterator[SherpaDecoder]:
    """Start sherpa-onnx on a variant of a bundle, one thread; it ends with the block.

    Args:
        options: further arguments of sherpa-onnx's recogniser: decoding_method, hotwords_file, ...
    Raises:
        MissingDependencyError: sherpa-onnx is not installed.
        ExportParityError: it refuses the bundle.
    """
    if importlib.util.find_spec("sherpa_onnx") is None:
        raise MissingDependencyError(
            "export-onnx", expected="the package sherpa-onnx", got="none", next_step="pip install sherpa-onnx"
        )
    graphs = {part: str(existing_graph(bundle_dir, part, int8=int8, variant=variant)) for part in parts_of(variant)}
    order: dict[str, Any] = {
        "variant": variant,
        "arguments": {**graphs, "tokens": str(bundle_dir / TOKENS_FILE), "num_threads": 1, **options},
    }
    # -P: the worker's folder must not shadow installed modules.
    command = [sys.executable, "-P", str(_WORKER), json.dumps(order)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield SherpaDecoder(process, errors, f"bundle {bundle_dir}, {variant}{' int8' if int8 else ''}")
        finally:
            _end(process)


def padded_for_sherpa(samples: Floats, chunk_frames: int) -> Floats:
    """Audio with the silence behind it that a stream of sherpa-onnx needs to decode all of it and the tail.

    Args:
        samples: float32 (num_samples,), 16 kHz.
        chunk_frames: student frames a chunk.
    """
    silence = padding_samples(len(samples), chunk_frames) + SHERPA_EXTRA_FRAMES * FEATURE_HOP_SAMPLES
    return np.concatenate([samples, np.zeros(silence, dtype=np.float32)])


def _words(text: str) -> str:
    return " ".join(text.split())


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
