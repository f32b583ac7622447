"""Two models that read the same test set, with errors as real students make them and a known true difference.

An utterance has a length and a difficulty, which both models share. Of its errors some are made by both (the same
words are hard for both), the rest by one alone. Lengths, mean and spread of the errors are those of a real WER report,
the shared part is that of real students which were trained alike with other seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.promotion.candidate import Candidate, Costs, Ints, Scores, Utterances

GRAPH_BYTES = 10_000_000


@dataclass(frozen=True)
class ErrorModel:
    """How utterances of a test set and the errors in them are drawn.

    Args:
        lengths: words of an utterance -> how often.
        wer: of the champion.
        dispersion: shape of the gamma distribution of difficulties; infinite: all utterances are equally hard.
        shared: share of the errors that both models make where they are equally good.
    """

    lengths: dict[int, int]
    wer: float
    dispersion: float
    shared: float

    def draw(
        self,
        rng: np.random.Generator,
        num_utterances: int,
        difference: float,
        *,
        num_speakers: int = 1,
        speaker_deviation: float = 0.0,
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Words, errors of the champion, errors of the challenger and the speaker of every utterance.

        Args:
            difference: true WER of the challenger relative to the champion's, minus 1.
            speaker_deviation: by which that differs from speaker to speaker.
        """
        lengths = np.fromiter(self.lengths.keys(), dtype=np.int64)
        weights = np.fromiter(self.lengths.values(), dtype=np.float64)
        words = rng.choice(lengths, size=num_utterances, p=weights / weights.sum())
        hard = rng.gamma(self.dispersion, 1 / self.dispersion, num_utterances)
        expected = self.wer * words * hard
        speakers = np.arange(num_utterances) % num_speakers
        ratio = (1 + difference) * _around_one(rng, num_speakers, speaker_deviation)[speakers]
        both = self.shared * np.minimum(1, ratio)
        common = rng.poisson(both * expected)
        champion = common + rng.poisson((1 - both) * expected)
        challenger = common + rng.poisson((ratio - both) * expected)
        return words, champion, challenger, speakers


def fit(words: Ints, errors: Ints, students: Sequence[Sequence[Ints]], *, shared: float) -> ErrorModel:
    """Fit to a report's errors by moments.

    Args:
        students: groups of models trained alike, their errors on the same utterances: what two of a group share.
        shared: that part where there are no two.
    """
    wer = errors.sum() / words.sum()
    expected = wer * words
    # The variance of a gamma mixture of Poisson counts is its mean plus mean² / shape.
    surplus = float(((errors - expected) ** 2 - expected).sum())
    found = [_shared(words, a, b) for group in students for a, b in itertools.combinations(group, 2)]
    length, count = np.unique(words, return_counts=True)
    return ErrorModel(
        lengths={int(n): int(times) for n, times in zip(length, count, strict=True)},
        wer=float(wer),
        dispersion=round(float((expected**2).sum()) / surplus, 3) if surplus > 0 else 1e6,
        shared=round(float(np.mean(found)), 3) if found else shared,
    )


def _shared(words: Ints, a: Ints, b: Ints) -> float:
    """What two models do not share is what their difference varies by."""
    change = b - a - (b - a).sum() / words.sum() * words
    return 1 - float((change**2).sum()) / float((a + b).sum())


def _around_one(rng: np.random.Generator, size: int, deviation: float) -> NDArray[np.float64]:
    if deviation == 0:
        return np.ones(size)
    return rng.gamma(deviation**-2, deviation**2, size)


def candidates(words: Ints, errors: Sequence[Ints], speakers: Ints | None = None) -> list[Candidate]:
    """A candidate a model, alike in everything but its errors."""
    count = len(words)
    ids = tuple(f"u{i:06}" for i in range(count))
    names: Any = (None,) * count if speakers is None else tuple(f"s{speaker:04}" for speaker in speakers)
    return [
        Candidate(
            bundle_id=f"{number}" * 64,
            scores=Scores(
                test_set="test",
                test_set_sha256="a" * 64,
                text_normalizer="upper-ascii-1",
                num_utterances=count,
                wer=float(made.sum() / words.sum()),
                utterances=Utterances(ids, words, made, names),
            ),
            parity_ok=True,
            costs=Costs(bundle_bytes=GRAPH_BYTES, graph_bytes=GRAPH_BYTES, graphs=(f"{number}",), rtf=0.01),
        )
        for number, made in enumerate(errors)
    ]
