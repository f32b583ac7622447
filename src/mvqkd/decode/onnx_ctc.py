"""The CTC graph of a bundle in onnxruntime: one graph, no search to speak of.

Shapes: N batch, T feature frames, S student frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_graphs import CTC, Graphs
from mvqkd.decode.search import Hypothesis, ctc_greedy_search

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class OnnxCtc(Graphs):
    """The CTC model of a bundle. Arguments and errors: see ``Graphs``."""

    def __init__(self, bundle_dir: Path | str, *, num_threads: int = 1, int8: bool = False) -> None:
        super().__init__(bundle_dir, CTC, num_threads=num_threads, int8=int8)

    def log_probs(self, features: Floats, lengths: Ids) -> tuple[Floats, Ids]:
        """(N, T, 80), (N,) -> log-probabilities (N, S, V), student frames (N,), 0 for a length below 7."""
        log_probs, frames = self.run("model", features, lengths)
        return log_probs, np.maximum(frames, 0)

    def decode(self, features: Sequence[Floats]) -> list[Hypothesis]:
        """Decode log-mel features (T, 80) of several utterances as one batch."""
        return ctc_greedy_search(*self.log_probs(*pad_features(features))) if features else []

    def transcribe(self, samples: Floats) -> str:
        """Text of one recording, float32 (num_samples,), 16 kHz; memory grows with the square of its length."""
        return self.tokens.decode(self.decode([log_mel(samples)])[0].tokens)
