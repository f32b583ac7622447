"""The whole report: known quantizers, its edge cases, what it says in words."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from mvqkd.errors import DataError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.report import CurvePoint, QuantizerReport, StepError, report
from mvqkd.quantizer.report_errors import ChannelErrors, DomainError, relative_error
from mvqkd.quantizer.report_findings import findings
from mvqkd.quantizer.report_usage import Redundancy


def plus_minus_one() -> Quantizer:
    """One channel, one codebook: -1 or +1, whichever is nearer."""
    quantizer = random_quantizer(1, 1, 2)
    quantizer.centers.copy_(torch.tensor([[[-1.0], [1.0]]]))
    return quantizer


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def random_quantizer(dim: int, num_codebooks: int, codebook_size: int, **statistics: Tensor) -> Quantizer:
    generator = torch.Generator().manual_seed(0)
    return Quantizer(dim, num_codebooks, codebook_size, generator=generator, **statistics).requires_grad_(False)


def frames_of(count: int, dim: int, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def as_json(measured: QuantizerReport) -> dict[str, Any]:
    """Through JSON, which refuses NaN and infinity."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(measured), allow_nan=False))
    return document


def test_report_of_a_quantizer_with_known_entries() -> None:
    quantizer = random_quantizer(32, 2, 16, mean=torch.ones(32), std=torch.full((32,), 3.0))
    # Entries 0..3 of codebook 0 and 0..1 of codebook 1, evenly, so that bits and use are known.
    indexes = torch.tensor([[a, b] for a in range(4) for b in range(2)] * 5, dtype=torch.uint8)
    x = quantizer.decode(indexes)
    measured = report(quantizer, x, x[:16], 5)
    assert measured.relative_error == pytest.approx(0, abs=1e-5)
    assert measured.relative_error_teacher_space == pytest.approx(0, abs=1e-5)
    assert len(measured.relative_error_by_iteration) == 6
    assert measured.relative_error_by_iteration[0] > 0.01
    assert measured.entropy == pytest.approx([2, 1])
    assert measured.perplexity == pytest.approx([4, 2])
    assert (measured.bits_per_frame, measured.bits_per_frame_nominal) == (3, 8)
    assert measured.used_entries == [4, 2]
    assert (measured.dead_entries, measured.dead_entries_by_codebook) == (26, [12, 14])
    assert measured.largest_share == [0.25, 0.5]
    assert measured.entry_counts == [[14] * 4 + [0] * 12, [28] * 2 + [0] * 14]
    # 16 (15/16)^56 entries of a codebook are missed by chance.
    assert measured.dead_entries_by_chance == 0.9
    assert (measured.held_out_frames, measured.usage_frames) == (40, 56)
    assert (measured.bytes_per_frame, measured.compression_ratio) == (1, 128)
    assert (measured.dim, measured.num_codebooks, measured.codebook_size) == (32, 2, 16)


def test_errors_by_hand() -> None:
    measured = report(plus_minus_one(), column(0.5, -0.5, 2, -2), column(1.5, -1.5), 1, domains=["a", "b", "a", "b"])
    # Held out: (0.25 + 0.25 + 1 + 1) / (0.25 + 0.25 + 4 + 4); fitted: 0.5 / 4.5.
    assert measured.relative_error == pytest.approx(2.5 / 8.5, abs=1e-6)
    assert measured.relative_error_teacher_space == pytest.approx(2.5 / 8.5, abs=1e-6)
    assert measured.relative_error_fitted == pytest.approx(1 / 9, abs=1e-6)
    assert measured.held_out_gap == pytest.approx(2.5 / 8.5 * 9 - 1, abs=1e-4)
    assert measured.channels.quantiles["median"] == measured.relative_error
    assert measured.domains == [DomainError("other", 4, measured.relative_error, 1.0, pooled=2)]
    assert measured.entry_counts == [[3, 3]]


def test_domains_and_their_spread() -> None:
    x = torch.cat([column(*values).repeat(25, 1) for values in [(2, -2), (1, -1), (1.5, -1.5)]])
    domains = [name for name in ("far", "exact", "near") for _ in range(50)]
    measured = report(plus_minus_one(), x, x[:0], 1, domains=domains)
    # Errors 1 / 4, 0 and 0.25 / 2.25 about the common mean 0.
    assert [(row.domain, row.relative_error) for row in measured.domains] == [
        ("far", 0.25),
        ("near", 0.111111),
        ("exact", 0.0),
    ]
    assert measured.domain_error_median == 0.111111
    assert measured.domain_error_spread == pytest.approx(2.25)
    assert measured.figures()["worst_domain_error"] == 0.25
    # The pooled ones mix domains: they are no domain to compare.
    pooled = report(plus_minus_one(), torch.cat([x, column(4, 1)]), x[:0], 1, domains=[*domains, "rare", "scarce"])
    assert pooled.domains[-1].domain == "other"
    assert pooled.domains[-1].relative_error > 0.4
    assert pooled.domain_error_median == pytest.approx(0.111111, abs=1e-3)
    assert pooled.domain_error_spread == pytest.approx(2.25, rel=1e-2)
    assert pooled.figures()["worst_domain_error"] == pytest.approx(0.25, abs=1e-3)
    permuted = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    again = report(plus_minus_one(), x[permuted], x[:0], 1, domains=[domains[row] for row in permuted.tolist()])
    assert again == measured


