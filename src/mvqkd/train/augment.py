"""What is done to the features of a batch: noise mixed in, and SpecAugment.

Never time warp: codebook indexes belong to the un-warped audio. They stay those of the clean audio, too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from mvqkd.config import TrainStudentConfig

# As in the LibriSpeech recipes of the field, for 80 mels at 100 Hz.
NUM_FEATURE_MASKS = 2
FEATURES_MASK_SIZE = 27
NUM_FRAME_MASKS = 10
FRAMES_MASK_SIZE = 40
MAX_FRAMES_MASK_FRACTION = 0.15
# Utterances that babble is made of; the steepest colour of steady noise, in nepers of energy between the lowest and the
# highest mel channel (4.6 nepers are 20 dB).
BABBLE_VOICES = 3
STEEPEST_COLOUR = 4.6

Augment = Callable[[Tensor, Tensor], Tensor]


def build_augment(config: TrainStudentConfig) -> Augment | None:
    """(features (N, T, 80), lengths (N,)) -> altered copy, as configured; None: features stay as they are."""
    steps: list[Augment] = []
    if config.noise_share > 0:
        steps.append(NoiseMixer(config.noise_share, config.noise_snr_db))
    if config.spec_augment:
        steps.append(SpecAugment())

    def augment(features: Tensor, lengths: Tensor) -> Tensor:
        for step in steps:
            features = step(features, lengths)
        return features

    return augment if steps else None


class NoiseMixer:
    """Add noise to a share of the utterances: babble of others in the batch, or steady noise of a random colour.

    It works on log-mel energies: energies of independent sounds add up, so no audio is read again and features stay
    cached. What the mixing of waveforms would also give, the interference of both, is left out.

    Args:
        share: of the utterances, each drawn by itself.
        snr_db: lowest and highest ratio of speech to noise.
    """

    def __init__(self, share: float, snr_db: tuple[float, float]) -> None:
        self.share = share
        self.snr_db = snr_db

    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Noisy copy of float32 (N, T, 80) log-mel features; padding stays 0."""
        count, frames, mels = features.shape
        real = torch.arange(frames)[None] < lengths[:, None]  # (N, T)
        low, high = self.snr_db
        snr = (low + (high - low) * torch.rand(count)) * math.log(10) / 10  # nepers of energy
        babble = torch.rand(count) < 0.5 if count > BABBLE_VOICES else torch.zeros(count, dtype=torch.bool)
        colour = STEEPEST_COLOUR * (2 * torch.rand(count, 1) - 1) * torch.linspace(-0.5, 0.5, mels)
        # Of noise, the energy in a channel fluctuates as an exponential distribution does.
        steady = colour[:, None] + torch.empty(count, frames, mels).exponential_().clamp(min=1e-3).log()
        noise = torch.where(babble[:, None, None], _babble(features, lengths), steady)
        gain = _level(features, real) - _level(noise, real) - snr
        mixed = torch.logaddexp(features, noise + gain[:, None, None])
        chosen = (torch.rand(count) < self.share)[:, None] & real
        return torch.where(chosen[:, :, None], mixed, features)


def _babble(features: Tensor, lengths: Tensor) -> Tensor:
    """For each utterance the summed energies of the next ones in a random order, each repeated from a random frame."""
    count, frames, _ = features.shape
    order = torch.randperm(count)
    voices = []
    for shift in range(1, BABBLE_VOICES + 1):
        other = order.roll(shift)[order.argsort()]
        start = (torch.rand(count) * lengths[other]).long()
        position = (start[:, None] + torch.arange(frames)[None]) % lengths[other][:, None]
        voices.append(features[other[:, None], position])
    return torch.stack(voices).logsumexp(0)


def _level(features: Tensor, real: Tensor) -> Tensor:
    """Log of the mean energy of the real frames, (N,)."""
    energies = features.masked_fill(~real[:, :, None], -math.inf).flatten(1)
    return energies.logsumexp(1) - (real.sum(1) * features.shape[2]).log()


class SpecAugment:
    """Mask bands of mels and spans of frames of every utterance, seeded by the step."""

    def __init__(self) -> None:
        from mvqkd.torchaudio_compat import import_torchaudio

        import_torchaudio()
        from lhotse.dataset import SpecAugment as LhotseSpecAugment

        self._augment = LhotseSpecAugment(
            time_warp_factor=0,
            num_feature_masks=NUM_FEATURE_MASKS,
            features_mask_size=FEATURES_MASK_SIZE,
            num_frame_masks=NUM_FRAME_MASKS,
            frames_mask_size=FRAMES_MASK_SIZE,
            max_frames_mask_fraction=MAX_FRAMES_MASK_FRACTION,
            p=1.0,
        )

    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Masked copy of features (N, T, 80); spans lie within the real frames."""
        whole = torch.arange(len(lengths), dtype=torch.int32)
        segments = torch.stack([whole, torch.zeros_like(whole), lengths.to(torch.int32)], dim=1)
        masked: Tensor = self._augment(features, supervision_segments=segments)
        return masked


def seed_step(seed: int, step: int) -> None:
    """Seed every generator that a step draws from, so that a resumed step repeats exactly."""
    mixed = (seed * 1_000_003 + step) % (1 << 31)
    random.seed(mixed)
    torch.manual_seed(mixed)
