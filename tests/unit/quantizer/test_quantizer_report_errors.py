"""Errors over all frames, by domain and by channel, against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.report_errors import (
    OTHER_DOMAINS,
    ChannelError,
    DomainError,
    channel_errors,
    errors_by_domain,
    reference_mean,
    relative_error,
)


def plus_minus_one(mean: float = 0.0, std: float = 1.0) -> Quantizer:
    """One channel, one codebook: -1 or +1 in the codec's space, whichever is nearer."""
    quantizer = Quantizer(1, 1, 2, mean=torch.tensor([mean]), std=torch.tensor([std])).requires_grad_(False)
    quantizer.centers.copy_(torch.tensor([[[-1.0], [1.0]]]))
    return quantizer


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def test_relative_error_is_1_for_the_mean_and_0_for_the_truth() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3
    assert relative_error(x, x) == 0
    assert relative_error(x, x.mean(0).expand_as(x)) == pytest.approx(1)
    assert relative_error(torch.ones(3, 2), torch.ones(3, 2)) == 0


def test_relative_error_against_another_mean() -> None:
    x, reconstruction = column(1, 3), column(1, 2)
    assert relative_error(x, reconstruction) == pytest.approx(1 / 2)
    assert relative_error(x, reconstruction, torch.tensor([0.0])) == pytest.approx(1 / 10)
    assert relative_error(column(2, 2), column(2, 4)) == 4, "without variation, the error itself"


def test_frames_that_do_not_differ_are_held_against_the_fallback() -> None:
    fallback = torch.tensor([0.25, 0.5])
    value = torch.tensor([0.1, 1 / 3])
    assert reference_mean(value.expand(1, 2), fallback).tolist() == fallback.tolist()
    assert reference_mean(value.expand(1000, 2), fallback).tolist() == fallback.tolist()
    assert reference_mean(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), fallback).tolist() == [0.5, 1.0]


def test_domains_worst_first_against_one_mean() -> None:
    x = column(1.5, 1, -1.5, 3)
    rows = errors_by_domain(plus_minus_one(), x, ["a", "b", "a", "b"], torch.tensor([0.0]), min_frames=2)
    # a: (0.25 + 0.25) / (2.25 + 2.25); b: (0 + 4) / (1 + 9); a frame varies by 14.5 / 4.
    assert rows == [DomainError("b", 2, 0.4, 1.3793), DomainError("a", 2, 0.111111, 0.6207)]
    overall = relative_error(x, column(1, 1, -1, 1), torch.tensor([0.0]))
    total = sum(row.frames * row.variation * row.relative_error for row in rows)
    assert total / len(x) == pytest.approx(overall, rel=1e-3)
    moved = errors_by_domain(plus_minus_one(), x, ["a", "b", "a", "b"], torch.tensor([1.0]), min_frames=2)
    assert [row.relative_error for row in moved] == pytest.approx([4 / 4, 0.5 / 6.5], abs=1e-6)


def test_domains_are_measured_in_the_codecs_space_from_a_mean_in_the_teachers() -> None:
    x = column(1.5, 1, -1.5, 3)
    expected = errors_by_domain(plus_minus_one(), x, ["a", "b", "a", "b"], torch.tensor([0.0]), min_frames=2)
    scaled = plus_minus_one(mean=5, std=2)
    assert errors_by_domain(scaled, 5 + 2 * x, ["a", "b", "a", "b"], torch.tensor([5.0]), min_frames=2) == expected


def test_given_indexes_are_the_ones_judged() -> None:
    x = column(1, -1)
    flipped = torch.tensor([[0], [1]])
    (row,) = errors_by_domain(plus_minus_one(), x, ["a", "a"], torch.tensor([0.0]), indexes=flipped, min_frames=1)
    assert row.relative_error == 4


def test_small_domains_are_pooled_and_come_last() -> None:
    x = column(1, -1, 1, 9, 9, 9)
    domains = ["a", "a", "a", "rare", OTHER_DOMAINS, "scarce"]
    rows = errors_by_domain(plus_minus_one(), x, domains, torch.tensor([0.0]), min_frames=3)
    assert [(row.domain, row.frames, row.pooled) for row in rows] == [("a", 3, 1), (OTHER_DOMAINS, 3, 3)]
    assert [row.relative_error for row in rows] == pytest.approx([0, 64 / 81], abs=1e-6)
    assert [row.domain for row in errors_by_domain(plus_minus_one(), x, domains, torch.tensor([0.0]))] == ["other"]


def test_domains_of_equal_errors_are_in_order_of_their_names() -> None:
    rows = errors_by_domain(plus_minus_one(), column(1, 1, 1), ["c", "a", "b"], torch.tensor([0.0]), min_frames=1)
    assert [row.domain for row in rows] == ["a", "b", "c"]


def test_a_domain_for_every_frame() -> None:
    with pytest.raises(ValueError, match="each of 2 frames is needed, got 1"):
        errors_by_domain(plus_minus_one(), column(1, 2), ["a"], torch.tensor([0.0]))


def test_channels() -> None:
    quantizer = Quantizer(3, 1, 2, std=torch.tensor([1.0, 2.0, 0.0]))
    x = torch.tensor([[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])
    reconstruction = torch.tensor([[0.5, 2.0, 0.0], [-0.5, -2.0, 0.0]])
    measured = channel_errors(quantizer, x, reconstruction, torch.zeros(3))
    # Channel 0: 0.5 / 2; channel 1: 0 / 8; channel 2 is constant. In the teacher's scale they vary by 2 and by 8 * 4.
    assert measured.worst == [ChannelError(0, 0.25, round(2 / 34, 6)), ChannelError(1, 0.0, round(32 / 34, 6))]
    assert measured.quantiles == {
        "min": 0.0,
        "p05": 0.0125,
        "p25": 0.0625,
        "median": 0.125,
        "p75": 0.1875,
        "p95": 0.2375,
        "max": 0.25,
    }
    assert (measured.lost, measured.constant) == (0, 1)
    assert channel_errors(quantizer, x, -x, torch.zeros(3)).lost == 2


def test_no_more_than_ten_worst_channels_ties_in_order() -> None:
    x = torch.cat([torch.ones(1, 30), -torch.ones(1, 30)])
    reconstruction = x.clone()
    reconstruction[:, 20:] = 0.5 * x[:, 20:]
    reconstruction[:, 7] = 0
    measured = channel_errors(Quantizer(30, 1, 2), x, reconstruction, torch.zeros(30))
    assert [(row.channel_index, row.relative_error) for row in measured.worst[:3]] == [(7, 1.0), (20, 0.25), (21, 0.25)]
    assert len(measured.worst) == 10
    assert measured.lost == 1


def test_constant_channels_only() -> None:
    measured = channel_errors(Quantizer(3, 1, 2), torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(3))
    assert (measured.quantiles, measured.worst, measured.lost, measured.constant) == ({}, [], 0, 3)
