"""A whole recording through the offline graphs, window by window, so that it can be given up in between."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.transcript import Segment, Transcript
from mvqkd.frames import SAMPLE_RATE_HZ

# Short enough for a bounded wait when the server ends, long enough for context.
_MAX_WINDOW_S = 30.0


def transcribe_samples(
    transducer: OnnxTransducer, samples: NDArray[np.float32], *, should_stop: Callable[[], bool] = lambda: False
) -> Transcript:
    """Decode float32 (n,) at 16 kHz; ends early, with what there is, when ``should_stop`` says so."""
    started = time.perf_counter()
    remaining = transducer.segments(samples, max_window_s=_MAX_WINDOW_S)
    segments: list[Segment] = []
    while not should_stop() and (segment := next(remaining, None)) is not None:
        segments.append(segment)
    return Transcript("upload", len(samples) / SAMPLE_RATE_HZ, tuple(segments), time.perf_counter() - started)
