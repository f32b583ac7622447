from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import DataError, TrainingError
from mvqkd.quantizer import Quantizer, fit_phase
from mvqkd.quantizer.embedding_source import EmbeddingStream
from mvqkd.quantizer.fit import fit, multiply_out
from mvqkd.quantizer.fit_losses import held_out_error, step_losses
from mvqkd.quantizer.report_errors import relative_error
from mvqkd.quantizer.search import refine
from mvqkd.quantizer.tables import build_tables, product, unary_energy

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


@pytest.mark.parametrize(
    ("num_codebooks", "codebook_size", "num_bytes"), [(1, 256, 1), (3, 256, 3), (7, 16, 4), (1, 16, 1), (64, 16, 32)]
)
def test_any_number_of_codebooks(num_codebooks: int, codebook_size: int, num_bytes: int) -> None:
    changes = {"num_codebooks": num_codebooks, "codebook_size": codebook_size, "phase_1_steps": 30, "phase_2_steps": 8}
    fitted = fit(speechlike(), SMALL.model_copy(update=changes))
    quantizer = fitted.quantizer
    assert (quantizer.num_codebooks, quantizer.codebook_size, quantizer.bytes_per_frame) == (
        num_codebooks,
        codebook_size,
        num_bytes,
    )
    assert fitted.steps == ([30, 8] if codebook_size == 256 else [30])
    assert error_of(quantizer, speechlike(seed=1)) < 0.9


def test_the_most_codebooks() -> None:
    # 128 of 16 entries in phase 1.
    changes = {"num_codebooks": 64, "phase_1_steps": 2, "phase_2_steps": 1, "batch_size": 16}
    fitted = fit(speechlike(300, dim=4), SMALL.model_copy(update=changes))
    assert (fitted.quantizer.num_codebooks, fitted.quantizer.codebook_size) == (64, 256)


