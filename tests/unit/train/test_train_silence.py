"""Silence before speech: speech and its targets move together, by whole student frames, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from mvqkd.train.augment import seed_step
from mvqkd.train.silence import DIGITAL_SILENCE, LOUDEST_NOISE, add_silence, delay_targets

LENGTHS = torch.tensor([100, 43, 80])
STUDENT_FRAMES = torch.tensor([24, 9, 19])


def numbered() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and targets that say which utterance and which student frame they belong to."""
    features = torch.zeros(3, 100, 80)
    targets = torch.full((3, 24, 2), -100)
    for row, (length, frames) in enumerate(zip(LENGTHS.tolist(), STUDENT_FRAMES.tolist(), strict=True)):
        features[row, :length] = (100 * (row + 1) + torch.arange(length) // 4).float()[:, None]
        targets[row, :frames] = (100 * (row + 1) + torch.arange(frames))[:, None]
    return features, targets


@pytest.mark.parametrize("seed", range(5))
def test_speech_and_targets_move_together(seed: int) -> None:
    seed_step(seed, 0)
    features, targets = numbered()
    longer, lengths, silence = add_silence(features, LENGTHS, max_s=0.6)
    moved = delay_targets(targets, silence, missing=-100)
    assert torch.equal(lengths, LENGTHS + 4 * silence)
    assert longer.shape[1] == lengths.max()
    assert 0 <= silence.min() <= silence.max() <= 15
    for row, start in enumerate(silence.tolist()):
        assert torch.equal(longer[row, 4 * start : lengths[row]], features[row, : LENGTHS[row]])
        assert (longer[row, lengths[row] :] == 0).all(), "padding stays 0"
        frames = int(STUDENT_FRAMES[row])
        assert (moved[row, :start] == -100).all()
        assert (moved[row, start + frames :] == -100).all()
        # A student frame begins at its fourth of a feature frame.
        assert torch.equal(moved[row, start : start + frames, 0].float(), longer[row, 4 * start :: 4, 0][:frames])


def test_silence_is_digital_or_faint_and_of_every_length() -> None:
    features, lengths = torch.zeros(400, 10, 80), torch.full((400,), 10)
    seed_step(0, 0)
    longer, _, silence = add_silence(features, lengths, max_s=0.2)
    assert silence.unique().tolist() == [0, 1, 2, 3, 4, 5]
    noise = [longer[row, : 4 * start] for row, start in enumerate(silence.tolist()) if start]
    digital = [bool((part == DIGITAL_SILENCE).all()) for part in noise]
    assert 0.4 < sum(digital) / len(digital) < 0.6
    assert min(float(part.min()) for part in noise) >= DIGITAL_SILENCE
    levels = [float(part.exp().mean().log()) for part, is_digital in zip(noise, digital, strict=True) if not is_digital]
    assert DIGITAL_SILENCE < min(levels) < max(levels) < LOUDEST_NOISE + 0.2


def test_digital_silence_is_what_features_of_zeros_are() -> None:
    import numpy as np

    from mvqkd.data.features import log_mel

    np.testing.assert_allclose(log_mel(np.zeros(16_000, dtype=np.float32)), DIGITAL_SILENCE, rtol=1e-6)
