"""The fused codebook loss is the plain one: value, gradients, odd sizes and odd numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mvqkd.train import codebook_loss
from mvqkd.train.codebook_loss import linear_cross_entropy
from mvqkd.train.codebook_predictor import CodebookPredictor


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, indexes: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias).float()
    return F.cross_entropy(logits.view(indexes.numel(), -1), indexes.flatten())


def inputs(frames: int, codebooks: int, entries: int, *, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(frames)
    hidden = scale * torch.randn(frames, 24, generator=generator)
    weight = 0.5 * torch.randn(codebooks * entries, 24, generator=generator)
    bias = torch.randn(codebooks * entries, generator=generator)
    return hidden, weight, bias, torch.randint(entries, (frames, codebooks), generator=generator)


def with_gradients(function: object, *arguments: Tensor, times: float = 1.0) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in arguments[:3]]
    loss = function(*leaves, arguments[3])  # type: ignore[operator]  # either of the two above
    return [loss.detach(), *torch.autograd.grad(times * loss, leaves)]


@pytest.mark.parametrize(("frames", "codebooks", "entries"), [(1, 1, 2), (7, 3, 16), (300, 16, 256), (33, 5, 17)])
@pytest.mark.parametrize("block", [5000, 20_000, 2**20])
def test_loss_and_gradients_are_the_plain_ones(
    frames: int, codebooks: int, entries: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codebook_loss, "BLOCK_LOGITS", block)
    monkeypatch.setitem(codebook_loss.SOFTMAX_LOGITS, "cpu", block // 8)
    arguments = inputs(frames, codebooks, entries)
    fused = with_gradients(linear_cross_entropy, *arguments, times=3.0)
    for found, expected in zip(fused, with_gradients(plain, *arguments, times=3.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_its_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, bias, indexes = inputs(4, 2, 3)
    leaves = [tensor.double().requires_grad_() for tensor in (hidden, weight, bias)]

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, bias, indexes)

    # The softmax itself is float32 whatever its logits are: steps and tolerance of that size.
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-2, atol=2e-3, rtol=1e-2)


def test_under_autocast_it_errs_no_more_than_the_plain_loss() -> None:
    arguments = inputs(300, 16, 256)
    exact = with_gradients(plain, *(tensor.double() for tensor in arguments[:3]), arguments[3])
    with torch.autocast("cpu", torch.bfloat16):
        fused, usual = (with_gradients(function, *arguments) for function in (linear_cross_entropy, plain))
    for mine, theirs, truth in zip(fused, usual, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - truth).norm() <= 1.1 * (theirs - truth).norm() + 1e-6 * truth.norm()


def test_impossible_and_certain_indexes_have_finite_losses() -> None:
    hidden, weight, bias, indexes = inputs(50, 3, 16, scale=1e4)
    loss, *gradients = with_gradients(linear_cross_entropy, hidden, weight, bias, indexes)
    assert 0 < loss < 87.4
    for found, expected in zip(gradients, with_gradients(plain, hidden, weight, bias, indexes)[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_hidden(bad: float) -> None:
    hidden, weight, bias, indexes = inputs(8, 2, 16)
    hidden[3, 0] = bad
    assert not torch.isfinite(linear_cross_entropy(hidden, weight, bias, indexes))


def test_without_gradients_none_are_computed() -> None:
    hidden, weight, bias, indexes = inputs(8, 2, 16)
    loss = linear_cross_entropy(hidden, weight, bias, indexes)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, bias, indexes))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("joint", [False, True])
def test_the_predictors_loss_is_the_cross_entropy_of_its_logits(layers: int, joint: bool) -> None:
    torch.manual_seed(0)
    predictor = CodebookPredictor(24, 6, 16, layers=layers, joint=joint)
    hidden, *_ = inputs(9, 6, 16)
    indexes = torch.randint(16, (9, 6))
    expected = F.cross_entropy(predictor(hidden, indexes).flatten(0, 1), indexes.flatten())
    torch.testing.assert_close(predictor.loss(hidden, indexes), expected)
