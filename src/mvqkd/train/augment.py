"""SpecAugment without time warp: codebook indexes belong to the un-warped audio."""

from __future__ import annotations

import random

import torch
from torch import Tensor

# As in the LibriSpeech recipes of the field, for 80 mels at 100 Hz.
NUM_FEATURE_MASKS = 2
FEATURES_MASK_SIZE = 27
NUM_FRAME_MASKS = 10
FRAMES_MASK_SIZE = 40
MAX_FRAMES_MASK_FRACTION = 0.15


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
