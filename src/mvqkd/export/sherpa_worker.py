"""Decode audio from stdin with unmodified sherpa-onnx; run as a program of its own by ``mvqkd.export.sherpa``.

A graph with wrong metadata ends the process, which is why this is not done in the caller's. Imports nothing of
mvqkd, so that what decodes is sherpa-onnx and the bundle's files alone.

Protocol: argv[1] is JSON of the variant (offline, streaming, ctc) and the recogniser's arguments. Then, per utterance,
stdin carries an int64 number of samples and that many float32 samples (16 kHz); stdout answers one JSON line with
tokens, text and the texts of the segments. End of input ends.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

_RATE_HZ = 16_000
_BLOCK_SAMPLES = 1_600


def main() -> int:
    """Serve until stdin ends."""
    import numpy as np
    import sherpa_onnx

    order: dict[str, Any] = json.loads(sys.argv[1])
    make = {
        "offline": sherpa_onnx.OfflineRecognizer.from_transducer,
        "ctc": sherpa_onnx.OfflineRecognizer.from_zipformer_ctc,
        "streaming": sherpa_onnx.OnlineRecognizer.from_transducer,
    }[order["variant"]]
    recognizer = make(**order["arguments"])
    decode = _stream if order["variant"] == "streaming" else _whole
    _answer({"version": str(getattr(sherpa_onnx, "__version__", "unknown"))})
    while header := sys.stdin.buffer.read(8):
        (num_samples,) = struct.unpack("<q", header)
        samples = np.frombuffer(sys.stdin.buffer.read(4 * num_samples), dtype="<f4")
        _answer(decode(recognizer, samples))
    return 0


def _whole(recognizer: Any, samples: Any) -> dict[str, Any]:
    stream = recognizer.create_stream()
    stream.accept_waveform(_RATE_HZ, samples)
    recognizer.decode_stream(stream)
    return {"tokens": list(stream.result.tokens), "text": stream.result.text, "segments": [stream.result.text]}


def _stream(recognizer: Any, samples: Any) -> dict[str, Any]:
    """Feed as a microphone would; where endpoints are asked for, a segment ends at each."""
    stream = recognizer.create_stream()
    tokens: list[str] = []
    segments: list[str] = []

    def close_segment() -> None:
        tokens.extend(recognizer.tokens(stream))
        segments.append(recognizer.get_result(stream))

    for start in range(0, len(samples), _BLOCK_SAMPLES):
        stream.accept_waveform(_RATE_HZ, samples[start : start + _BLOCK_SAMPLES])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        if recognizer.is_endpoint(stream):
            close_segment()
            recognizer.reset(stream)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    close_segment()
    return {"tokens": tokens, "text": "".join(segments), "segments": segments}


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
