"""Challenger and champion on one test set, paired utterance by utterance: figures, and slices of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Ints, Scores
from mvqkd.promotion.significance import Bootstrap, paired_bootstrap, sign_flip_p

# Last number of reference words of each slice by length; what is longer is the last slice.
LENGTH_BOUNDS = (2, 5, 10, 20)

Unit = Literal["utterance", "speaker"]
SliceKind = Literal["speaker", "length"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Word errors of both systems on the same utterances. ``speakers`` has None where none is named."""

    words: Ints
    challenger: Ints
    champion: Ints
    speakers: NDArray[np.object_]

    @property
    def num_words(self) -> int:
        return int(self.words.sum())

    @property
    def difference(self) -> float:
        """WER of the challenger minus WER of the champion."""
        return int((self.challenger - self.champion).sum()) / self.num_words

    def among(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Some of the utterances."""
        return Pairs(self.words[chosen], self.challenger[chosen], self.champion[chosen], self.speakers[chosen])


def pair(challenger: Scores, champion: Scores) -> Pairs | None:
    """Bring the utterances of both in the same order; None where they are not the same ones, or have no words.

    A speaker that one of both reports names counts: reports of older versions name none.
    """
    ours, theirs = challenger.utterances, champion.utterances
    if ours is None or theirs is None or len(set(ours.ids)) != len(ours.ids):
        return None
    here, there = np.argsort(ours.ids, kind="stable"), np.argsort(theirs.ids, kind="stable")
    if [ours.ids[i] for i in here] != [theirs.ids[i] for i in there]:
        return None
    words = ours.words[here]
    if not np.array_equal(words, theirs.words[there]) or words.sum() == 0:
        return None
    speakers = [ours.speakers[i] or theirs.speakers[j] for i, j in zip(here, there, strict=True)]
    return Pairs(words, ours.errors[here], theirs.errors[there], np.array(speakers, dtype=object))


@dataclass(frozen=True)
class Comparison:
    """Both systems on one test set. Differences are challenger minus champion: below 0 the challenger is better.

    ``p_value`` is the exact test's: how probable so low a difference is where neither is better.
    """

    challenger_wer: float
    champion_wer: float
    difference: float
    bootstrap: Bootstrap
    p_value: float
    unit: Unit
    num_units: int
    num_utterances: int
    num_words: int

    def to_json(self) -> dict[str, Any]:
        """Flat, with the bootstrap's figures among the others."""
        record: dict[str, Any] = asdict(self)
        bootstrap: dict[str, Any] = record.pop("bootstrap")
        return record | bootstrap


def compare(pairs: Pairs, config: GateConfig) -> Comparison:
    """Compare on a whole test set, resampling speakers where there are enough, else utterances.

    Errors of one speaker come together: as many utterances of few speakers say less than of many. Where speakers are
    too few to draw from, drawing utterances is what remains.
    """
    differences, words, unit = _units(pairs, config.min_speakers)
    bootstrap = paired_bootstrap(
        differences, words, margin=config.equal_margin, samples=config.bootstrap_samples, seed=config.seed
    )
    return Comparison(
        challenger_wer=int(pairs.challenger.sum()) / pairs.num_words,
        champion_wer=int(pairs.champion.sum()) / pairs.num_words,
        difference=pairs.difference,
        bootstrap=bootstrap,
        p_value=sign_flip_p(differences),
        unit=unit,
        num_units=len(differences),
        num_utterances=len(pairs.words),
        num_words=pairs.num_words,
    )


def _units(pairs: Pairs, min_speakers: int) -> tuple[Ints, Ints, Unit]:
    differences = pairs.challenger - pairs.champion
    if any(speaker is None for speaker in pairs.speakers):
        return differences, pairs.words, "utterance"
    names, speaker_index = np.unique(pairs.speakers.astype(str), return_inverse=True)
    if len(names) < min_speakers:
        return differences, pairs.words, "utterance"
    by_speaker = np.zeros((2, len(names)), dtype=np.int64)
    np.add.at(by_speaker[0], speaker_index, differences)
    np.add.at(by_speaker[1], speaker_index, pairs.words)
    return by_speaker[0], by_speaker[1], "speaker"


@dataclass(frozen=True)
class Slice:
    """A part of the test set. ``p_worse``: how probable so high a difference is where neither is better; None where the
    slice has too few words to be tested."""

    kind: SliceKind
    name: str
    num_utterances: int
    num_words: int
    challenger_wer: float
    champion_wer: float
    difference: float
    p_worse: float | None


def slices(pairs: Pairs, min_words: int) -> list[Slice]:
    """Score both systems speaker by speaker and by number of reference words.

    Parts without words are left out, and a division into a single part, which is the whole set.
    """
    divisions: dict[SliceKind, Iterator[tuple[str, NDArray[np.bool_]]]] = {
        "speaker": _by_speaker(pairs),
        "length": _by_length(pairs),
    }
    found = []
    for kind, parts in divisions.items():
        chosen = [(name, pairs.among(rows)) for name, rows in parts]
        chosen = [(name, part) for name, part in chosen if part.num_words]
        found += [_slice(kind, name, part, min_words) for name, part in chosen if len(chosen) > 1]
    return found


def _by_speaker(pairs: Pairs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for name in sorted({str(speaker) for speaker in pairs.speakers if speaker is not None}):
        yield name, pairs.speakers == name


def _by_length(pairs: Pairs) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    first = 0
    for last in LENGTH_BOUNDS:
        yield f"{first} to {last} words", (pairs.words >= first) & (pairs.words <= last)
        first = last + 1
    yield f"{first} words and more", pairs.words >= first


def _slice(kind: SliceKind, name: str, part: Pairs, min_words: int) -> Slice:
    return Slice(
        kind=kind,
        name=name,
        num_utterances=len(part.words),
        num_words=part.num_words,
        challenger_wer=int(part.challenger.sum()) / part.num_words,
        champion_wer=int(part.champion.sum()) / part.num_words,
        difference=part.difference,
        p_worse=sign_flip_p(part.champion - part.challenger) if part.num_words >= min_words else None,
    )
