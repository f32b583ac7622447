"""Counts, alignments and intervals, against jiwer, against kaldialign's own bootstrap, against each other."""

from __future__ import annotations

import jiwer
import kaldialign
import numpy as np
import pytest

from mvqkd.decode.scoring import (
    ErrorCounts,
    align_words,
    bootstrap_interval,
    character_errors,
    paired_bootstrap,
    total,
    word_errors,
)
from mvqkd.errors import EmptyCutSetError

WORDS = ["A", "BAD", "CAB", "DAY", "EGG", "FAR"]


def random_texts(seed: int, count: int, error_share: float) -> tuple[list[str], list[str]]:
    """References and hypotheses with words dropped, replaced and doubled."""
    rng = np.random.default_rng(seed)
    refs = [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(count)]
    hyps = []
    for ref in refs:
        words: list[str] = []
        for word in ref.split():
            draw = rng.uniform() / error_share
            words += [word] if draw > 1 else [[], ["XYZ"], [word, word]][int(draw * 3)]
        hyps.append(" ".join(words))
    return refs, hyps


def test_counts_are_those_of_jiwer() -> None:
    refs, hyps = random_texts(0, 200, 0.4)
    words = jiwer.process_words(refs, hyps)
    ours = total([word_errors(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)])
    assert ours.errors == words.insertions + words.deletions + words.substitutions
    assert ours.rate == pytest.approx(words.wer)
    characters = total([character_errors(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)])
    assert characters.rate == pytest.approx(jiwer.cer(refs, hyps))


@pytest.mark.parametrize(
    ("ref", "hyp", "counts"),
    [
        ("A B C", "A B C", (0, 0, 0, 3)),
        ("A B C", "A C", (0, 1, 0, 3)),
        ("A B C", "A X C", (0, 0, 1, 3)),
        ("A B C", "A B C D", (1, 0, 0, 3)),
        ("A B", "", (0, 2, 0, 2)),
        ("", "A", (1, 0, 0, 0)),
    ],
)
def test_each_kind_of_error_is_counted_as_itself(ref: str, hyp: str, counts: tuple[int, int, int, int]) -> None:
    assert word_errors(ref, hyp) == ErrorCounts(*counts)


def test_alignment_holds_both_texts_and_the_counts() -> None:
    for ref, hyp in zip(*random_texts(1, 100, 0.5), strict=True):
        pairs = align_words(ref, hyp)
        assert [r for r, _ in pairs if r is not None] == ref.split()
        assert [h for _, h in pairs if h is not None] == hyp.split()
        counts = word_errors(ref, hyp)
        assert counts.insertions == sum(r is None for r, _ in pairs)
        assert counts.deletions == sum(h is None for _, h in pairs)
        assert counts.substitutions == sum(r is not None and h is not None and r != h for r, h in pairs)


def test_no_reference_words_leave_no_rate() -> None:
    with pytest.raises(EmptyCutSetError, match="at least one reference symbol"):
        _ = word_errors("", "A B").rate


def test_interval_agrees_with_kaldialign_and_holds_the_rate() -> None:
    refs, hyps = random_texts(2, 300, 0.3)
    counts = [word_errors(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
    low, high = bootstrap_interval(counts, samples=5_000, seed=0)
    assert low < total(counts).rate < high
    theirs = kaldialign.bootstrap_wer_ci([r.split() for r in refs], [h.split() for h in hyps], replications=5_000)
    assert low == pytest.approx(theirs["ci95min"], abs=0.006)
    assert high == pytest.approx(theirs["ci95max"], abs=0.006)


def test_interval_depends_on_the_seed_only() -> None:
    counts = [word_errors(ref, hyp) for ref, hyp in zip(*random_texts(3, 50, 0.3), strict=True)]
    first = bootstrap_interval(counts, samples=2_500, seed=4)
    assert first == bootstrap_interval(counts, samples=2_500, seed=4)
    assert first != bootstrap_interval(counts, samples=2_500, seed=5)


def test_equal_utterances_leave_no_uncertainty() -> None:
    assert bootstrap_interval([word_errors("A B", "A X")] * 30, samples=200, seed=0) == (0.5, 0.5)


def test_more_utterances_narrow_the_interval() -> None:
    few, many = (
        np.subtract(*bootstrap_interval([word_errors("A B", "A X"), word_errors("C", "C")] * n, samples=2_000, seed=0))
        for n in (10, 1_000)
    )
    assert abs(many) < abs(few) / 5


def test_paired_comparison_knows_the_better_system() -> None:
    refs, worse = random_texts(5, 200, 0.4)
    better = [ref if index % 2 else hyp for index, (ref, hyp) in enumerate(zip(refs, worse, strict=True))]
    result = paired_bootstrap(refs, worse, better, samples=1_000)
    assert result.wer_b < result.wer_a
    assert result.probability_b_better > 0.99
    assert paired_bootstrap(refs, better, worse, samples=1_000).probability_b_better < 0.01
    # A system is never better than itself.
    assert paired_bootstrap(refs, worse, worse, samples=1_000).probability_b_better == 0.0
