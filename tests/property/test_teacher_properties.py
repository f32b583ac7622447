"""What holds of teachers for every length, batch and seed."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.frames import expected_teacher_frames
from mvqkd.teacher.batching import length_sorted_batches
from mvqkd.teacher.sampling import sample_frames
from mvqkd.teacher.whisper import WhisperTeacher, windows
from mvqkd.teacher.whisper_encoder import WhisperEncoder, WhisperSizes

lengths = st.lists(st.integers(1, 4000), max_size=40)
frame_counts = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 60), max_size=20)


@functools.cache
def tiny_whisper(batch_frames: int) -> WhisperTeacher:
    torch.manual_seed(0)
    sizes = WhisperSizes(num_mels=80, dim=16, num_heads=2, num_layers=2, feedforward_dim=32, max_frames=150)
    encoder = WhisperEncoder(sizes, 2)
    encoder.positions.normal_()
    return WhisperTeacher("tiny", "0" * 64, encoder, 2, "cpu", batch_frames=batch_frames)


@given(lengths, st.integers(0, 20_000), st.floats(0, 0.9))
def test_batches_hold_every_item_once_within_their_bounds(items: list[int], bound: int, share: float) -> None:
    batches = length_sorted_batches(items, max_padded_length=bound, max_padding_share=share)
    assert sorted(position for batch in batches for position in batch) == list(range(len(items)))
    for batch in batches:
        longest = max(items[position] for position in batch)
        padded = len(batch) * longest
        assert len(batch) == 1 or padded <= bound
        assert padded - sum(items[position] for position in batch) <= share * padded + 1e-9


@given(st.integers(1, 20_000), st.integers(120, 1500))
def test_windows_give_every_frame_once(num_frames: int, max_frames: int) -> None:
    given_out = 0
    for start, stop, first, last in windows(num_frames, max_frames):
        assert 0 <= start <= first < last <= stop <= num_frames
        assert stop - start <= max_frames
        assert first == given_out
        given_out = last
    assert given_out == num_frames


@given(frame_counts, st.integers(1, 400), st.integers(0, 9))
def test_a_sample_is_distinct_frames_in_distinct_places(counts: dict[str, int], wanted: int, seed: int) -> None:
    sample = sample_frames(counts, wanted, seed)
    size = min(wanted, sum(counts.values()))
    places = [place for own in sample.values() for place in own.places.tolist()]
    assert sorted(places) == list(range(size))
    for recording, own in sample.items():
        frames = own.frames.tolist()
        assert frames == sorted(set(frames))
        assert frames[0] >= 0
        assert frames[-1] < counts[recording]
    assert list(sample) == sorted(sample)


@given(frame_counts, st.integers(1, 400), st.integers(0, 9), st.randoms())
def test_a_sample_does_not_depend_on_the_corpus_order(counts: dict[str, int], wanted: int, seed: int, rng) -> None:
    items = list(counts.items())
    rng.shuffle(items)
    one, other = sample_frames(counts, wanted, seed), sample_frames(dict(items), wanted, seed)
    assert list(one) == list(other)
    for recording in one:
        np.testing.assert_array_equal(one[recording].frames, other[recording].frames)
        np.testing.assert_array_equal(one[recording].places, other[recording].places)


def test_every_frame_is_equally_likely() -> None:
    counts = {"long": 30, "a": 5, "b": 5}
    hits = np.zeros(40)
    for seed in range(2000):
        for recording, own in sample_frames(counts, 10, seed).items():
            hits[{"long": 0, "a": 30, "b": 35}[recording] + own.frames] += 1
    # 2000 draws at probability 1/4: a standard deviation is 19; 5 of them leave chance no say.
    assert abs(hits - 500).max() < 97


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=4), st.integers(0, 5))
def test_whisper_gives_a_recording_the_same_in_any_batch(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    audio = [(rng.standard_normal(size) * 10.0 ** rng.uniform(-3, 0)).astype(np.float32) for size in sizes]
    together, num_frames = tiny_whisper(100_000).embed(audio)
    for row, length, samples in zip(together, num_frames.tolist(), audio, strict=True):
        assert length == max(1, expected_teacher_frames(samples.size, Fraction(50)))
        alone, _ = tiny_whisper(0).embed([samples])
        torch.testing.assert_close(row[:length], alone[0], atol=1e-4, rtol=0)
        assert not row[length:].any()
