"""Use of entries, entropies, and what codebooks share, against values computed by hand or known by construction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mvqkd.quantizer.report_usage import (
    EULER_GAMMA,
    count_entries,
    dead_by_chance,
    entropy_bits,
    grassberger_table,
    redundancy,
)


def test_entropy_counts_bits() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [10, 10, 0, 0], [20, 0, 0, 0]])
    assert entropy_bits(counts) == pytest.approx([2, 1, 0])


def test_counts() -> None:
    indexes = torch.tensor([[0, 3], [0, 2], [1, 3]], dtype=torch.uint8)
    assert count_entries(indexes, 4).tolist() == [[2, 1, 0, 0], [0, 0, 1, 2]]
    assert count_entries(indexes[:0], 4).tolist() == [[0] * 4] * 2


def test_dead_entries_to_expect() -> None:
    assert dead_by_chance(2, 3) == pytest.approx(2 / 8)
    assert dead_by_chance(256, 0) == 256
    drawn = torch.randint(0, 16, (2000, 20), generator=torch.Generator().manual_seed(0))
    dead = [16 - len(row.unique()) for row in drawn]
    assert dead_by_chance(16, 20) == pytest.approx(sum(dead) / len(dead), rel=0.03)


def test_grassbergers_numbers() -> None:
    base = -EULER_GAMMA - math.log(2)
    expected = [0, base, 2 * (base + 2), 3 * (base + 2), 4 * (base + 2 + 2 / 3)]
    assert grassberger_table(4).tolist() == pytest.approx(expected)
    assert float(grassberger_table(1000)[1000]) / 1000 == pytest.approx(math.log(1000), abs=1e-6)


def test_grassbergers_entropy_of_few_frames_is_nearer_than_the_counted_one() -> None:
    codes = torch.randint(0, 4096, (4000,), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(codes, minlength=4096)
    estimate = (math.log(4000) - float(grassberger_table(4000)[counts].sum()) / 4000) / math.log(2)
    counted = entropy_bits(counts.unsqueeze(0))[0]
    assert counted < 11.5
    assert abs(estimate - 12) < 0.2


def coupled(frames: int, size: int, share: float, seed: int = 0) -> tuple[Tensor, float]:
    """Codes of three codebooks: the second copies the first in a share of the frames; the third is independent.

    Returns:
        int64 (B, 3), and the mutual information of the first two as a share of their entropy.
    """
    generator = torch.Generator().manual_seed(seed)
    first, drawn, third = torch.randint(0, size, (3, frames), generator=generator)
    copies = torch.rand(frames, generator=generator) < share
    joint = torch.full((size, size), (1 - share) / size**2, dtype=torch.float64)
    joint += torch.eye(size) * share / size
    information = 2 * math.log(size) - float(torch.special.entr(joint).sum())
    return torch.stack([first, torch.where(copies, first, drawn), third], 1), information / math.log(size)


@pytest.mark.parametrize(("size", "frames"), [(16, 8000), (256, 12_000)])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_shared_information_is_near_the_truth_however_few_pairs_are_seen_twice(
    size: int, frames: int, share: float
) -> None:
    codes, truth = coupled(frames, size, share)
    measured = redundancy(codes.to(torch.uint8), size)
    assert measured is not None
    assert measured.frames == frames
    assert measured.matrix[0][1] == measured.matrix[1][0] == measured.largest
    assert measured.largest == pytest.approx(truth, rel=0.2)
    assert measured.matrix[0][2] < 0.01
    assert measured.matrix[1][2] < 0.01
    assert [measured.matrix[n][n] for n in range(3)] == [1, 1, 1]
    assert measured.mean == pytest.approx(
        (measured.largest + measured.matrix[0][2] + measured.matrix[1][2]) / 3, abs=1e-4
    )


def test_counted_without_correction_independent_codebooks_would_seem_to_share_much() -> None:
    codes, _ = coupled(6000, 256, 0)
    joint = torch.bincount(codes[:, 0] * 256 + codes[:, 2], minlength=256**2).unsqueeze(0)
    marginals = entropy_bits(count_entries(codes, 256))
    assert (marginals[0] + marginals[2] - entropy_bits(joint)[0]) / 8 > 0.3
    measured = redundancy(codes, 256)
    assert measured is not None
    assert measured.largest < 0.01


def test_a_codebook_that_tells_the_other() -> None:
    codes = torch.randint(0, 16, (500,), generator=torch.Generator().manual_seed(0))
    measured = redundancy(torch.stack([codes, 15 - codes], 1), 16)
    assert measured is not None
    assert measured.matrix == [[1.0, 1.0], [1.0, 1.0]]


def test_a_codebook_of_one_entry_shares_nothing() -> None:
    codes = torch.randint(0, 16, (500,), generator=torch.Generator().manual_seed(0))
    measured = redundancy(torch.stack([codes, torch.zeros(500, dtype=torch.long)], 1), 16)
    assert measured is not None
    assert measured.matrix == [[1.0, 0.0], [0.0, 1.0]]


def test_too_few_frames_to_tell() -> None:
    codes, _ = coupled(1000, 256, 0.5)
    assert redundancy(codes, 256) is None
    assert redundancy(codes[:1], 256) is None
    assert redundancy(codes[:, :1], 256) is None


def test_equal_codes_give_equal_values_and_leave_the_callers_randomness_alone() -> None:
    codes, _ = coupled(3000, 16, 0.3)
    state = torch.get_rng_state()
    assert redundancy(codes, 16) == redundancy(codes, 16)
    assert torch.equal(torch.get_rng_state(), state)
