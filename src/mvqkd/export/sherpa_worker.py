"""Decode audio from stdin with unmodified sherpa-onnx; run as a program of its own by ``mvqkd.export.sherpa``.

A graph with wrong metadata ends the process, which is why this is not done in the caller's. Imports nothing of
mvqkd, so that what decodes is sherpa-onnx and the bundle's files alone.

Protocol: argv[1] is JSON of the recogniser's arguments. Then, per utterance, stdin carries an int64 number of samples
and that many float32 samples (16 kHz); stdout answers one JSON line with the tokens and the text. End of input ends.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any


def main() -> int:
    """Serve until stdin ends."""
    import numpy as np
    import sherpa_onnx

    arguments: dict[str, Any] = json.loads(sys.argv[1])
    recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(**arguments)
    _answer({"version": str(getattr(sherpa_onnx, "__version__", "unknown"))})
    while header := sys.stdin.buffer.read(8):
        (num_samples,) = struct.unpack("<q", header)
        samples = np.frombuffer(sys.stdin.buffer.read(4 * num_samples), dtype="<f4")
        stream = recognizer.create_stream()
        stream.accept_waveform(16_000, samples)
        recognizer.decode_stream(stream)
        _answer({"tokens": list(stream.result.tokens), "text": stream.result.text})
    return 0


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
