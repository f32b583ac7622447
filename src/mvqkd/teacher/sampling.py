"""Choose the frames that a quantizer is fitted on: uniformly over the whole corpus, before any is computed.

How many frames a recording gives follows from its duration, so the choice needs no pass over the corpus: numbers
are drawn without replacement from 0 .. F-1, F being the frames of all recordings laid end to end in the order of
their ids. The choice depends on seed, ids and durations only: not on batches, devices or the manifest's order. The
teacher then runs on the recordings that were hit and on no others, and memory holds the chosen frames alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameSample:
    """Chosen frames of one recording.

    frames: int64 (n,), numbers of its frames, ascending. places: int64 (n,), where in the shuffled sample each goes.
    """

    frames: NDArray[np.int64]
    places: NDArray[np.int64]


def sample_frames(num_frames_of: Mapping[str, int], num_frames: int, seed: int) -> dict[str, FrameSample]:
    """Choose ``num_frames`` frames (all, when there are fewer), every frame with equal probability.

    Args:
        num_frames_of: recording id -> frames it gives.
        num_frames: how many to choose.
        seed: of the choice and of the order.
    Returns:
        recording id -> its chosen frames, for the recordings that were hit, in the order of their ids. The places
        of all of them are a permutation of 0 .. n-1, in random order.
    """
    ids = sorted(num_frames_of)
    ends = np.cumsum([num_frames_of[recording] for recording in ids], dtype=np.int64)
    total = int(ends[-1]) if ids else 0
    # Memory of the draw is bounded by a multiple of num_frames, not by the corpus.
    chosen = np.random.default_rng(seed).choice(total, size=min(num_frames, total), replace=False, shuffle=True)
    places = np.argsort(chosen, kind="stable")
    ordered = chosen[places].astype(np.int64)
    owners = np.searchsorted(ends, ordered, side="right")
    hit, first = np.unique(owners, return_index=True)
    bounds = [*first.tolist(), len(ordered)]
    return {
        ids[owner]: FrameSample(
            frames=ordered[start:stop] - (int(ends[owner]) - num_frames_of[ids[owner]]),
            places=places[start:stop].astype(np.int64),
        )
        for owner, start, stop in zip(hit.tolist(), bounds, bounds[1:], strict=False)
    }
