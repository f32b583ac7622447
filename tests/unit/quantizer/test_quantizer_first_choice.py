"""The rough first look must never cost the entry with the highest logit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.device import bfloat16_is_fast
from mvqkd.quantizer.first_choice import build_logits_table, first_choice


def problem(num_codebooks: int, size: int, dim: int, count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(dim)
    weight = torch.randn(num_codebooks * size, dim, generator=generator)
    bias = torch.randn(num_codebooks * size, generator=generator)
    return torch.randn(count, dim, generator=generator), weight, bias


@pytest.mark.parametrize("rough", [True, False])
@pytest.mark.parametrize(("num_codebooks", "size", "dim"), [(1, 16, 5), (3, 32, 17), (8, 256, 64), (4, 256, 512)])
def test_it_is_the_highest_logit(num_codebooks: int, size: int, dim: int, rough: bool) -> None:
    x, weight, bias = problem(num_codebooks, size, dim)
    table = build_logits_table(weight, bias, num_codebooks, rough=rough)
    assert (table.rough is not None) == rough
    logits = x.double() @ weight.double().T + bias.double()
    expected = logits.view(len(x), num_codebooks, size).argmax(2)
    assert torch.equal(first_choice(x, table), expected)


def test_near_ties_are_decided_by_exact_numbers() -> None:
    # Entries that bfloat16 cannot tell apart.
    x, weight, _ = problem(1, 1, 64)
    close = weight * (1 + torch.arange(16).unsqueeze(1) * 1e-4)
    table = build_logits_table(close, torch.zeros(16), 1, rough=True)
    expected = (x.double() @ close.double().T).argmax(1)
    assert torch.equal(first_choice(x, table)[:, 0], expected)
    assert set(expected.tolist()) == {0, 15}  # by the sign of the logit


@pytest.mark.parametrize("rough", [True, False])
def test_equal_logits_go_to_the_first(rough: bool) -> None:
    x, weight, _ = problem(2, 1, 8, count=5)
    table = build_logits_table(weight[:1].expand(32, 8), torch.ones(32), 2, rough=rough)
    assert first_choice(x, table).tolist() == [[0, 0]] * 5
    assert first_choice(torch.zeros(1, 8), table).tolist() == [[0, 0]]


def test_small_codebooks_are_not_looked_at_roughly() -> None:
    _, weight, bias = problem(2, 4, 8)
    assert build_logits_table(weight, bias, 2).rough is None
    assert isinstance(bfloat16_is_fast(torch.device("cpu")), bool)
    assert not bfloat16_is_fast(torch.device("meta"))


def test_rounding_errors_stay_within_the_margin() -> None:
    x, weight, bias = problem(1, 256, 512, count=2000)
    table = build_logits_table(weight, bias, 1, rough=True)
    assert table.rough is not None
    error = ((x.bfloat16() @ table.rough).double() + x.double() @ weight.double().T).abs().amax(1)
    margin = x.norm(dim=1) * table.margin[0]
    assert (2 * error < margin).all()
    assert (error > 0.05 * margin).any()  # the margin is not wildly too wide either
