"""A bundle in onnxruntime: what a deployment needs, without torch.

Needs onnxruntime, numpy, kaldi-native-fbank and the bundle's own files.

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.batching import by_length, pad_features
from mvqkd.decode.hotwords import ContextGraph
from mvqkd.decode.onnx_graphs import OFFLINE, TransducerGraphs
from mvqkd.decode.search import NO_HOTWORDS, Hypothesis, greedy_search, modified_beam_search
from mvqkd.decode.segment import split_at_pauses
from mvqkd.decode.transcript import Segment
from mvqkd.frames import SAMPLE_RATE_HZ, STUDENT_RATE_HZ

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
OfflineDecoder = Literal["greedy", "modified_beam_search"]


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
        self.tokens = Tokens.load(self.bundle_dir)

    def transcribe(
        self,
        audio: Sequence[Floats],
        *,
        decoder: OfflineDecoder = "greedy",
        beam_size: int = 4,
        hotwords: ContextGraph = NO_HOTWORDS,
        batch_duration_s: float = 0.0,
        max_window_s: float = 60.0,
    ) -> list[str]:
        """Texts of recordings; arguments as for ``recognise``."""
        found = self.recognise(
            audio,
            decoder=decoder,
            beam_size=beam_size,
            hotwords=hotwords,
            batch_duration_s=batch_duration_s,
            max_window_s=max_window_s,
        )
        return [" ".join(segment.text for segment in segments if segment.text) for segments in found]

    def recognise(
        self,
        audio: Sequence[Floats],
        *,
        decoder: OfflineDecoder = "greedy",
        beam_size: int = 4,
        hotwords: ContextGraph = NO_HOTWORDS,
        batch_duration_s: float = 0.0,
        max_window_s: float = 60.0,
    ) -> list[tuple[Segment, ...]]:
        """Recognise recordings: texts, tokens and their times.

        Args:
            audio: float32 (num_samples,) each, 16 kHz mono in [-1, 1]; of any length.
            decoder: hotwords need modified_beam_search.
            batch_duration_s: padded seconds computed at once; 0: one by one, best on a CPU.
            max_window_s: longer recordings are cut at pauses, because memory grows with the square of a window.
        Returns:
            The segments of each recording, in order: one, or one a window.
        """
        windows = [split_at_pauses(samples, round(max_window_s * SAMPLE_RATE_HZ)) for samples in audio]
        flat = [window for parts in windows for window in parts]
        found = [Hypothesis()] * len(flat)
        for batch in by_length([len(window) / SAMPLE_RATE_HZ for window in flat], max_padded=batch_duration_s):
            features = [log_mel(flat[position]) for position in batch]
            results = self.decode(features, decoder=decoder, beam_size=beam_size, hotwords=hotwords)
            for position, hypothesis in zip(batch, results, strict=True):
                found[position] = hypothesis
        remaining = iter(found)
        return [self._segments(parts, [next(remaining) for _ in parts]) for parts in windows]

    def _segments(self, windows: Sequence[Floats], found: Sequence[Hypothesis]) -> tuple[Segment, ...]:
        ends_s = [0.0, *(np.cumsum([len(window) for window in windows]) / SAMPLE_RATE_HZ).tolist()]
        return tuple(
            Segment(
                text=self.tokens.decode(hypothesis.tokens),
                tokens=tuple(self.tokens.symbols[token] for token in hypothesis.tokens),
                times_s=tuple(start_s + float(frame / STUDENT_RATE_HZ) for frame in hypothesis.frames),
                start_s=start_s,
                end_s=end_s,
            )
            for hypothesis, (start_s, end_s) in zip(found, itertools.pairwise(ends_s), strict=True)
        )

    def decode(
        self,
        features: Sequence[Floats],
        *,
        decoder: OfflineDecoder = "greedy",
        beam_size: int = 4,
        hotwords: ContextGraph = NO_HOTWORDS,
    ) -> list[Hypothesis]:
        """Decode log-mel features (T, 80) of several utterances as one batch."""
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