def test_mode_and_passes_are_those_asked_for() -> None:
    quantizer, x = random_quantizer(16, 4, 16), frames_of(300, 16)
    exact, best = (report(quantizer, x, x[:0], 5, mode=mode) for mode in ("exact", "best"))
    assert (exact.search_mode, best.search_mode) == ("exact", "best")
    for mode, measured in (("exact", exact), ("best", best)):
        for passes, error in enumerate(measured.relative_error_by_iteration):
            indexes = quantizer.encode(x, mode, passes)
            assert error == pytest.approx(relative_error(x, quantizer.decode(indexes)), abs=1e-6)
    assert best.relative_error < exact.relative_error
    unrefined = report(quantizer, x, x[:0], 0)
    assert unrefined.relative_error_by_iteration == exact.relative_error_by_iteration[:1]
    assert unrefined.relative_error > exact.relative_error


def test_the_curve_is_kept_without_the_time_it_took() -> None:
    x = column(1, -1)
    curves = [[CurvePoint(1, 10, 0.5, wall_s), CurvePoint(2, 10, 0.4, 2 * wall_s)] for wall_s in (1.0, 7.5)]
    slow, fast = (report(plus_minus_one(), x, x, 1, error_curve=curve) for curve in curves)
    assert slow == fast
    assert slow.error_curve == [StepError(1, 10, 0.5), StepError(2, 10, 0.4)]


def test_equal_input_gives_an_equal_report() -> None:
    quantizer, x = random_quantizer(8, 4, 16), frames_of(800, 8)
    first, second = (report(quantizer, x[:300], x[300:], 3, domains=["a", "b", "c"] * 100) for _ in range(2))
    assert as_json(first) == as_json(second)


EDGE_CASES: dict[str, tuple[Quantizer, Tensor, Tensor]] = {
    "one held-out frame": (random_quantizer(8, 2, 16), frames_of(1, 8), frames_of(40, 8)),
    "one frame in all": (random_quantizer(8, 2, 16), frames_of(1, 8), frames_of(0, 8)),
    "copies of one frame": (random_quantizer(8, 2, 16), frames_of(1, 8).expand(30, 8), frames_of(0, 8)),
    "zero vectors": (random_quantizer(8, 2, 16), torch.zeros(30, 8), torch.zeros(5, 8)),
    "a constant channel": (
        random_quantizer(8, 2, 16, std=torch.tensor([1.0] * 7 + [0.0])),
        torch.cat([frames_of(30, 7), torch.full((30, 1), 5.0)], 1),
        frames_of(9, 8),
    ),
    "constant channels only": (random_quantizer(8, 2, 16, std=torch.zeros(8)), frames_of(30, 8), frames_of(9, 8)),
    "fewer frames than entries": (random_quantizer(8, 4, 256), frames_of(20, 8), frames_of(30, 8)),
    "one codebook": (random_quantizer(8, 1, 256), frames_of(300, 8), frames_of(30, 8)),
    "one codebook of 16": (random_quantizer(8, 1, 16), frames_of(300, 8), frames_of(30, 8)),
    "three codebooks": (random_quantizer(8, 3, 16), frames_of(300, 8), frames_of(30, 8)),
    "float16": (random_quantizer(8, 2, 16), frames_of(300, 8).half(), frames_of(30, 8).half()),
    "one channel": (random_quantizer(1, 2, 16), frames_of(300, 1), frames_of(30, 1)),
}


@pytest.mark.parametrize("domains", ["none", "one", "each its own"])
@pytest.mark.parametrize("case", list(EDGE_CASES))
def test_edge_cases_give_finite_numbers(case: str, domains: str) -> None:
    quantizer, held_out, usage = EDGE_CASES[case]
    names = {"none": None, "one": ["a"] * len(held_out), "each its own": [str(row) for row in range(len(held_out))]}
    measured = report(quantizer, held_out, usage, 2, domains=names[domains])
    document = as_json(measured)
    assert document["relative_error"] == measured.relative_error_by_iteration[-1]
    assert sum(map(sum, measured.entry_counts)) == measured.usage_frames * quantizer.num_codebooks
    assert all(isinstance(value, int | float) for value in measured.figures().values())
    assert json.dumps(measured.figures(), allow_nan=False)
    assert measured.domain_error_spread is None
    assert bool(measured.domains) == (domains != "none")


