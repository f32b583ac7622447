"""A whole recording through the offline graphs, with the time of every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.segment import split_at_pauses
from mvqkd.frames import SAMPLE_RATE_HZ, STUDENT_RATE_HZ

# Short enough for a bounded wait when the server ends, long enough for context.
_MAX_WINDOW_S = 30


@dataclass(frozen=True)
class Transcript:
    """What a recording says; ``times_s`` has one entry a token, from the recording's start."""

    text: str
    tokens: tuple[str, ...]
    times_s: tuple[float, ...]
    duration_s: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, times in milliseconds' precision."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "times_s": [round(time_s, 3) for time_s in self.times_s],
            "duration_s": round(self.duration_s, 3),
        }


def transcribe_samples(
    transducer: OnnxTransducer, samples: NDArray[np.float32], *, should_stop: Callable[[], bool] = lambda: False
) -> Transcript:
    """Decode float32 (n,) at 16 kHz window by window; ends early, with what there is, when ``should_stop`` says so."""
    texts: list[str] = []
    tokens: list[str] = []
    times_s: list[float] = []
    start_s = 0.0
    for window in split_at_pauses(samples, _MAX_WINDOW_S * SAMPLE_RATE_HZ):
        if should_stop():
            break
        (found,) = transducer.decode([log_mel(window)])
        texts.append(transducer.tokens.decode(found.tokens))
        tokens += [transducer.tokens.symbols[token] for token in found.tokens]
        times_s += [start_s + float(frame / STUDENT_RATE_HZ) for frame in found.frames]
        start_s += len(window) / SAMPLE_RATE_HZ
    return Transcript(" ".join(filter(None, texts)), tuple(tokens), tuple(times_s), len(samples) / SAMPLE_RATE_HZ)
