from __future__ import annotations

import pytest
import torch

from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.report import count_entries, entropy_bits, relative_error, report


def test_relative_error_is_1_for_the_mean_and_0_for_the_truth() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3
    assert relative_error(x, x) == 0
    assert relative_error(x, x.mean(0).expand_as(x)) == pytest.approx(1)
    assert relative_error(torch.ones(3, 2), torch.ones(3, 2)) == 0


def test_entropy_counts_bits() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [10, 10, 0, 0], [20, 0, 0, 0]])
    assert entropy_bits(counts) == pytest.approx([2, 1, 0])


def test_report_of_a_quantizer_with_known_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = Quantizer(32, 2, 16, mean=torch.ones(32), std=torch.full((32,), 3.0), generator=generator)
    quantizer.requires_grad_(False)
    # Entries 0..3 of codebook 0 and 0..1 of codebook 1, evenly, so that bits and use are known.
    indexes = torch.tensor([[a, b] for a in range(4) for b in range(2)] * 5, dtype=torch.uint8)
    x = quantizer.decode(indexes)
    assert count_entries(quantizer, indexes)[:, :5].tolist() == [[10, 10, 10, 10, 0], [20, 20, 0, 0, 0]]
    measured = report(quantizer, x, x[:16], 5)
    assert measured.relative_error == pytest.approx(0, abs=1e-5)
    assert len(measured.relative_error_by_iteration) == 6
    assert measured.relative_error_by_iteration[0] > 0.01
    assert measured.entropy == pytest.approx([2, 1])
    assert measured.used_entries == [4, 2]
    assert measured.dead_entries == 26
    assert (measured.held_out_frames, measured.usage_frames) == (40, 56)
    assert (measured.bytes_per_frame, measured.compression_ratio) == (1, 128)
