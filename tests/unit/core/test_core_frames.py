"""Frame arithmetic by hand-counted examples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mvqkd.errors import FrameAlignmentError
from mvqkd.frames import (
    align_teacher_to_student,
    as_rate,
    check_teacher_frames,
    expected_teacher_frames,
    num_feature_frames,
    num_feature_frames_for,
    num_student_frames,
    teacher_frames_per_student_frame,
)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (79, 0), (80, 1), (160, 1), (16_000, 100), (16_081, 101)])
def test_feature_frames(samples: int, frames: int) -> None:
    assert num_feature_frames(samples) == frames


@pytest.mark.parametrize(("features", "frames"), [(0, 0), (6, 0), (7, 1), (10, 1), (11, 2), (100, 24)])
def test_student_frames(features: int, frames: int) -> None:
    assert num_student_frames(features) == frames


def test_feature_frames_for() -> None:
    assert [num_feature_frames_for(n) for n in (1, 2, 16)] == [7, 11, 67]


def test_rates() -> None:
    assert as_rate("50/1") == 50
    assert as_rate(41.45) == Fraction(829, 20)
    assert expected_teacher_frames(16_000, Fraction(50)) == 50
    assert expected_teacher_frames(16_000 * 20, Fraction(829, 20)) == 829
    assert [teacher_frames_per_student_frame(Fraction(rate)) for rate in (10, 25, 50, 100)] == [1, 1, 2, 4]


def test_off_by_more_than_the_tolerance_is_refused() -> None:
    check_teacher_frames("cut a", 52, 16_000, Fraction(50))
    with pytest.raises(FrameAlignmentError, match=r"cut a: expected 50 teacher frames .* got 53; re-run encode-ci"):
        check_teacher_frames("cut a", 53, 16_000, Fraction(50))


def test_two_teacher_frames_a_student_frame() -> None:
    index = align_teacher_to_student(3, 5, Fraction(50))
    np.testing.assert_array_equal(index, [[0, 1], [2, 3], [4, -1]])


def test_delay_shifts_targets_to_later_student_frames() -> None:
    index = align_teacher_to_student(4, 8, Fraction(50), delta_frames=2)
    np.testing.assert_array_equal(index, [[-1, -1], [-1, -1], [0, 1], [2, 3]])


def test_slower_teacher_repeats_frames() -> None:
    index = align_teacher_to_student(6, 3, Fraction(25, 2))
    np.testing.assert_array_equal(index[:, 0], [0, 0, 1, 1, 2, 2])
