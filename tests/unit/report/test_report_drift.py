"""The statistics behind ``mvqkd monitor``: no alarm without a change, an alarm with one, whatever the lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.drift import (
    Errors,
    Usage,
    by_piece,
    compare_errors,
    compare_usage,
    divergence,
    joined,
    measure,
)

K = 16
SIGNIFICANCE = 0.01


def lengths_of(rng: np.random.Generator, pieces: int, *, skewed: bool) -> NDArray[np.int64]:
    """Frames of pieces: nearly equal, or many short ones and a few that are very long."""
    drawn = rng.lognormal(4.0, 1.0, pieces) if skewed else rng.uniform(80, 120, pieces)
    return np.maximum(5, drawn).astype(np.int64)


def speech(
    rng: np.random.Generator, lengths: NDArray[np.int64], *, error: float = 0.3, shift: float = 0.0
) -> tuple[Usage, Errors]:
    """Frames that resemble their neighbours: each piece has an error and a use of entries of its own.

    Args:
        error: relative error on average.
        shift: share of the frames that use the entries of another kind of speech.
    """
    codes, errors, variations = [], [], []
    usual = np.arange(1.0, K + 1)
    for length in lengths:
        shares = rng.dirichlet(0.3 * ((1 - shift) * usual + shift * usual[::-1]))
        codes.append(rng.choice(K, size=(length, 2), p=shares).astype(np.uint8))
        variation = rng.gamma(20, 5, length)
        variations.append(variation)
        errors.append(variation * error * np.exp(rng.normal(0, 0.1)) * rng.gamma(20, 1 / 20, length))
    return Usage(np.concatenate(codes), lengths, K), Errors(np.concatenate(errors), np.concatenate(variations), lengths)


@pytest.mark.parametrize("skewed", [False, True], ids=["equal lengths", "skewed lengths"])
def test_false_alarms_are_bounded(skewed: bool) -> None:
    """60 fits and as many new batches of the same speech: at a level of 5 %, few alarms of either kind."""
    alarms = np.zeros(2)
    for trial in range(60):
        rng = np.random.default_rng([trial, skewed])
        used, errors = speech(rng, lengths_of(rng, 60, skewed=skewed))
        new_used, new_errors = speech(rng, lengths_of(rng, 30, skewed=skewed))
        alarms[0] += compare_errors(new_errors, errors, resamples=199, significance=0.05).chance <= 0.05
        alarms[1] += compare_usage(new_used, used, resamples=60, significance=0.05).chance <= 0.05
    # Of 60 runs at 5 %, more than 9 alarms come about in one of a thousand series.
    assert alarms[0] <= 9, alarms
    assert alarms[1] <= 9, alarms


def test_frames_of_a_recording_are_not_independent() -> None:
    """The same comparison with every frame as a piece of its own cries wolf: this is what drawing pieces is for."""
    alarms = 0
    for trial in range(8):
        rng = np.random.default_rng(trial)
        used, _ = speech(rng, lengths_of(rng, 60, skewed=False))
        new_used, _ = speech(rng, lengths_of(rng, 20, skewed=False))
        alone = Usage(used.codes, np.ones(len(used.codes), dtype=np.int64), K)
        new_alone = Usage(new_used.codes, np.ones(len(new_used.codes), dtype=np.int64), K)
        alarms += compare_usage(new_alone, alone, resamples=40, significance=0.05).chance <= 0.05
    assert alarms >= 6


@pytest.mark.parametrize("change", [0.8, 1.25], ids=["lower", "higher"])
def test_a_change_of_the_error_is_found(change: float) -> None:
    rng = np.random.default_rng(1)
    _, errors = speech(rng, lengths_of(rng, 60, skewed=False))
    _, new = speech(rng, lengths_of(rng, 40, skewed=False), error=0.3 * change)
    found = compare_errors(new, errors, resamples=400, significance=SIGNIFICANCE)
    assert found.chance <= SIGNIFICANCE
    assert found.change / found.reference == pytest.approx(change - 1, abs=0.06)
    assert abs(found.change) > found.detectable


def test_another_use_of_entries_is_found() -> None:
    rng = np.random.default_rng(2)
    used, _ = speech(rng, lengths_of(rng, 60, skewed=False))
    new, _ = speech(rng, lengths_of(rng, 40, skewed=False), shift=0.4)
    found = compare_usage(new, used, resamples=200, significance=SIGNIFICANCE)
    assert found.chance <= SIGNIFICANCE
    assert found.change > max(0.01, found.detectable)


def test_little_audio_says_what_it_cannot_show() -> None:
    rng = np.random.default_rng(3)
    used, errors = speech(rng, lengths_of(rng, 200, skewed=False))
    few, many = (speech(rng, lengths_of(rng, pieces, skewed=False)) for pieces in (5, 150))
    options = {"resamples": 200, "significance": SIGNIFICANCE}
    assert (
        compare_errors(few[1], errors, **options).detectable > 2 * compare_errors(many[1], errors, **options).detectable
    )
    assert compare_usage(few[0], used, **options).detectable > 2 * compare_usage(many[0], used, **options).detectable


def test_one_long_piece_among_short_ones_is_hardly_more_than_one_piece() -> None:
    """Longer than any piece of the fitting data, it weighs by chance as much as it does in the figure."""
    rng = np.random.default_rng(6)
    pieces = [speech(rng, np.array([100]), error=0.3 * np.exp(rng.normal(0, 0.3)))[1] for _ in range(80)]
    errors = Errors(
        np.concatenate([piece.errors for piece in pieces]),
        np.concatenate([piece.variations for piece in pieces]),
        np.full(80, 100),
    )
    options = {"resamples": 400, "significance": 0.05}
    even, uneven = (speech(rng, np.array(lengths))[1] for lengths in ([110] * 20, [2000] + [10] * 20))
    assert (
        compare_errors(uneven, errors, **options).detectable > 2.2 * compare_errors(even, errors, **options).detectable
    )


def test_shorter_and_longer_pieces_than_the_reference() -> None:
    """Lengths that no piece of the fitting data has are compared all the same, and raise no alarm."""
    rng = np.random.default_rng(4)
    used, errors = speech(rng, lengths_of(rng, 60, skewed=False))
    for length in (8, 2000):
        new_used, new_errors = speech(rng, np.full(30, length))
        assert compare_errors(new_errors, errors, resamples=199, significance=0.01).chance > 0.01
        assert compare_usage(new_used, used, resamples=99, significance=0.01).chance > 0.01


def test_equal_seeds_give_equal_answers() -> None:
    rng = np.random.default_rng(5)
    used, errors = speech(rng, lengths_of(rng, 20, skewed=True))
    new_used, new_errors = speech(rng, lengths_of(rng, 20, skewed=True))
    for seed in (0, 7):
        assert compare_errors(new_errors, errors, resamples=50, significance=0.1, seed=seed) == compare_errors(
            new_errors, errors, resamples=50, significance=0.1, seed=seed
        )
        assert compare_usage(new_used, used, resamples=20, significance=0.1, seed=seed) == compare_usage(
            new_used, used, resamples=20, significance=0.1, seed=seed
        )


def test_divergence() -> None:
    same = np.array([[1, 2, 1, 0]])
    assert divergence(same, 10 * same)[0] == pytest.approx(0.0, abs=1e-12)
    assert divergence(np.array([[1, 0]]), np.array([[0, 5]]))[0] == pytest.approx(1.0)
    # Half of the mass moved: 1 - h(1/4)/... computed by hand: JS([1,0],[1/2,1/2]) = 0.3113 bits.
    assert divergence(np.array([[2, 0]]), np.array([[1, 1]]))[0] == pytest.approx(0.311278, abs=1e-6)
    assert divergence(np.array([[0, 0]]), np.array([[1, 1]])).shape == (1,)


def test_measuring_is_what_the_report_of_the_quantizer_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(8, 2, 16, generator=generator).requires_grad_(False)
    frames = torch.randn(50, 8, generator=generator)
    codes, errors, variations = measure(quantizer, frames)
    decoded = quantizer.decode(torch.from_numpy(codes))
    assert errors == pytest.approx((frames - decoded).double().square().sum(1).numpy(), rel=1e-4)
    assert variations == pytest.approx(frames.double().square().sum(1).numpy(), rel=1e-6)
    usage, found = joined([(codes[:20], errors[:20], variations[:20]), (codes[20:], errors[20:], variations[20:])], 16)
    assert usage.lengths.tolist() == found.lengths.tolist() == [20, 30]
    assert found.relative == pytest.approx(errors.sum() / variations.sum())
    assert usage.counts().sum(axis=1).tolist() == [50, 50]
    assert usage.counts()[1].tolist() == np.bincount(codes[:, 1], minlength=16).tolist()


def test_frames_by_piece() -> None:
    order, lengths = by_piece(torch.tensor([5, 2, 5, 9, 2, 2]))
    assert order.tolist() == [1, 4, 5, 0, 2, 3]
    assert lengths.tolist() == [3, 2, 1]