def test_sizes_that_cannot_be_fitted_are_refused_by_name() -> None:
    for change in ({"num_codebooks": 65}, {"num_codebooks": 0}, {"codebook_size": 32}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            FitQuantizerConfig.model_validate(change)


def test_the_error_curve_is_that_of_held_out_frames() -> None:
    held_out = speechlike(200, seed=1)
    fitted = fit(speechlike(), SMALL.model_copy(update={"evaluate_every": 20}), held_out=held_out)
    assert [(point.phase, point.step) for point in fitted.error_curve] == [(1, 20), (1, 40), (2, 15)]
    errors = [point.relative_error for point in fitted.error_curve]
    assert errors[0] > errors[1] > errors[2]
    indexes = fitted.quantizer.encode(held_out, iterations=fit_phase.EVALUATION_PASSES)
    quantizer = fitted.quantizer
    measured = relative_error(quantizer.normalize(held_out), quantizer.normalize(quantizer.decode(indexes)))
    assert errors[-1] == pytest.approx(measured, rel=0.02)
    walls = [point.wall_s for point in fitted.error_curve]
    assert 0 < walls[0] < walls[1] < walls[2] <= fitted.wall_s


def test_evaluation_changes_nothing() -> None:
    plain = fit(speechlike(), SMALL)
    assert plain.error_curve == []
    assert fit(speechlike(), SMALL, held_out=speechlike(seed=1)).quantizer.id == plain.quantizer.id
    never = SMALL.model_copy(update={"evaluate_every": 0})
    assert fit(speechlike(), never, held_out=speechlike(seed=1)).error_curve == []


def test_early_stop_comes_back_to_the_best_weights() -> None:
    # Fitted on frames unlike the held-out ones, on which the error therefore rises after a while.
    held_out = speechlike(200, seed=1)
    changes = {"codebook_size": 16, "phase_1_steps": 400, "evaluate_every": 5, "patience": 4, "min_improvement": 0.0}
    fitted = fit(speechlike(40, seed=3), SMALL.model_copy(update=changes), held_out=held_out)
    assert fitted.stopped_early
    errors = {point.step: point.relative_error for point in fitted.error_curve}
    best = min(errors, key=errors.__getitem__)
    assert fitted.steps == [best + 4 * 5]
    assert held_out_error(
        fitted.quantizer, fitted.quantizer.normalize(held_out), fit_phase.EVALUATION_PASSES
    ) == pytest.approx(errors[best], rel=1e-3)
    full = fit(speechlike(40, seed=3), SMALL.model_copy(update={**changes, "patience": 0}), held_out=held_out)
    assert (full.steps, full.stopped_early) == ([400], False)


def test_a_stream_is_fitted_as_a_tensor_is() -> None:
    x = speechlike(1500)
    in_memory = fit(x, SMALL).quantizer
    whole = fit(EmbeddingStream(lambda: iter(torch.split(x, 400)), buffer_frames=1500), SMALL).quantizer
    torch.testing.assert_close(whole.centers, in_memory.centers, rtol=1e-3, atol=1e-3)
    small_buffer = EmbeddingStream(lambda: iter(torch.split(x.half(), 100)), buffer_frames=300)
    held_out = speechlike(seed=1)
    assert error_of(fit(small_buffer, SMALL).quantizer, held_out) == pytest.approx(
        error_of(in_memory, held_out), rel=0.1
    )


def test_bfloat16_products_do_no_harm() -> None:
    held_out = speechlike(seed=1)
    errors = [
        error_of(fit(speechlike(), SMALL.model_copy(update={"precision": precision})).quantizer, held_out)
        for precision in ("float32", "bfloat16")
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (torch.zeros(0, 12), "at least one frame"),
        (torch.zeros(3, 11), "12 channels, as in the frames to fit on, got 11"),
        (torch.full((3, 12), float("inf")), "frame 0: expected finite"),
        (torch.zeros(3, 12, dtype=torch.int32), r"\(B, D\)"),
    ],
)
def test_held_out_frames_that_cannot_be_used(held_out: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(speechlike(), SMALL, held_out=held_out)


def test_half_precision_that_overflowed_is_named() -> None:
    x = speechlike()
    x[7, 2] = 7e4
    with pytest.raises(DataError, match=r"frame 7: expected finite numbers, got infinity .*65504"):
        fit(x.half(), SMALL)


def test_batches_larger_than_the_data() -> None:
    fitted = fit(speechlike(300), SMALL.model_copy(update={"batch_size": 4096, "phase_2_steps": 10}))
    assert error_of(fitted.quantizer, speechlike(300)) < 0.5


def test_the_faster_product_is_as_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(70, 33, generator=generator), torch.randn(40, 33, generator=generator)
    torch.testing.assert_close(product(a, b), (a.double() @ b.double().T).float(), rtol=1e-5, atol=1e-5)
    # Tables hand over a transposed view.
    torch.testing.assert_close(product(a, b.T.contiguous().T), product(a, b), rtol=0, atol=0)


def test_training_tables_are_those_of_encoding() -> None:
    quantizer = Quantizer(12, 3, 16, generator=torch.Generator().manual_seed(0))
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(1))
    quick, precise = build_tables(quantizer.effective_centers(), precise=False), quantizer.tables()
    for name in ("products", "squared_norm", "pairwise"):
        torch.testing.assert_close(getattr(quick, name), getattr(precise, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unary_energy(x, quick), unary_energy(x, precise), rtol=1e-5, atol=1e-5)


def test_the_losses_are_those_of_the_codec() -> None:
    quantizer = Quantizer(12, 2, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    quantizer.centers_log_scale.fill_(0.02)
    quantizer.logits_log_scale.fill_(-0.03)
    x = quantizer.normalize(speechlike(80))
    x = (x - x.mean(0)) / x.std(0)
    tables = build_tables(quantizer.effective_centers(), precise=False)
    losses = step_losses(quantizer, x, tables, passes=1)
    indexes = refine(unary_energy(x, tables), quantizer.logits(x).argmax(2), quantizer.tables(), 1)
    log_probs = quantizer.logits(x).log_softmax(2)
    expected = -log_probs.gather(2, indexes.unsqueeze(2)).mean()
    torch.testing.assert_close(losses.logprob, expected, rtol=0.02, atol=0)
    error = relative_error(x, quantizer.sum_of_centers(indexes))
    assert losses.reconstruction.item() == pytest.approx(error, rel=0.02)
