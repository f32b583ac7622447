"""Features of several utterances as one padded batch.

Shapes: N batch, T feature frames of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SUBSAMPLING_CONTEXT_FRAMES

Floats = NDArray[np.float32]


def pad_features(features: Sequence[Floats]) -> tuple[Floats, NDArray[np.int64]]:
    """Stack utterances, wide enough for at least one student frame.

    Args:
        features: float32 (T_n, 80) each, any T_n from 0; at least one utterance.
    Returns:
        float32 (N, T, 80), padded with 0, T at least 7; int64 (N,), the real lengths.
    """
    lengths = np.array([len(item) for item in features], dtype=np.int64)
    width = max(int(lengths.max()), SUBSAMPLING_CONTEXT_FRAMES)
    padded = np.zeros((len(features), width, features[0].shape[1]), dtype=np.float32)
    for row, item in zip(padded, features, strict=True):
        row[: len(item)] = item
    return padded, lengths


def by_length(lengths: Sequence[float], *, max_padded: float) -> list[list[int]]:
    """Split positions 0 .. N-1 into batches of similar length, longest first.

    Args:
        lengths: seconds or frames of each item.
        max_padded: bound on items x longest of a batch; a longer item is a batch of its own.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_padded:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
