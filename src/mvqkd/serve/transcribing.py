"""A whole recording through the offline graphs, window by window, so that it can be given up in between."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.segment import split_at_pauses
from mvqkd.decode.transcript import Segment, Transcript
from mvqkd.frames import SAMPLE_RATE_HZ

# Short enough for a bounded wait when the server ends, long enough for context.
_MAX_WINDOW_S = 30


def transcribe_samples(
    transducer: OnnxTransducer, samples: NDArray[np.float32], *, should_stop: Callable[[], bool] = lambda: False
) -> Transcript:
    """Decode float32 (n,) at 16 kHz; ends early, with what there is, when ``should_stop`` says so."""
    started = time.perf_counter()
    segments: list[Segment] = []
    num_samples = 0
    for window in split_at_pauses(samples, _MAX_WINDOW_S * SAMPLE_RATE_HZ):
        if should_stop():
            break
        (found,) = transducer.recognise([window])
        segments += [_later(segment, num_samples / SAMPLE_RATE_HZ) for segment in found]
        num_samples += len(window)
    return Transcript("upload", len(samples) / SAMPLE_RATE_HZ, tuple(segments), time.perf_counter() - started)


def _later(segment: Segment, by_s: float) -> Segment:
    return dataclasses.replace(
        segment,
        times_s=tuple(time_s + by_s for time_s in segment.times_s),
        start_s=segment.start_s + by_s,
        end_s=segment.end_s + by_s,
    )
