"""Word and character error rates with counts, alignments and confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import EmptyCutSetError

# Rows of the resampling matrix held at once: bounds memory at any number of utterances.
_RESAMPLES_AT_ONCE = 1_000


@dataclass(frozen=True)
class ErrorCounts:
    """Edit operations that turn a reference into a hypothesis."""

    insertions: int
    deletions: int
    substitutions: int
    reference_length: int

    @property
    def errors(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float:
        """Errors by reference length; above 1 when much is inserted.

        Raises:
            EmptyCutSetError: the reference is empty, which leaves no rate to state.
        """
        if self.reference_length == 0:
            raise EmptyCutSetError(
                "error rate",
                expected="at least one reference symbol",
                got="none",
                next_step="score a split whose texts are not empty",
            )
        return self.errors / self.reference_length

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.reference_length + other.reference_length,
        )


def word_errors(ref: str, hyp: str) -> ErrorCounts:
    """Count errors between the space-separated words of two normalised texts."""
    return _count(ref.split(), hyp.split())


def character_errors(ref: str, hyp: str) -> ErrorCounts:
    """Count errors between the characters of two normalised texts; the space between words is one."""
    return _count(list(" ".join(ref.split())), list(" ".join(hyp.split())))


def _count(ref: list[str], hyp: list[str]) -> ErrorCounts:
    import kaldialign

    counts = kaldialign.edit_distance(ref, hyp)
    return ErrorCounts(int(counts["ins"]), int(counts["del"]), int(counts["sub"]), len(ref))


def total(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    """Sum over utterances."""
    return sum(counts, ErrorCounts(0, 0, 0, 0))


def align_words(ref: str, hyp: str) -> list[tuple[str | None, str | None]]:
    """Pair the words of two texts; None stands where an inserted word has no reference, a deleted one no hypothesis."""
    import kaldialign

    # Normalised words have no lower case, so the filler cannot be mistaken for a word of either text.
    filler = "*insertion-or-deletion*"
    pairs = kaldialign.align(ref.split(), hyp.split(), filler)
    return [(None if r == filler else r, None if h == filler else h) for r, h in pairs]


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, samples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of an error rate, resampling utterances.

    Args:
        counts: one an utterance; utterances are the unit because errors within one are not independent.
        samples: resamples.
        seed: equal seeds give equal intervals.
    Source: Bisani and Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation.
    """
    errors = np.array([count.errors for count in counts], dtype=np.float64)
    lengths = np.array([count.reference_length for count in counts], dtype=np.float64)
    rng = np.random.default_rng(seed)
    share = np.full(len(counts), 1 / len(counts))
    rates: list[NDArray[np.float64]] = []
    for first in range(0, samples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, samples - first)
        drawn = rng.multinomial(len(counts), share, size=size).astype(np.float64)
        # A resample may consist of utterances without words only; it says nothing of a rate.
        words = drawn @ lengths
        rates.append((drawn @ errors) / np.where(words > 0, words, np.nan))
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(np.concatenate(rates), [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same utterances. ``probability_b_better``: share of resamples in which b's WER is lower."""

    wer_a: float
    wer_b: float
    probability_b_better: float


def paired_bootstrap(
    refs: Sequence[str], hyps_a: Sequence[str], hyps_b: Sequence[str], *, samples: int = 10_000, seed: int = 0
) -> PairedComparison:
    """Bisani-Ney paired test: how sure is it that system b has a lower WER than system a?"""
    import kaldialign

    split = [[text.split() for text in texts] for texts in (refs, hyps_a, hyps_b)]
    result = kaldialign.bootstrap_wer_ci(*split, replications=samples, seed=seed)
    wer_a, wer_b = (
        total([word_errors(r, h) for r, h in zip(refs, hyps, strict=True)]).rate for hyps in (hyps_a, hyps_b)
    )
    return PairedComparison(wer_a, wer_b, float(result["p_s2_improv_over_s1"]))
