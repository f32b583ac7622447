"""What is done to features: noise at the ratio asked for, padding and clean utterances untouched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvqkd.config import TrainStudentConfig
from mvqkd.train.augment import NoiseMixer, build_augment, seed_step

LENGTHS = torch.tensor([200, 150, 100, 180, 120])


def speech() -> Tensor:
    """Log-mel features (5, 200, 80) with loud and soft stretches; padded with 0."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 200, 80, generator=generator) + 6 * torch.sin(torch.arange(200) / 9)[None, :, None]
    return features * (torch.arange(200)[None] < LENGTHS[:, None])[:, :, None]


def real() -> Tensor:
    return torch.arange(200)[None] < LENGTHS[:, None]


def added_db(clean: Tensor, noisy: Tensor) -> Tensor:
    """Ratio of the energy of what was there to what was added, per utterance, in dB."""
    before, after = ((f.double().exp() * real()[:, :, None]).sum((1, 2)) for f in (clean, noisy))
    return 10 * (before / (after - before)).log10()


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_as_loud_as_asked_for(snr_db: float, seed: int) -> None:
    seed_step(seed, 0)
    clean = speech()
    noisy = NoiseMixer(1.0, (snr_db, snr_db))(clean, LENGTHS)
    torch.testing.assert_close(added_db(clean, noisy), torch.full((5,), snr_db, dtype=torch.float64), atol=0.05, rtol=0)


def test_ratios_cover_the_range_and_nothing_beyond() -> None:
    clean = speech()
    ratios = []
    for step in range(40):
        seed_step(0, step)
        ratios.append(added_db(clean, NoiseMixer(1.0, (5.0, 20.0))(clean, LENGTHS)))
    found = torch.cat(ratios)
    assert 4.9 < found.min() < 6.5
    assert 18.5 < found.max() < 20.1


def test_a_share_of_utterances_is_noisy_and_padding_stays() -> None:
    clean, noisy_ones = speech(), 0
    for step in range(60):
        seed_step(1, step)
        noisy = NoiseMixer(0.3, (5.0, 5.0))(clean, LENGTHS)
        changed = (noisy != clean).any(dim=2)
        assert not changed[~real()].any()
        # An utterance is noisy as a whole or not at all.
        noisy_ones += sum(int(bool(changed[i, : LENGTHS[i]].any())) for i in range(5))
    assert 0.2 < noisy_ones / 300 < 0.4


def test_noise_never_takes_energy_away() -> None:
    seed_step(0, 0)
    clean = speech()
    assert (NoiseMixer(1.0, (-5.0, 20.0))(clean, LENGTHS) >= clean).all()


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_have_steady_noise_only(count: int) -> None:
    seed_step(0, 0)
    clean = speech()[:count]
    noisy = NoiseMixer(1.0, (10.0, 10.0))(clean, LENGTHS[:count])
    assert noisy.isfinite().all()
    assert (noisy != clean).any()


def test_equal_seeds_give_equal_features() -> None:
    results = []
    for _ in range(2):
        seed_step(3, 7)
        results.append(NoiseMixer(0.5, (5.0, 20.0))(speech(), LENGTHS))
    assert torch.equal(*results)


def test_what_is_configured_is_done() -> None:
    config = TrainStudentConfig(spec_augment=False)
    assert build_augment(config) is None
    noise_alone = build_augment(TrainStudentConfig(spec_augment=False, noise_share=1.0))
    both = build_augment(TrainStudentConfig(noise_share=1.0))
    assert noise_alone is not None
    assert both is not None
    clean = speech()
    seed_step(0, 0)
    noisy = noise_alone(clean, LENGTHS)
    seed_step(0, 0)
    masked = both(clean, LENGTHS)
    assert (noisy >= clean).all()
    # Masks write one value over whole bands and spans; noise does not.
    assert not math.isclose(float((masked == noisy).float().mean()), 1.0)
