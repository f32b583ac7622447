"""Errors of a quantizer: over all frames, by domain (speaker), by channel.

All are relative: squared error over squared distance to a mean. 0 is perfect, 1 is no better than the mean alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvqkd.quantizer.model import Quantizer

# The error of so few frames differs from that of many by 4.5 % (standard deviation over pieces of one speaker's
# speech, Whisper tiny.en, 8 bytes); of fewer, chance would rank the domains.
MIN_DOMAIN_FRAMES = 50
OTHER_DOMAINS = "other"
NUM_WORST_CHANNELS = 10
CHANNEL_QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class DomainError:
    """Error on the frames of one domain.

    Attributes:
        domain: its name; ``OTHER_DOMAINS`` holds those of too few frames together.
        frames: frames it was measured on.
        relative_error: sum |x - decode(encode(x))|^2 / sum |x - mean|^2 over these frames, channels normalised; the
            mean is that of all domains, so that every domain is held against the same point of reference.
        variation: |x - mean|^2 of a frame of this domain over that of any frame, on average. Far above 1, the domain is
            unlike the others. Weighted by frames and variation, the relative errors average to that of all frames.
        pooled: domains that this row stands for.
    """

    domain: str
    frames: int
    relative_error: float
    variation: float
    pooled: int = 1


@dataclass(frozen=True)
class ChannelError:
    """Error of one channel, and how much of the teacher's variance (in the teacher's own scale) it carries."""

    channel_index: int
    relative_error: float
    teacher_variance_share: float


@dataclass(frozen=True)
class ChannelErrors:
    """How the error is spread over the channels; the same in the codec's and in the teacher's scale.

    Attributes:
        quantiles: of the relative errors of the channels; empty where every channel is constant.
        worst: the channels of the largest relative errors, largest first.
        lost: channels of relative error 1 or more: their mean alone would serve as well.
        constant: channels without variation in these frames; they have no relative error and are not counted above.
    """

    quantiles: dict[str, float]
    worst: list[ChannelError]
    lost: int
    constant: int


def relative_error(x: Tensor, reconstruction: Tensor, mean: Tensor | None = None) -> float:
    """sum |x - reconstruction|^2 / sum |x - mean|^2; without any variation, the squared error as it is.

    Args:
        x, reconstruction: float (B, D).
        mean: float (D,); default: the mean of ``x``.
    """
    mean = x.double().mean(0) if mean is None else mean
    return _ratio(squared_distance(x, reconstruction).sum(), squared_distance(x, mean).sum())


def reference_mean(x: Tensor, fallback: Tensor) -> Tensor:
    """Mean of float (B, D) to hold errors against, float64 (D,); ``fallback`` where the frames do not differ at all.

    A single frame, or copies of one, has no distance to a mean of its own.
    """
    mean = x.double().mean(0)
    return mean if bool((x != mean).any()) else fallback.double()


def errors_by_domain(
    quantizer: Quantizer,
    x: Tensor,
    domains: Sequence[str],
    mean: Tensor,
    *,
    indexes: Tensor | None = None,
    min_frames: int = MIN_DOMAIN_FRAMES,
) -> list[DomainError]:
    """Error of every domain, worst first; the pooled ones last.

    Args:
        x: float (B, D).
        domains: B names, the domain of each row.
        mean: float (D,) in the teacher's space, the point that all domains are held against.
        indexes: integer (B, N), codes of ``x``; default: what ``encode`` gives.
        min_frames: domains of fewer frames are pooled.
    Raises:
        ValueError: not one name a row.
    """
    if len(domains) != len(x):
        raise ValueError(f"a domain for each of {len(x)} frames is needed, got {len(domains)}")
    x = x.to(quantizer.mean.device)
    indexes = quantizer.encode(x) if indexes is None else indexes
    normalized = quantizer.normalize(x)
    errors = squared_distance(normalized, quantizer.normalize(quantizer.decode(indexes))).sum(1).cpu()
    variations = squared_distance(normalized, quantizer.normalize(mean.to(x.device))).sum(1).cpu()
    overall = variations.mean()
    rows_of: dict[str, list[int]] = {}
    for row, domain in enumerate(domains):
        rows_of.setdefault(domain, []).append(row)
    small = [domain for domain, rows in rows_of.items() if len(rows) < min_frames or domain == OTHER_DOMAINS]
    if small:
        rows_of[OTHER_DOMAINS] = [row for domain in small for row in rows_of.pop(domain)]

    def measure(domain: str, rows: list[int]) -> DomainError:
        variation = variations[rows]
        return DomainError(
            domain,
            frames=len(rows),
            relative_error=_ratio(errors[rows].sum(), variation.sum()),
            variation=round(float(variation.mean() / overall), 4) if overall > 0 else 1.0,
            pooled=len(small) if domain == OTHER_DOMAINS else 1,
        )

    measured = [measure(domain, rows) for domain, rows in rows_of.items()]
    return sorted(measured, key=lambda row: (row.domain == OTHER_DOMAINS, -row.relative_error, row.domain))


def channel_errors(quantizer: Quantizer, x: Tensor, reconstruction: Tensor, mean: Tensor) -> ChannelErrors:
    """Error of the channels.

    Args:
        x, reconstruction: float (B, D), in the codec's own space.
        mean: float (D,), likewise.
    """
    variation = squared_distance(x, mean).sum(0)
    varies = variation > 0
    if not bool(varies.any()):
        return ChannelErrors({}, [], lost=0, constant=len(variation))
    channel_index = varies.nonzero().flatten()
    errors = (squared_distance(x, reconstruction).sum(0) / variation)[varies]
    teacher_variation = (variation * quantizer.std.double().square())[varies]
    shares = teacher_variation / teacher_variation.sum()
    quantiles = torch.quantile(errors, torch.tensor(list(CHANNEL_QUANTILES.values())).to(errors))
    # Stable, so that equal errors keep the order of the channels.
    worst = torch.sort(errors, descending=True, stable=True).indices[:NUM_WORST_CHANNELS].tolist()
    return ChannelErrors(
        quantiles={name: round(value, 6) for name, value in zip(CHANNEL_QUANTILES, quantiles.tolist(), strict=True)},
        worst=[
            ChannelError(int(channel_index[row]), round(float(errors[row]), 6), round(float(shares[row]), 6))
            for row in worst
        ],
        lost=int((errors >= 1).sum()),
        constant=int((~varies).sum()),
    )


def squared_distance(x: Tensor, other: Tensor) -> Tensor:
    """float64 (B, D) of float (B, D) and (B, D) or (D,)."""
    return (x.double() - other.double()).square()


def _ratio(error: Tensor, variation: Tensor) -> float:
    return round(float(error / variation) if variation > 0 else float(error), 6)
