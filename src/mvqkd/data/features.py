"""Log-mel features, computed exactly as sherpa-onnx computes them for a deployed student."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SAMPLE_RATE_HZ, num_feature_frames

NUM_MELS = 80

T = TypeVar("T")


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel energies of 16 kHz audio in [-1, 1].

    Kaldi fbank with sherpa-onnx's settings: 25 ms Povey windows every 10 ms, 80 mels from 20 Hz to 7600 Hz, no
    dither, edges reflected so that frames number ``num_feature_frames(len(samples))``.

    Returns:
        float32 (T, 80).
    """
    online = OnlineLogMel()
    online.accept(samples)
    online.finish()
    features = online.frames(0, online.num_ready)
    if len(features) != num_feature_frames(len(samples)):
        raise AssertionError(f"{len(features)} feature frames for {len(samples)} samples")
    return features


class OnlineLogMel:
    """Log-mel energies of audio that arrives in blocks: frame by frame what ``log_mel`` gives for all of it."""

    def __init__(self) -> None:
        import kaldi_native_fbank

        self._fbank = kaldi_native_fbank.OnlineFbank(_options())

    @property
    def num_ready(self) -> int:
        """Frames that can be had, counted from the first of all."""
        return int(self._fbank.num_frames_ready)

    def accept(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, float32 (n,), 16 kHz, in [-1, 1]."""
        self._fbank.accept_waveform(SAMPLE_RATE_HZ, np.ascontiguousarray(samples, dtype=np.float32))

    def finish(self) -> None:
        """Say that no audio follows, which makes the last frames ready."""
        self._fbank.input_finished()

    def frames(self, start: int, end: int) -> NDArray[np.float32]:
        """Frames start .. end - 1, (end - start, 80); they must be ready and not forgotten."""
        features = np.empty((end - start, NUM_MELS), dtype=np.float32)
        for row, frame in enumerate(range(start, end)):
            features[row] = self._fbank.get_frame(frame)
        return features

    def forget(self, num_frames: int) -> None:
        """Free the ``num_frames`` oldest frames that are still kept."""
        self._fbank.pop(num_frames)


@cache
def _options() -> Any:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE_HZ
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = NUM_MELS
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = -400.0
    return options


class ArrayCache(Generic[T]):
    """Keep what a function gives for a key, until a budget of bytes is spent; later keys are computed each time.

    A small corpus thus computes its features once, a large one works as if there were no cache.
    """

    def __init__(self, compute: Callable[[T], NDArray[Any]], key: Callable[[T], str], budget_bytes: int) -> None:
        self._compute = compute
        self._key = key
        self._left_bytes = budget_bytes
        self._arrays: dict[str, NDArray[Any]] = {}

    def __call__(self, item: T) -> NDArray[Any]:
        key = self._key(item)
        if (known := self._arrays.get(key)) is not None:
            return known
        array = self._compute(item)
        if array.nbytes <= self._left_bytes:
            self._left_bytes -= array.nbytes
            self._arrays[key] = array
        return array
