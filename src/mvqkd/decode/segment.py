"""Cut long recordings at pauses, so that offline decoding needs bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]

# Energy is looked at over this long: longer than a stop consonant's closure, shorter than a pause.
_PAUSE_SAMPLES = SAMPLE_RATE_HZ // 5


def split_at_pauses(samples: Floats, max_samples: int) -> list[Floats]:
    """Split a recording into consecutive windows of at most ``max_samples``.

    Each cut lies at the quietest place in the second half of the longest possible window.

    Args:
        samples: float32 (num_samples,).
        max_samples: at least two seconds.
    Returns:
        Views that join to ``samples`` again; one window when it is short enough.
    """
    windows: list[Floats] = []
    while len(samples) > max_samples:
        cut = _quietest(samples[:max_samples], max_samples // 2)
        windows.append(samples[:cut])
        samples = samples[cut:]
    return [*windows, samples]


def _quietest(samples: Floats, start: int) -> int:
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples[start:], dtype=np.float64))])
    within = energy[_PAUSE_SAMPLES:] - energy[:-_PAUSE_SAMPLES]
    return start + int(within.argmin()) + _PAUSE_SAMPLES // 2
