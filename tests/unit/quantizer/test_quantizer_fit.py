from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import DataError, TrainingError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.fit import fit, multiply_out
from mvqkd.quantizer.fit_losses import step_losses
from mvqkd.quantizer.report_errors import relative_error
from mvqkd.quantizer.tables import build_tables

SMALL = FitQuantizerConfig(num_codebooks=2, phase_1_steps=40, phase_2_steps=15, batch_size=128, device="cpu")


def speechlike(count: int = 600, dim: int = 12, seed: int = 0) -> Tensor:
    """Correlated channels of unequal scale and offset."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(4, dim, generator=torch.Generator().manual_seed(99))
    x = torch.randn(count, 4, generator=generator).sinh() @ mixing + 0.1 * torch.randn(count, dim, generator=generator)
    return x * torch.linspace(0.1, 3, dim) + 5


def error_of(quantizer: Quantizer, x: Tensor) -> float:
    return relative_error(quantizer.normalize(x), quantizer.normalize(quantizer.decode(quantizer.encode(x))))


def test_fitting_finds_what_a_mean_cannot() -> None:
    quantizer = fit(speechlike(), SMALL).quantizer
    assert (quantizer.num_codebooks, quantizer.codebook_size, quantizer.bytes_per_frame) == (2, 256, 2)
    held_out = speechlike(seed=1)
    assert error_of(quantizer, held_out) < 0.35
    untrained = fit(speechlike(), SMALL.model_copy(update={"phase_1_steps": 0, "phase_2_steps": 0})).quantizer
    assert error_of(quantizer, held_out) < 0.6 * error_of(untrained, held_out)


def test_codebooks_of_16_take_one_phase() -> None:
    quantizer = fit(speechlike(), SMALL.model_copy(update={"codebook_size": 16, "num_codebooks": 4})).quantizer
    assert (quantizer.num_codebooks, quantizer.codebook_size, quantizer.bytes_per_frame) == (4, 16, 2)
    assert error_of(quantizer, speechlike(seed=1)) < 0.5


def test_equal_seeds_give_equal_bits() -> None:
    one, same = (fit(speechlike(), SMALL).quantizer for _ in range(2))
    assert one.id == same.id
    assert fit(speechlike(), SMALL.model_copy(update={"seed": 1})).quantizer.id != one.id


def test_fitting_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    fit(speechlike(), SMALL.model_copy(update={"phase_1_steps": 2, "phase_2_steps": 2}))
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_embeddings() -> None:
    assert error_of(fit(speechlike().half(), SMALL).quantizer, speechlike(seed=1)) < 0.35


def test_constant_channels_come_back_and_do_no_harm() -> None:
    x = speechlike()
    x[:, 3] = 7.25
    x[:, 5] = 0.0
    quantizer = fit(x, SMALL).quantizer
    assert quantizer.std[[3, 5]].tolist() == [0.0, 0.0]
    decoded = quantizer.decode(quantizer.encode(x))
    assert decoded[:, [3, 5]].unique(dim=0).tolist() == [[7.25, 0.0]]
    assert error_of(quantizer, x) < 0.35
    # A value that fitting never saw must not drown the other channels.
    other = x.clone()
    other[:, 3] += 1000
    assert torch.equal(quantizer.encode(other), quantizer.encode(x))


def test_embeddings_that_are_all_the_same() -> None:
    x = torch.full((300, 6), 2.5)
    quantizer = fit(x, SMALL).quantizer
    assert torch.equal(quantizer.decode(quantizer.encode(x)), x)


def test_fewer_frames_than_entries_are_refused() -> None:
    with pytest.raises(DataError, match="at least 256 frames"):
        fit(speechlike(255), SMALL)


def test_frames_that_are_not_finite_are_refused_by_number() -> None:
    x = speechlike()
    x[41, 2] = float("nan")
    with pytest.raises(DataError, match="frame 41"):
        fit(x, SMALL)


@pytest.mark.parametrize("x", [torch.zeros(300), torch.zeros(300, 4, dtype=torch.int32)])
def test_what_is_no_embedding_is_refused(x: Tensor) -> None:
    with pytest.raises(DataError, match=r"\(B, D\)"):
        fit(x, SMALL)


def test_a_learning_rate_that_explodes_is_a_clear_error() -> None:
    with pytest.raises(TrainingError, match="learning_rate"):
        fit(speechlike(), SMALL.model_copy(update={"learning_rate": 1e4}))


def test_multiplying_out_keeps_every_reconstruction() -> None:
    generator = torch.Generator().manual_seed(0)
    small = Quantizer(6, 4, 16, generator=generator).requires_grad_(False)
    small.centers_log_scale.fill_(0.03)
    small.logits_log_scale.fill_(-0.02)
    small.centers.add_(0.1 * torch.randn(small.centers.shape, generator=generator))
    merged = multiply_out(small, generator=generator).requires_grad_(False)
    assert (merged.num_codebooks, merged.codebook_size) == (2, 256)
    indexes = torch.randint(0, 16, (50, 4), generator=generator)
    pairs = indexes[:, 0::2] * 16 + indexes[:, 1::2]
    torch.testing.assert_close(merged.decode(pairs), small.decode(indexes))
    x = torch.randn(20, 6, generator=generator)
    ours, theirs = small.logits(x), merged.logits(x)
    torch.testing.assert_close(theirs[:, 1, 16 * 3 + 5], ours[:, 2, 3] + ours[:, 3, 5])
    assert not torch.equal(small.identity, merged.identity)


def test_each_loss_trains_its_own_weights() -> None:
    quantizer = Quantizer(12, 2, 16, generator=torch.Generator().manual_seed(0))
    losses = step_losses(quantizer, quantizer.normalize(speechlike()), build_tables(quantizer.centers), passes=1)
    losses.reconstruction.backward(retain_graph=True)
    grads = {name for name, parameter in quantizer.named_parameters() if parameter.grad is not None}
    assert grads == {"centers", "centers_log_scale"}
    quantizer.zero_grad(set_to_none=True)
    (losses.logprob + losses.entropy_deficit).backward()
    grads = {name for name, parameter in quantizer.named_parameters() if parameter.grad is not None}
    assert grads == {"logits_weight", "logits_bias", "logits_log_scale"}


def test_entropy_deficit_is_0_for_even_and_1_for_single_entries() -> None:
    quantizer = Quantizer(4, 2, 16).requires_grad_(False)
    quantizer.logits_weight.zero_()
    quantizer.logits_bias.zero_()
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    tables = build_tables(quantizer.centers)
    assert step_losses(quantizer, x, tables, 1).entropy_deficit.item() == pytest.approx(0, abs=1e-6)
    assert step_losses(quantizer, x, tables, 1).logprob.item() == pytest.approx(torch.tensor(16.0).log().item())
    quantizer.logits_bias.view(2, 16)[:, 3] = 100.0
    assert step_losses(quantizer, x, tables, 1).entropy_deficit.item() == pytest.approx(1, abs=1e-6)
