"""A bundle in onnxruntime: what a deployment needs, without torch.

Needs onnxruntime, numpy, kaldi-native-fbank and the bundle's own files.

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.decode.batching import by_length, pad_features
from mvqkd.decode.hotwords import ContextGraph
from mvqkd.decode.onnx_graphs import OFFLINE, TransducerGraphs
from mvqkd.decode.search import NO_HOTWORDS, Hypothesis, greedy_search, modified_beam_search
from mvqkd.decode.segment import split_at_pauses
from mvqkd.decode.transcript import Segment, text_of
from mvqkd.frames import SAMPLE_RATE_HZ, STUDENT_RATE_HZ

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
OfflineDecoder = Literal["greedy", "modified_beam_search"]


class SearchOptions(TypedDict, total=False):
    """How a batch is searched: ``decode`` says what each option means, and what it is by default."""

    decoder: OfflineDecoder
    beam_size: int
    hotwords: ContextGraph


class RecogniseOptions(SearchOptions, total=False):
    """How recordings are cut, batched and searched: see ``OnnxTransducer.recognise``."""

    batch_duration_s: float
    max_window_s: float


class _Window(NamedTuple):
    """A part of a recording that is decoded in one piece; seconds from the recording's start."""

    samples: Floats
    start_s: float
    end_s: float


class OnnxTransducer(TransducerGraphs):
    """The offline transducer of a bundle; implements ``mvqkd.decode.search.Transducer``.

    Args:
        bundle_dir: a directory with ``offline/*.onnx`` and tokens.txt. Its digests are the caller's business
            (``mvqkd.artifacts.load_artifact``).
        num_threads: threads of onnxruntime.
        int8: take the quantised graph of each part that has one.
    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: a graph is missing or onnxruntime refuses it.
    """

    def __init__(self, bundle_dir: Path | str, num_threads: int = 1, int8: bool = False) -> None:
        super().__init__(bundle_dir, OFFLINE, num_threads=num_threads, int8=int8)

    def transcribe(self, audio: Sequence[Floats], **options: Unpack[RecogniseOptions]) -> list[str]:
        """Texts of recordings; arguments as for ``recognise``."""
        return [text_of(segments) for segments in self.recognise(audio, **options)]

    def recognise(
        self,
        audio: Sequence[Floats],
        *,
        batch_duration_s: float = 0.0,
        max_window_s: float = 60.0,
        **search: Unpack[SearchOptions],
    ) -> list[tuple[Segment, ...]]:
        """Recognise recordings: texts, tokens and their times.

        Args:
            audio: float32 (num_samples,) each, 16 kHz mono in [-1, 1]; of any length.
            batch_duration_s: padded seconds computed at once; 0: one by one, best on a CPU.
            max_window_s: longer recordings are cut at pauses, because memory grows with the square of a window.
            search: as for ``decode``.
        Returns:
            The segments of each recording, in order: one, or one a window.
        """
        windows = [_windows(samples, max_window_s) for samples in audio]
        flat = [window for parts in windows for window in parts]
        found: dict[int, Segment] = {}
        lengths_s = [len(window.samples) / SAMPLE_RATE_HZ for window in flat]
        for batch in by_length(lengths_s, max_padded=batch_duration_s):
            hypotheses = self.decode([log_mel(flat[position].samples) for position in batch], **search)
            for position, hypothesis in zip(batch, hypotheses, strict=True):
                found[position] = self._segment(flat[position], hypothesis)
        remaining = (found[position] for position in range(len(flat)))
        return [tuple(next(remaining) for _ in parts) for parts in windows]

    def segments(self, samples: Floats, *, max_window_s: float) -> Iterator[Segment]:
        """What ``recognise`` finds greedily in one recording, each segment computed when it is asked for."""
        for window in _windows(samples, max_window_s):
            (hypothesis,) = self.decode([log_mel(window.samples)])
            yield self._segment(window, hypothesis)

    def decode(
        self,
        features: Sequence[Floats],
        *,
        decoder: OfflineDecoder = "greedy",
        beam_size: int = 4,
        hotwords: ContextGraph = NO_HOTWORDS,
    ) -> list[Hypothesis]:
        """Decode log-mel features (T, 80) of several utterances as one batch.

        Args:
            decoder: hotwords need modified_beam_search.
            beam_size: hypotheses kept by the beam.
            hotwords: phrases to favour.
        """
        if not features:
            return []
        encoded, frames = self.encode(*pad_features(features))
        if decoder == "greedy":
            return greedy_search(self, encoded, frames)
        return modified_beam_search(self, encoded, frames, beam_size=beam_size, hotwords=hotwords)

    def encode(self, features: Floats, lengths: Ids) -> tuple[Floats, Ids]:
        """(N, T, 80), (N,) -> projected encoder output (N, S, J), student frames (N,), 0 for a length below 7."""
        encoded, frames = self.run("encoder", features, lengths)
        return encoded, np.maximum(frames, 0)

    def _segment(self, window: _Window, found: Hypothesis) -> Segment:
        return Segment(
            text=self.tokens.decode(found.tokens),
            tokens=tuple(self.tokens.symbols[token] for token in found.tokens),
            times_s=tuple(window.start_s + float(frame / STUDENT_RATE_HZ) for frame in found.frames),
            start_s=window.start_s,
            end_s=window.end_s,
        )


def _windows(samples: Floats, max_window_s: float) -> list[_Window]:
    parts = split_at_pauses(samples, round(max_window_s * SAMPLE_RATE_HZ))
    ends = itertools.accumulate(map(len, parts), initial=0)
    return [
        _Window(part, start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ)
        for part, (start, end) in zip(parts, itertools.pairwise(ends), strict=True)
    ]
