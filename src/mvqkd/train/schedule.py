"""Learning-rate schedules: pure functions of the share of the run that is done, so that no length needs retuning.

The share counts audio, not steps: it means the same with more ranks, longer batches or after a resume. All three
share a linear warm-up over the first ``warmup_share`` of the run.
"""

from __future__ import annotations

import math
from typing import assert_never

from mvqkd.config import Schedule

# Where both of Eden's curves turn, as a share of the run: about icefall's 3.5 of 30 epochs.
EDEN_TURN = 0.1
WARMUP_FLOOR = 0.01


def learning_rate_factor(schedule: Schedule, progress: float, warmup_share: float) -> float:
    """Factor of the configured learning rate.

    Args:
        progress: share of the run that is done, 0 .. 1.
        warmup_share: share of the run with a rising factor, 0 .. 1; noam needs more than 0.
    Returns:
        At most 1; 0 only at the end of cosine.
    """
    match schedule:
        case "cosine":
            return cosine(progress, warmup_share)
        case "noam":
            return noam(progress, warmup_share)
        case "eden":
            return eden(progress, warmup_share)
    assert_never(schedule)


def cosine(progress: float, warmup_share: float) -> float:
    """Linear rise to 1, then half a cosine to 0: for a run whose length is fixed beforehand."""
    if progress < warmup_share:
        return warm_up(progress, warmup_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup_share) / (1 - warmup_share))))


def noam(progress: float, warmup_share: float) -> float:
    """Linear rise to 1, then the inverse square root of the share: Vaswani et al. 2017, arXiv 1706.03762."""
    if progress < warmup_share:
        return warm_up(progress, warmup_share)
    return math.sqrt(warmup_share / progress)


def eden(progress: float, warmup_share: float) -> float:
    """icefall's Eden: ((s^2 + S^2) / S^2)^-1/4 * ((e^2 + E^2) / E^2)^-1/4 * warm-up, s in steps and e in epochs.

    Counted in shares of the run, s and e are one number and S and E are ``EDEN_TURN``, so that the two factors
    make one of power -1/2. It ends at a tenth: training may go on or end early anywhere.
    """
    decay = 1 / math.sqrt(1 + (progress / EDEN_TURN) ** 2)
    return decay * warm_up(progress, warmup_share)


def warm_up(progress: float, warmup_share: float) -> float:
    """Linear rise to 1 over the first ``warmup_share``, from a hundredth: a first step of size 0 would be wasted."""
    return max(WARMUP_FLOOR, min(1.0, progress / warmup_share)) if warmup_share else 1.0
