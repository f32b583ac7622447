"""All rate and frame-count arithmetic, in one place and in exact integers.

Three clocks tick in this project: feature frames (100 Hz, hop 10 ms), teacher frames (usually 50 Hz) and
student frames (25 Hz). Every conversion between them is here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import FrameAlignmentError

SAMPLE_RATE_HZ = 16_000
FEATURE_HOP_SAMPLES = 160
FEATURE_RATE_HZ = Fraction(SAMPLE_RATE_HZ, FEATURE_HOP_SAMPLES)
SUBSAMPLING_FACTOR = 4
STUDENT_RATE_HZ = FEATURE_RATE_HZ / SUBSAMPLING_FACTOR
# Two unpadded stride-2 convolutions of width 3 see 7 feature frames for their first output.
SUBSAMPLING_CONTEXT_FRAMES = 7

# A teacher may give a frame more or fewer than its nominal rate says (window edges); more is a fault. Applies where it
# is not known how the teacher rounds.
TEACHER_FRAME_TOLERANCE = 2
IGNORE_INDEX = -100


def num_feature_frames(num_samples: int) -> int:
    """Feature frames of a 16 kHz recording (Kaldi's snip_edges=false: one per hop, rounded to nearest)."""
    return (num_samples + FEATURE_HOP_SAMPLES // 2) // FEATURE_HOP_SAMPLES


def num_student_frames(feature_frames: int) -> int:
    """Student frames after the unpadded 4x convolutional subsampling; 0 when the input is too short."""
    return max(0, ((feature_frames - 1) // 2 - 1) // 2)


def num_feature_frames_for(student_frames: int) -> int:
    """Fewest feature frames that give ``student_frames`` student frames."""
    return SUBSAMPLING_FACTOR * student_frames + SUBSAMPLING_CONTEXT_FRAMES - SUBSAMPLING_FACTOR


def expected_teacher_frames(num_samples: int, rate_hz: Fraction) -> int:
    """Frames a teacher of ``rate_hz`` nominally gives for a 16 kHz recording, rounded to nearest."""
    return math.floor(num_samples * rate_hz / SAMPLE_RATE_HZ + Fraction(1, 2))


def as_rate(rate_hz: float | Fraction | str) -> Fraction:
    """A frame rate as an exact fraction; floats are read as the nearest simple fraction."""
    return Fraction(rate_hz).limit_denominator(100_000)


def teacher_frames_per_student_frame(rate_hz: Fraction) -> int:
    """How many teacher frames one student frame predicts: the rate ratio, rounded, at least 1."""
    return max(1, math.floor(rate_hz / STUDENT_RATE_HZ + Fraction(1, 2)))


def frame_offsets(recordings: Iterable[tuple[int, int]], rate_hz: Fraction) -> tuple[int, int]:
    """Learn from recordings how a teacher rounds: its count is floor((samples + offset) * rate), whatever the model.

    Args:
        recordings: (samples, teacher frames) of each.
    Returns:
        The lowest and the highest offset, in samples, that give all these counts; the first is above the second
        where no offset does. Those of two sets of recordings together: the higher first one, the lower second one.
    """
    samples_per_frame = SAMPLE_RATE_HZ / rate_hz
    lowest, highest = -SAMPLE_RATE_HZ, SAMPLE_RATE_HZ
    for num_samples, num_frames in recordings:
        lowest = max(lowest, math.ceil(num_frames * samples_per_frame) - num_samples)
        highest = min(highest, math.ceil((num_frames + 1) * samples_per_frame) - 1 - num_samples)
    return lowest, highest


def check_teacher_frames(
    subject: str, num_frames: int, num_samples: int, rate_hz: Fraction, offsets: tuple[int, int] | None = None
) -> None:
    """Refuse a teacher frame count that does not fit the duration.

    Args:
        offsets: how the teacher rounds, from ``frame_offsets``; without it, counts near the nominal one pass.
    Raises:
        FrameAlignmentError: another count than the teacher's; without offsets, off by more than
            TEACHER_FRAME_TOLERANCE frames.
    """
    if offsets is not None and offsets[0] <= offsets[1]:
        low, high = (math.floor((num_samples + offset) * rate_hz / SAMPLE_RATE_HZ) for offset in offsets)
        expected = f"{low} teacher frames" if low == high else f"{low} or {high} teacher frames"
    else:
        nominal = expected_teacher_frames(num_samples, rate_hz)
        low, high = nominal - TEACHER_FRAME_TOLERANCE, nominal + TEACHER_FRAME_TOLERANCE
        expected = f"{nominal} teacher frames (+-{TEACHER_FRAME_TOLERANCE})"
    if not low <= num_frames <= high:
        raise FrameAlignmentError(
            subject,
            expected=f"{expected} for {num_samples} samples at {float(rate_hz):g} Hz",
            got=f"{num_frames}",
            next_step="re-run encode-ci on this data; speed-perturbed cuts need codebook indexes of their own",
        )


def align_teacher_to_student(
    student_frames: int, teacher_frames: int, rate_hz: Fraction, *, delta_frames: int = 0
) -> NDArray[np.int64]:
    """Index of the teacher frames that each student frame predicts.

    Policy: student frame t stands for the time [t, t+1) / 25 Hz. It takes ``ratio`` consecutive teacher frames,
    the first being the one that holds the frame's start. At 50 Hz this is 2t and 2t+1; at a rate that is no
    multiple of 25 Hz, frames are repeated or skipped so that the error never exceeds half a teacher frame.
    A streaming delay ``delta_frames`` makes student frame t predict what belongs to t - delta_frames.

    Returns:
        int64 (student_frames, ratio); -1 where the teacher has no frame (to be ignored by the loss).
    """
    ratio = teacher_frames_per_student_frame(rate_hz)
    step = rate_hz / STUDENT_RATE_HZ
    position = np.arange(student_frames, dtype=np.int64) - delta_frames
    start = (position * step.numerator) // step.denominator
    index = start[:, None] + np.arange(ratio, dtype=np.int64)[None, :]
    index[(index < 0) | (index >= teacher_frames)] = -1
    return index
