"""A tiny deterministic teacher: real arithmetic on real audio, no weights to download."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mvqkd.frames import SAMPLE_RATE_HZ


class TinyTeacher:
    """A fixed random network over 20 ms frames; implements ``mvqkd.teacher.base.Teacher``.

    Every frame's embedding depends on its own samples and their log power only, so batch mates and padding cannot
    matter; equal arguments give equal embeddings.

    Args:
        layer: 1-based; each layer is another random network.
        dim: channels of an embedding.
        rate_hz: embeddings a second; must divide 16 kHz.
        seed: of the weights.
    """

    num_layers = 4

    def __init__(self, *, layer: int = 2, dim: int = 16, rate_hz: int = 50, seed: int = 0) -> None:
        self.layer = layer
        self.dim = dim
        self.rate_hz = Fraction(rate_hz)
        self.id = f"tiny-{seed}"
        self._hop = SAMPLE_RATE_HZ // rate_hz
        rng = np.random.default_rng([seed, layer])
        self._weights = rng.standard_normal((self._hop, dim)) / np.sqrt(self._hop)
        self._bias = rng.standard_normal(dim)

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """float32 (N, T, dim), zero past the lengths, and int64 (N,) lengths, of recordings (num_samples,)."""
        rows = [torch.from_numpy(self._embed_one(samples)) for samples in audio]
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def transcribe(self, _audio: Sequence[NDArray[np.float32]]) -> list[str] | None:
        return None

    def _embed_one(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        num_frames = max(1, len(samples) // self._hop)
        padded = np.zeros(num_frames * self._hop)
        padded[: min(len(samples), len(padded))] = samples[: len(padded)]
        frames = padded.reshape(num_frames, self._hop)
        power = np.log10(np.square(frames).mean(1, keepdims=True) + 1e-6)
        # One frame at a time: a matrix product of all of them could round differently for another length.
        projected = np.stack([frame @ self._weights for frame in frames])
        embeddings: NDArray[np.float32] = (np.tanh(10 * projected + self._bias) * (power + 6)).astype(np.float32)
        return embeddings
