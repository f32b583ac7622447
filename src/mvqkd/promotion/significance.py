"""How sure is the difference between two systems that read the same utterances? Counts in, probabilities out.

Everything is computed from sums over units (utterances or speakers), so the order of units means nothing, and swapping
the two systems exactly swaps the answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.promotion.candidate import Ints

Floats = NDArray[np.float64]

# Cells of the resampling matrix held at once: bounds memory at any number of utterances.
_CELLS_AT_ONCE = 4_000_000
# The last digits of a Fourier transform depend on the processor; ids of decisions must not.
_DIGITS = 9


@dataclass(frozen=True)
class Bootstrap:
    """Of the resamples of a test set: in what share is the challenger's WER lower, higher, at most a margin higher?

    ``interval_95`` holds the difference of the WERs, challenger minus champion.
    """

    interval_95: tuple[float, float]
    probability_better: float
    probability_worse: float
    probability_within: float


def paired_bootstrap(differences: Ints, words: Ints, *, margin: float, samples: int, seed: int) -> Bootstrap:
    """Draw test sets of the same size with replacement and count who wins.

    Both systems read the same references, so that only the difference of errors decides. Units with the same
    difference and length are one category of a multinomial draw: the distribution of drawing units one by one, at a
    fraction of the cost.

    Args:
        differences: errors of the challenger minus errors of the champion, one a unit.
        words: words of the reference, one a unit.
        margin: WER that ``probability_within`` allows.
        samples: resamples; rounded down to an even number.
        seed: equal seeds give equal results.
    Source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.
    """
    # Half of the draws see the categories in the other system's order: swapping the systems then swaps the halves, and
    # the result is the exact mirror image, not one that differs by chance.
    ours, our_words = _resample(differences, words, samples // 2, seed)
    theirs, their_words = _resample(-differences, words, samples // 2, seed)
    change, length = np.concatenate([ours, -theirs]), np.concatenate([our_words, their_words])
    # A resample may consist of units without words only; it says nothing of a rate.
    rates = (change / np.where(length > 0, length, np.nan))[length > 0]
    low, high = np.percentile(rates, [2.5, 97.5]) if len(rates) else (math.nan, math.nan)
    return Bootstrap(
        interval_95=(round(float(low), _DIGITS), round(float(high), _DIGITS)),
        probability_better=float(np.mean(change < 0)),
        probability_worse=float(np.mean(change > 0)),
        probability_within=float(np.mean(change <= margin * length + 1e-9)),
    )


def _resample(differences: Ints, words: Ints, samples: int, seed: int) -> tuple[Floats, Floats]:
    """Sums of differences and of words of every resample."""
    categories, counts = np.unique(np.stack([differences, words], axis=1), axis=0, return_counts=True)
    share = counts / counts.sum()
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(counts))
    # Whole numbers far below 2^53: these sums are exact in whatever order they are taken.
    values = categories.astype(np.float64)
    sums = [
        rng.multinomial(len(differences), share, size=min(at_once, samples - first)).astype(np.float64) @ values
        for first in range(0, samples, at_once)
    ]
    drawn = np.concatenate(sums)
    return drawn[:, 0], drawn[:, 1]


def sign_flip_p(differences: Ints) -> float:
    """Probability that a challenger as good as the champion shows differences that add up to as little or less.

    If neither is better, each unit could as well have come out the other way round: the observed sum is compared with
    those of all sign changes. The answer is exact for any number of units, also where a bootstrap is too sure of
    itself: five utterances, all better, give 1/32. For the probability that it is as bad by chance, negate.

    Source: Fisher 1935, The Design of Experiments, section 21; Pitman 1937.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    most = int((sizes * counts).sum())
    if most == 0:
        return 1.0
    # A sum of independent signs has a product of cosines as its characteristic function; the inverse transform over
    # as many frequencies as there are sums (half of them, for it is even) gives the probability of each.
    num_sums = 2 * most + 1
    frequencies = 2 * np.pi * np.arange(most + 1) / num_sums
    characteristic: Floats = np.ones(len(frequencies))
    for size, count in zip(sizes, counts, strict=True):
        characteristic *= np.cos(size * frequencies) ** count
    by_sum = np.roll(np.fft.irfft(characteristic, num_sums), most)
    p = float(by_sum[: int(differences.sum()) + most + 1].sum())
    return round(min(1.0, max(0.0, p)), _DIGITS)


def words_for_equality(margin: float, probability: float) -> float:
    """Words on which two systems must not differ at all, to be sure that one is not worse by more than a margin.

    A bootstrap cannot tell: where nothing differs, nothing differs in its resamples. If the challenger made ``margin``
    more errors a word, so many words would show none of them with probability 1 - ``probability``.
    """
    return math.log(1 - probability) / math.log1p(-margin) if 0 < margin < 1 else math.inf