def test_a_single_frame_is_held_against_the_quantizers_mean() -> None:
    quantizer = random_quantizer(1, 1, 2, mean=torch.tensor([10.0]), std=torch.tensor([2.0]))
    quantizer.centers.copy_(torch.tensor([[[-1.0], [1.0]]]))
    measured = report(quantizer, column(14), column(), 1)
    # In the codec's space the frame is 2, decoded as 1, the mean is 0.
    assert measured.relative_error == pytest.approx(1 / 4)
    assert measured.relative_error_teacher_space == pytest.approx(1 / 4)
    assert measured.channels.worst[0].relative_error == pytest.approx(1 / 4)
    assert (measured.relative_error_fitted, measured.held_out_gap) == (None, None)


def test_a_constant_channel_costs_nothing_and_is_counted() -> None:
    quantizer, held_out, usage = EDGE_CASES["a constant channel"]
    measured = report(quantizer, held_out, usage, 2)
    assert measured.channels.constant == 1
    assert 7 not in [row.channel_index for row in measured.channels.worst]


def test_no_frames() -> None:
    with pytest.raises(DataError, match="at least one held-out frame"):
        report(plus_minus_one(), column(), column(1), 1)


def test_a_domain_for_every_held_out_frame() -> None:
    with pytest.raises(ValueError, match="each of 2 frames is needed, got 1"):
        report(plus_minus_one(), column(1, 2), column(1), 1, domains=["a"])


def test_figures_are_single_numbers_and_leave_out_the_unknown() -> None:
    x = frames_of(2000, 8)
    domains = ["a", "b"] * 500
    figures = report(random_quantizer(8, 2, 16), x[:1000], x[1000:], 2, domains=domains).figures()
    assert list(figures) == [
        *("relative_error", "relative_error_teacher_space", "relative_error_unrefined", "relative_error_fitted"),
        *("held_out_gap", "held_out_frames", "worst_domain_error", "domain_error_median", "domain_error_spread"),
        *("worst_channel_error", "bits_per_frame", "bits_per_frame_nominal", "entropy_min", "perplexity_min"),
        *("dead_entries", "largest_share", "redundancy_largest", "usage_frames", "bytes_per_frame"),
        *("compression_ratio", "findings"),
    ]
    bare = report(random_quantizer(8, 1, 16), x[:100], x[:0], 2).figures()
    assert set(figures) - set(bare) == {
        *("relative_error_fitted", "held_out_gap", "worst_domain_error", "domain_error_median"),
        *("domain_error_spread", "redundancy_largest"),
    }


@pytest.fixture(scope="module")
def sound() -> QuantizerReport:
    """A report without findings: of a real one, what would be found set right."""
    measured = report(random_quantizer(8, 2, 16), frames_of(100, 8), frames_of(50, 8), 1)
    return dataclasses.replace(
        measured,
        held_out_frames=4000,
        usage_frames=12_000,
        relative_error_by_iteration=[0.4, 0.3, 0.299],
        held_out_gap=0.02,
        channels=ChannelErrors({"max": 0.5}, [], lost=0, constant=0),
        domains=[DomainError("x", 900, 0.36, 1.0), DomainError("y", 900, 0.3, 1.0)],
        domain_error_spread=1.2,
        dead_entries=0,
        dead_entries_by_chance=0.0,
        bits_per_frame=7.8,
        redundancy=Redundancy([[1, 0.2], [0.2, 1]], 0.2, 0.2, 12_000, 4, 0.1),
    )


def test_a_sound_quantizer_has_no_findings(sound: QuantizerReport) -> None:
    assert findings(sound) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"held_out_frames": 999}, "held-out frames: only 999"),
        ({"held_out_gap": 0.187}, "held-out error 19% above that of fitted frames"),
        ({"relative_error_by_iteration": [0.4, 0.33, 0.3]}, "the last refine pass still gained 10.0%"),
        ({"domain_error_spread": 1.6}, "x: error 1.6 times the median domain's"),
        ({"channels": ChannelErrors({"max": 1.2}, [], lost=3, constant=0)}, "3 of 8 channels decode no better"),
        ({"usage_frames": 159}, "only 159 frames to count 16 entries a codebook on"),
        ({"dead_entries": 5, "dead_entries_by_chance": 1.0}, "5 of 32 entries are dead"),
        ({"bits_per_frame": 7.1}, "7.1 of 8 bits are used"),
        (
            {"redundancy": Redundancy([[1, 0.2, 0.1], [0.2, 1, 0.6], [0.1, 0.6, 1]], 0.6, 0.3, 12_000, 4, 0.1)},
            "codebooks 1 and 2 share 60% of their information",
        ),
    ],
)
def test_findings(sound: QuantizerReport, changed: dict[str, Any], expected: str) -> None:
    (finding,) = findings(dataclasses.replace(sound, **changed))
    assert finding.startswith(expected)


def test_dead_entries_that_chance_explains_are_no_finding(sound: QuantizerReport) -> None:
    assert findings(dataclasses.replace(sound, dead_entries=5, dead_entries_by_chance=5.0)) == []


def test_the_report_carries_its_findings() -> None:
    measured = report(random_quantizer(8, 2, 16), frames_of(100, 8), frames_of(100, 8), 1)
    assert measured.findings == findings(measured)
    assert any("held-out frames: only 100" in finding for finding in measured.findings)
