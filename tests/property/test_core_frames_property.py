"""Frame arithmetic over all lengths and rates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.errors import FrameAlignmentError
from mvqkd.frames import (
    STUDENT_RATE_HZ,
    TEACHER_FRAME_TOLERANCE,
    align_teacher_to_student,
    as_rate,
    check_teacher_frames,
    expected_teacher_frames,
    frame_offsets,
    num_feature_frames,
    num_feature_frames_for,
    num_student_frames,
    teacher_frames_per_student_frame,
)

SAMPLES = st.integers(min_value=0, max_value=16_000 * 60)
RATES = st.fractions(min_value=5, max_value=100, max_denominator=100)
FRAMES = st.integers(min_value=0, max_value=2_000)


@given(FRAMES.filter(bool))
def test_feature_frames_for_is_the_least_that_suffices(student_frames: int) -> None:
    least = num_feature_frames_for(student_frames)
    assert num_student_frames(least) == student_frames
    assert num_student_frames(least - 1) == student_frames - 1


@given(SAMPLES, st.integers(min_value=0, max_value=16_000))
def test_counts_never_fall_with_length(samples: int, more: int) -> None:
    shorter, longer = num_feature_frames(samples), num_feature_frames(samples + more)
    assert shorter <= longer
    assert num_student_frames(shorter) <= num_student_frames(longer)


@given(SAMPLES)
def test_student_frames_cover_the_audio(samples: int) -> None:
    seconds = samples / 16_000
    frames = num_student_frames(num_feature_frames(samples))
    # Unpadded subsampling loses at most the context of one output.
    assert 25 * seconds - 2 <= frames <= 25 * seconds + 1


@given(SAMPLES, RATES, st.integers(-TEACHER_FRAME_TOLERANCE, TEACHER_FRAME_TOLERANCE))
def test_nominal_counts_pass_the_check(samples: int, rate: Fraction, off: int) -> None:
    expected = expected_teacher_frames(samples, rate)
    check_teacher_frames("cut", expected + off, samples, rate)


@given(RATES)
def test_rates_survive_text(rate: Fraction) -> None:
    assert as_rate(f"{rate.numerator}/{rate.denominator}") == rate


@given(FRAMES, FRAMES, RATES, st.integers(min_value=0, max_value=20))
def test_alignment_stays_in_bounds_and_in_time(
    student_frames: int, teacher_frames: int, rate: Fraction, delta: int
) -> None:
    index = align_teacher_to_student(student_frames, teacher_frames, rate, delta_frames=delta)
    ratio = teacher_frames_per_student_frame(rate)
    assert index.shape == (student_frames, ratio)
    assert index.dtype == np.int64
    assert ((index >= -1) & (index < teacher_frames)).all()
    frame, column = np.nonzero(index >= 0)
    starts = index[frame, column] - column
    # The first of a student frame's teacher frames holds the student frame's start, for every rate and length.
    wanted = (frame - delta) * float(rate / STUDENT_RATE_HZ)
    assert np.all(starts <= wanted + 1e-6)
    assert np.all(wanted - starts < 1 + 1e-6)


@given(FRAMES, RATES)
def test_delay_is_a_shift(student_frames: int, rate: Fraction) -> None:
    plain = align_teacher_to_student(student_frames, 10_000_000, rate)
    delayed = align_teacher_to_student(student_frames + 3, 10_000_000, rate, delta_frames=3)
    np.testing.assert_array_equal(delayed[3:], plain)


@given(st.lists(SAMPLES, min_size=1, max_size=20), RATES, st.integers(-1_000, 1_000), st.sampled_from([-1, 1]))
def test_offsets_learned_from_recordings_tell_a_frame_too_many_or_too_few(
    samples: list[int], rate: Fraction, offset: int, off: int
) -> None:
    samples = [count + 1_000 for count in samples]
    counts = [int((count + offset) * rate // 16_000) for count in samples]
    offsets = frame_offsets(zip(samples, counts, strict=True), rate)
    assert offsets[0] <= offset <= offsets[1]
    for count, frames in zip(samples, counts, strict=True):
        check_teacher_frames("cut", frames, count, rate, offsets)
        with pytest.raises(FrameAlignmentError, match="cut: expected"):
            check_teacher_frames("cut", frames + off, count, rate, offsets)


def test_counts_that_no_offset_explains_fall_back_on_the_tolerance() -> None:
    offsets = frame_offsets([(3_200, 10), (3_200, 11)], Fraction(50))
    assert offsets[0] > offsets[1]
    check_teacher_frames("cut", 12, 3_200, Fraction(50), offsets)
