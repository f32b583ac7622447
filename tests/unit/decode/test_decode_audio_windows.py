"""Batches of features, and windows of long recordings."""

from __future__ import annotations

import numpy as np
import pytest

from mvqkd.decode.batching import by_length, pad_features
from mvqkd.decode.segment import split_at_pauses
from mvqkd.frames import SAMPLE_RATE_HZ, SUBSAMPLING_CONTEXT_FRAMES


def test_features_are_padded_with_zeros_to_at_least_one_student_frame() -> None:
    short, none = np.ones((3, 80), dtype=np.float32), np.ones((0, 80), dtype=np.float32)
    padded, lengths = pad_features([short, none])
    assert padded.shape == (2, SUBSAMPLING_CONTEXT_FRAMES, 80)
    assert lengths.tolist() == [3, 0]
    assert padded[0, :3].all()
    assert not padded[0, 3:].any()
    assert pad_features([np.ones((20, 80), dtype=np.float32), short])[0].shape == (2, 20, 80)


@pytest.mark.parametrize("max_padded", [0.0, 5.0, 12.0, 1000.0])
def test_batches_hold_every_item_once_within_the_bound(max_padded: float) -> None:
    lengths = np.random.default_rng(0).uniform(0.3, 8, size=50).tolist()
    batches = by_length(lengths, max_padded=max_padded)
    assert sorted(position for batch in batches for position in batch) == list(range(50))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[position] for position in batch) <= max_padded


def speech_with_pauses(seconds: float, pauses_s: list[float]) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, size=round(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    for pause in pauses_s:
        start = round(pause * SAMPLE_RATE_HZ)
        samples[start : start + SAMPLE_RATE_HZ // 3] *= 0.001
    return samples


def test_windows_join_to_the_recording_and_are_cut_in_its_pauses() -> None:
    pauses_s = [3.0, 7.7, 11.2, 15.5]
    samples = speech_with_pauses(20.0, pauses_s)
    windows = split_at_pauses(samples, 5 * SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(np.concatenate(windows), samples)
    assert all(0 < len(window) <= 5 * SAMPLE_RATE_HZ for window in windows)
    cuts_s = np.cumsum([len(window) for window in windows])[:-1] / SAMPLE_RATE_HZ
    assert cuts_s.tolist() == pytest.approx([pause + 1 / 6 for pause in pauses_s], abs=0.08)


def test_a_short_recording_is_one_window() -> None:
    samples = speech_with_pauses(2.0, [])
    (window,) = split_at_pauses(samples, 2 * SAMPLE_RATE_HZ)
    assert window is samples
    assert [len(part) for part in split_at_pauses(samples[:0], SAMPLE_RATE_HZ)] == [0]
