"""The bootstrap against kaldialign's and against drawing one by one, the exact test against all sign changes."""

from __future__ import annotations

import itertools

import kaldialign
import numpy as np
import pytest

from mvqkd.promotion.candidate import Ints
from mvqkd.promotion.significance import paired_bootstrap, sign_flip_p, words_for_equality


def made(seed: int, count: int, worse: float = 0.0) -> tuple[Ints, Ints, Ints]:
    """Words and errors of champion and challenger, which share most of their errors."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 20, count)
    common = rng.binomial(words, 0.2)
    return words, common + rng.binomial(2, 0.2, count), common + rng.binomial(2, 0.2 + worse, count)


def as_texts(words: Ints, errors: Ints) -> tuple[list[list[str]], list[list[str]]]:
    """References of so many words, hypotheses in which so many are wrong, and others inserted."""
    refs = [["A"] * length for length in words]
    hyps = [["X"] * number + ["A"] * max(0, length - number) for length, number in zip(words, errors, strict=True)]
    return refs, hyps


@pytest.mark.parametrize(("seed", "worse"), [(0, 0.0), (1, 0.05), (2, -0.05), (3, -0.02)])
def test_the_bootstrap_is_that_of_kaldialign(seed: int, worse: float) -> None:
    words, champion, challenger = made(seed, 150, worse)
    refs, first = as_texts(words, champion)
    _, second = as_texts(words, challenger)
    theirs = kaldialign.bootstrap_wer_ci(refs, first, second, replications=20_000, seed=0)
    ours = paired_bootstrap(challenger - champion, words, margin=0.0, samples=20_000, seed=1)
    assert ours.probability_better == pytest.approx(theirs["p_s2_improv_over_s1"], abs=0.015)


def test_drawing_by_categories_is_drawing_one_by_one() -> None:
    words, champion, challenger = made(5, 60)
    differences = challenger - champion
    drawn = np.random.default_rng(0).integers(0, 60, (20_000, 60))
    change, length = differences[drawn].sum(axis=1), words[drawn].sum(axis=1)
    ours = paired_bootstrap(differences, words, margin=0.01, samples=20_000, seed=0)
    assert ours.probability_better == pytest.approx(float(np.mean(change < 0)), abs=0.015)
    assert ours.probability_worse == pytest.approx(float(np.mean(change > 0)), abs=0.015)
    assert ours.probability_within == pytest.approx(float(np.mean(change <= 0.01 * length)), abs=0.015)
    assert ours.interval_95 == pytest.approx(np.percentile(change / length, [2.5, 97.5]), abs=0.002)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    held = 0
    for seed in range(400):
        words, champion, challenger = made(seed, 80)
        low, high = paired_bootstrap(challenger - champion, words, margin=0, samples=400, seed=seed).interval_95
        held += low <= 0 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_the_seed_alone_decides() -> None:
    words, champion, challenger = made(7, 90)
    first = paired_bootstrap(challenger - champion, words, margin=0.01, samples=1_000, seed=3)
    assert first == paired_bootstrap(challenger - champion, words, margin=0.01, samples=1_000, seed=3)
    assert first != paired_bootstrap(challenger - champion, words, margin=0.01, samples=1_000, seed=4)


def test_blocks_that_bound_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words, champion, challenger = made(8, 90)
    whole = paired_bootstrap(challenger - champion, words, margin=0.01, samples=1_000, seed=3)
    monkeypatch.setattr("mvqkd.promotion.significance._CELLS_AT_ONCE", 1)
    assert paired_bootstrap(challenger - champion, words, margin=0.01, samples=1_000, seed=3) == whole


def test_a_tie_is_nobodys_win() -> None:
    words = np.full(50, 7)
    result = paired_bootstrap(np.zeros(50, dtype=np.int64), words, margin=0.0, samples=200, seed=0)
    assert (result.probability_better, result.probability_worse, result.probability_within) == (0.0, 0.0, 1.0)
    assert result.interval_95 == (0.0, 0.0)


def test_utterances_without_words_leave_a_rate_where_there_are_others() -> None:
    # Errors are insertions there; a resample of them alone has no rate.
    differences, words = np.array([2, -1, 0]), np.array([0, 3, 4])
    result = paired_bootstrap(differences, words, margin=0.0, samples=2_000, seed=0)
    assert np.isfinite(result.interval_95).all()
    assert 0 < result.probability_better < 1


@pytest.mark.parametrize("seed", range(20))
def test_the_exact_test_counts_all_sign_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-3, 4, rng.integers(1, 11))
    changes = map(np.array, itertools.product((-1, 1), repeat=len(differences)))
    sums = [sum(signs * np.abs(differences)) for signs in changes]
    expected = np.mean(np.array(sums) <= differences.sum())
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-9)


def test_the_exact_test_knows_small_and_no_differences() -> None:
    assert sign_flip_p(np.array([-1, -2, -1, -3, -1])) == pytest.approx(1 / 32)
    assert sign_flip_p(np.array([1, 2, 1, 3, 1])) == 1.0
    assert sign_flip_p(np.zeros(9, dtype=np.int64)) == 1.0
    assert sign_flip_p(np.array([-1])) == 0.5
    assert sign_flip_p(-np.arange(60)) == 0.0


def test_the_exact_test_is_right_on_average() -> None:
    """Of equal models one in twenty has p of 0.05 or less, never more; the bootstrap would say so of more."""
    rng = np.random.default_rng(0)
    low = sum(sign_flip_p(rng.integers(-2, 3, 12)) <= 0.05 for _ in range(4_000))
    assert 0.03 <= low / 4_000 <= 0.055


def test_words_that_show_equality() -> None:
    words = words_for_equality(0.005, 0.95)
    assert (1 - 0.005) ** words == pytest.approx(0.05)
    assert words_for_equality(0.0, 0.95) == float("inf")
    assert words_for_equality(0.01, 0.95) < words < words_for_equality(0.005, 0.99)
