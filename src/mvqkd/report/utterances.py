"""What was heard: worst utterances, what changed against the champion, words that are confused."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mvqkd.decode.report import Row, Utterance, WerReport
from mvqkd.decode.scoring import align_words, word_errors
from mvqkd.report.comparison import Rival, rival_of
from mvqkd.report.run import BUNDLE, Missing, Run
from mvqkd.report.wer_table import row_label

NUM_WORST = 10
NUM_CHANGED = 5
NUM_CONFUSIONS = 15
NUM_SINGLE = 60
# A page must stay small whatever is in a test set: words of an alignment, letters of a word.
MAX_WORDS = 200

Operation = Literal["same", "substituted", "deleted", "inserted"]


@dataclass(frozen=True)
class Word:
    """A place of an alignment: the words of reference and hypothesis, None where there is none."""

    operation: Operation
    ref: str | None
    hyp: str | None


@dataclass(frozen=True)
class Alignment:
    """What one system heard in an utterance. ``left_out``: words that are not shown."""

    words: list[Word]
    left_out: int
    errors: int


@dataclass(frozen=True)
class Heard:
    """An utterance as it is shown; ``champion`` where its report has the same row."""

    id: str
    num_words: int
    challenger: Alignment
    champion: Alignment | None
    details: list[str]


@dataclass(frozen=True)
class Worst:
    """The utterances of the most errors, and how the errors are spread."""

    row: str
    utterances: list[Heard]
    num_utterances: int
    perfect: int
    share_of_errors: float


@dataclass(frozen=True)
class Changes:
    """Utterances in which challenger and champion differ."""

    better: int
    worse: int
    same: int
    most_worse: list[Heard]
    most_better: list[Heard]


@dataclass(frozen=True)
class Confused:
    """One kind of error: how many there are, which occur more than once, most frequent first, and some of those that
    occur once. A pair is (said, heard); None where there is no such word."""

    operation: Operation
    total: int
    repeated: list[tuple[str | None, str | None, int]]
    single: list[tuple[str | None, str | None]]
    num_single: int


@dataclass(frozen=True)
class Confusions:
    """What is taken for what."""

    row: str
    kinds: list[Confused]


class Texts:
    """Errors and alignments of the row of record, each computed once."""

    def __init__(self, run: Run, report: WerReport, row: Row, label: str) -> None:
        self.report, self.row, self.label = report, row, label
        rival = rival_of(run)
        has_row = isinstance(rival, Rival) and rival.row(row.name) is not None
        self.rival: Rival | Missing = rival
        if isinstance(rival, Rival) and not has_row:
            self.rival = Missing(f"The champion's report has no row {row.name}.")

    @functools.cached_property
    def errors(self) -> list[int]:
        """Word errors of the challenger, in the order of the utterances."""
        return [word_errors(utterance.ref, utterance.hyp[self.row.name]).errors for utterance in self.report.utterances]

    @functools.cached_property
    def champion_errors(self) -> list[int] | None:
        """The same of the champion; None where it does not compare."""
        if isinstance(self.rival, Missing):
            return None
        return [word_errors(u.ref, self.rival.texts[u.id][self.row.name]).errors for u in self.report.utterances]

    def heard(self, utterance: Utterance) -> Heard:
        """An utterance with both alignments."""
        theirs = None if isinstance(self.rival, Missing) else self.rival.texts[utterance.id][self.row.name]
        return Heard(
            id=utterance.id,
            num_words=len(utterance.ref.split()),
            challenger=align(utterance.ref, utterance.hyp[self.row.name]),
            champion=None if theirs is None else align(utterance.ref, theirs),
            details=_details(utterance),
        )


def texts_of(run: Run) -> Texts | Missing:
    """The texts of what ships, or else of the torch student."""
    judged = run.judged()
    if isinstance(judged, Missing):
        return judged
    row = judged.row_of_record()
    own = run if judged.artifact.kind == BUNDLE else Run(run.artifacts)
    return Texts(own, judged.report, row, row_label(row, judged.artifact))


def worst(texts: Texts) -> Worst | Missing:
    """The utterances with the most errors."""
    total = sum(texts.errors)
    if total == 0:
        return Missing("Every utterance was heard without an error.")
    order = _ordered(texts, range(len(texts.errors)), lambda n: -texts.errors[n])[:NUM_WORST]
    shown = [number for number in order if texts.errors[number]]
    return Worst(
        row=texts.label,
        utterances=[texts.heard(texts.report.utterances[number]) for number in shown],
        num_utterances=len(texts.errors),
        perfect=sum(1 for errors in texts.errors if errors == 0),
        share_of_errors=sum(texts.errors[number] for number in shown) / total,
    )


def changes(texts: Texts) -> Changes | Missing:
    """Where the challenger hears better or worse than the champion."""
    if isinstance(texts.rival, Missing):
        return texts.rival
    assert texts.champion_errors is not None
    gains = [ours - theirs for ours, theirs in zip(texts.errors, texts.champion_errors, strict=True)]

    def most(numbers: Iterable[int]) -> list[Heard]:
        order = _ordered(texts, numbers, lambda n: -abs(gains[n]))[:NUM_CHANGED]
        return [texts.heard(texts.report.utterances[number]) for number in order]

    better = [number for number, gain in enumerate(gains) if gain < 0]
    worse = [number for number, gain in enumerate(gains) if gain > 0]
    return Changes(len(better), len(worse), len(gains) - len(better) - len(worse), most(worse), most(better))


def confusions(texts: Texts) -> Confusions | Missing:
    """Words that are taken for others, not heard, or heard where nothing was said."""
    found: dict[Operation, Counter[tuple[str | None, str | None]]] = {
        operation: Counter() for operation in ("substituted", "deleted", "inserted")
    }
    for utterance, errors in zip(texts.report.utterances, texts.errors, strict=True):
        if errors:
            for word in align(utterance.ref, utterance.hyp[texts.row.name], most=None).words:
                if word.operation != "same":
                    found[word.operation][word.ref, word.hyp] += 1
    if not any(found.values()):
        return Missing("Every utterance was heard without an error.")
    return Confusions(texts.label, [_confused(operation, counter) for operation, counter in found.items()])


def _confused(operation: Operation, counter: Counter[tuple[str | None, str | None]]) -> Confused:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))
    single = [pair for pair, times in ordered if times == 1]
    return Confused(
        operation,
        total=counter.total(),
        repeated=[(ref, hyp, times) for (ref, hyp), times in ordered if times > 1][:NUM_CONFUSIONS],
        single=single[:NUM_SINGLE],
        num_single=len(single),
    )


def align(ref: str, hyp: str, most: int | None = MAX_WORDS) -> Alignment:
    """Align two normalised texts, word by word; of long ones the first ``most`` places are kept."""
    pairs = align_words(ref, hyp)
    words = [Word(_operation(r, h), r, h) for r, h in pairs]
    errors = sum(1 for word in words if word.operation != "same")
    return Alignment(words[:most], len(words) - len(words[:most]), errors)


def _operation(ref: str | None, hyp: str | None) -> Operation:
    if ref is None:
        return "inserted"
    if hyp is None:
        return "deleted"
    return "same" if ref == hyp else "substituted"


def _ordered(texts: Texts, numbers: Iterable[int], key: Any) -> list[int]:
    """Sorted by a key, then by id: the order must not depend on that of the test set."""
    return sorted(numbers, key=lambda number: (key(number), texts.report.utterances[number].id))


def _details(utterance: Utterance) -> list[str]:
    """Speaker, where the report knows one."""
    return [] if utterance.speaker is None else [f"speaker {utterance.speaker}"]
