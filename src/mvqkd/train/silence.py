"""Silence before the speech of an utterance: recordings are cut close, microphones and servers are not.

It moves speech within its chunks of attention, too, so that no utterance is learned at one place alone.

Shapes: N batch, T feature frames, S student frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvqkd.frames import STUDENT_RATE_HZ, SUBSAMPLING_FACTOR

# Log-mel energy of digital silence (float32's epsilon), and of room noise that is still softer than speech.
DIGITAL_SILENCE = math.log(torch.finfo(torch.float32).eps)
LOUDEST_NOISE = -6.0


def add_silence(features: Tensor, lengths: Tensor, max_s: float) -> tuple[Tensor, Tensor, Tensor]:
    """Put silence, digital or with faint noise, before every utterance; its length is drawn for each.

    Args:
        features: float32 (N, T, 80) log-mel, padded with 0. lengths: int64 (N,).
        max_s: longest silence, in seconds; whole student frames of it are used.
    Returns:
        features and lengths with the silence; student frames of silence, int64 (N,).
    """
    count, _, mels = features.shape
    student_frames = torch.randint(0, int(max_s * STUDENT_RATE_HZ) + 1, (count,))
    silent = SUBSAMPLING_FACTOR * student_frames
    width = int((lengths + silent).max())
    # Half of the utterances get digital silence, the others noise of any level up to the loudest.
    level = DIGITAL_SILENCE + (LOUDEST_NOISE - DIGITAL_SILENCE) * torch.rand(count, 1, 1)
    noise = level + torch.empty(count, int(silent.max()), mels).exponential_().clamp(min=1e-3).log()
    noise = torch.where(torch.rand(count, 1, 1) < 0.5, DIGITAL_SILENCE, noise.clamp(min=DIGITAL_SILENCE))
    longer = features.new_zeros(count, width, mels)
    for row, (start, length) in enumerate(zip(silent.tolist(), lengths.tolist(), strict=True)):
        longer[row, :start] = noise[row, :start]
        longer[row, start : start + length] = features[row, :length]
    return longer, lengths + silent, student_frames


def delay_targets(targets: Tensor, student_frames: Tensor, missing: float) -> Tensor:
    """Targets (N, S, ...) behind the silence of each utterance, where they are ``missing``."""
    count, width = targets.shape[:2]
    longer = targets.new_full((count, width + int(student_frames.max()), *targets.shape[2:]), missing)
    for row, start in enumerate(student_frames.tolist()):
        longer[row, start : start + width] = targets[row]
    return longer
