"""How good a quantizer is: its errors, the use of its entries, its bytes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mvqkd.errors import DataError
from mvqkd.quantizer.model import Quantizer
from mvqkd.quantizer.report_errors import (
    OTHER_DOMAINS,
    ChannelErrors,
    DomainError,
    channel_errors,
    errors_by_domain,
    reference_mean,
    relative_error,
)
from mvqkd.quantizer.report_findings import findings
from mvqkd.quantizer.report_usage import Redundancy, count_entries, dead_by_chance, entropy_bits, redundancy
from mvqkd.quantizer.search import SearchMode

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class StepError:
    """Held-out relative error after ``step`` steps of phase ``phase`` (1, 2) of a fit; steps start anew in a phase."""

    phase: int
    step: int
    relative_error: float


@dataclass(frozen=True)
class CurvePoint(StepError):
    """A ``StepError`` and the seconds that the fit had run by then."""

    wall_s: float


@dataclass(frozen=True)
class QuantizerReport:
    """Figures of a quantizer; equal quantizers and frames give equal reports, whatever the time it took.

    Errors are relative: sum |x - decode(encode(x))|^2 / sum |x - mean|^2, the mean being that of the same frames (the
    quantizer's own for a single frame), channels normalised as in the codec unless said otherwise.

    Attributes:
        relative_error: of held-out frames.
        relative_error_teacher_space: the same with the channels as the teacher gives them.
        relative_error_by_iteration: after 0, 1, ... refine passes; the last one is ``relative_error``.
        relative_error_fitted: of the frames handed in as fitted ones; None without any.
        held_out_gap: relative_error / relative_error_fitted - 1, a sign of overfitting where large; None if unknown.
        held_out_frames: frames that the errors were measured on.
        error_curve: the held-out error while fitting.
        domains: error of every domain of the held-out frames, worst first, small ones pooled at the end.
        domain_error_median: of the domains with a row of their own; None of no domain.
        domain_error_spread: worst over median; None of fewer than two domains.
        channels: how the error is spread over the channels.
        entropy: bits of every codebook's indexes, as counted; at most log2(codebook_size).
        perplexity: 2 to the entropy: the number of equally used entries that would carry as much.
        bits_per_frame: sum of the entropies; what the codebooks repeat of each other is not taken off.
        bits_per_frame_nominal: N log2(codebook_size).
        used_entries: entries of every codebook that some frame chose.
        dead_entries: entries that no frame chose, in all codebooks together.
        dead_entries_by_codebook: the same, apart.
        dead_entries_by_chance: dead entries to expect of as many frames if all entries were used equally.
        largest_share: share of the frames that chose the most used entry, by codebook.
        entry_counts: how many frames chose each entry, N x K.
        redundancy: mutual information of the codebooks; None of one codebook, or too few frames to tell.
        usage_frames: frames that the use of entries was measured on: the held-out and the fitted ones.
        findings: what calls for attention, in words.
    """

    dim: int
    num_codebooks: int
    codebook_size: int
    search_mode: SearchMode
    relative_error: float
    relative_error_teacher_space: float
    relative_error_by_iteration: list[float]
    relative_error_fitted: float | None
    held_out_gap: float | None
    held_out_frames: int
    error_curve: list[StepError]
    domains: list[DomainError]
    domain_error_median: float | None
    domain_error_spread: float | None
    channels: ChannelErrors
    entropy: list[float]
    perplexity: list[float]
    bits_per_frame: float
    bits_per_frame_nominal: int
    used_entries: list[int]
    dead_entries: int
    dead_entries_by_codebook: list[int]
    dead_entries_by_chance: float
    largest_share: list[float]
    entry_counts: list[list[int]]
    redundancy: Redundancy | None
    usage_frames: int
    bytes_per_frame: int
    compression_ratio: float
    findings: list[str] = dataclasses.field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The report in single numbers, for an artifact's figures and a metrics page; what is unknown is left out."""
        numbers = {
            "relative_error": self.relative_error,
            "relative_error_teacher_space": self.relative_error_teacher_space,
            "relative_error_unrefined": self.relative_error_by_iteration[0],
            "relative_error_fitted": self.relative_error_fitted,
            "held_out_gap": self.held_out_gap,
            "held_out_frames": self.held_out_frames,
            "worst_domain_error": self.domains[0].relative_error if self.domain_error_median is not None else None,
            "domain_error_median": self.domain_error_median,
            "domain_error_spread": self.domain_error_spread,
            "worst_channel_error": self.channels.quantiles.get("max"),
            "bits_per_frame": self.bits_per_frame,
            "bits_per_frame_nominal": self.bits_per_frame_nominal,
            "entropy_min": min(self.entropy),
            "perplexity_min": min(self.perplexity),
            "dead_entries": self.dead_entries,
            "largest_share": max(self.largest_share),
            "redundancy_largest": None if self.redundancy is None else self.redundancy.largest,
            "usage_frames": self.usage_frames,
            "bytes_per_frame": self.bytes_per_frame,
            "compression_ratio": self.compression_ratio,
            "findings": len(self.findings),
        }
        return {name: value for name, value in numbers.items() if value is not None}


def report(
    quantizer: Quantizer,
    held_out: Tensor,
    usage: Tensor,
    iterations: int,
    *,
    mode: SearchMode = "exact",
    domains: Sequence[str] | None = None,
    error_curve: Sequence[StepError] = (),
) -> QuantizerReport:
    """Measure a quantizer.

    Args:
        held_out: float (B, D), B at least 1; frames that the quantizer was not fitted on.
        usage: float (B', D), frames that it was fitted on, drawn evenly from them: the error on them tells
            overfitting, and the use of entries is counted on them and ``held_out``. May be empty.
        iterations: refine passes at encoding.
        mode: of the search.
        domains: B names, the speaker or domain of every held-out frame.
        error_curve: what the fit recorded; the times in it are left out of the report, which depends on none.
    Raises:
        DataError: no held-out frames, or NaN or infinity among the frames.
        ValueError: not one domain a frame.
    """
    if len(held_out) == 0:
        raise DataError(
            "quantizer report",
            expected="at least one held-out frame",
            got="none",
            next_step="raise held_out_share or use more audio",
        )
    held_out, usage = (frames.float().to(quantizer.mean.device) for frames in (held_out, usage))
    by_pass = [quantizer.encode(held_out, mode, passes) for passes in range(iterations + 1)]
    indexes, usage_indexes = by_pass[-1], quantizer.encode(usage, mode, iterations)
    decoded = quantizer.decode(indexes)
    mean = reference_mean(held_out, quantizer.mean)
    errors = [_codec_error(quantizer, held_out, quantizer.decode(codes)) for codes in by_pass]
    fitted = _codec_error(quantizer, usage, quantizer.decode(usage_indexes)) if len(usage) else None
    by_domain = errors_by_domain(quantizer, held_out, domains, mean, indexes=indexes) if domains is not None else []
    named = [row.relative_error for row in by_domain if row.domain != OTHER_DOMAINS]
    median = statistics.median(named) if named else None
    all_indexes = torch.cat([indexes, usage_indexes])
    counts = count_entries(all_indexes, quantizer.codebook_size)
    entropies = entropy_bits(counts)
    dead = (counts == 0).sum(1)
    measured = QuantizerReport(
        dim=quantizer.dim,
        num_codebooks=quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
        search_mode=mode,
        relative_error=errors[-1],
        relative_error_teacher_space=relative_error(held_out, decoded, mean),
        relative_error_by_iteration=errors,
        relative_error_fitted=fitted,
        held_out_gap=round(errors[-1] / fitted - 1, 4) if fitted else None,
        held_out_frames=len(held_out),
        error_curve=[StepError(point.phase, point.step, round(point.relative_error, 6)) for point in error_curve],
        domains=by_domain,
        domain_error_median=None if median is None else round(median, 6),
        domain_error_spread=round(max(named) / median, 4) if median and len(named) > 1 else None,
        channels=channel_errors(
            quantizer, quantizer.normalize(held_out), quantizer.normalize(decoded), quantizer.normalize(mean)
        ),
        entropy=[round(bits, 4) for bits in entropies],
        perplexity=[round(2**bits, 2) for bits in entropies],
        bits_per_frame=round(sum(entropies), 3),
        bits_per_frame_nominal=quantizer.num_codebooks * quantizer.bits_per_index,
        used_entries=(counts > 0).sum(1).tolist(),
        dead_entries=int(dead.sum()),
        dead_entries_by_codebook=dead.tolist(),
        dead_entries_by_chance=round(
            quantizer.num_codebooks * dead_by_chance(quantizer.codebook_size, len(all_indexes)), 1
        ),
        largest_share=[round(share, 4) for share in (counts.amax(1) / len(all_indexes)).tolist()],
        entry_counts=counts.tolist(),
        redundancy=redundancy(all_indexes, quantizer.codebook_size),
        usage_frames=len(all_indexes),
        bytes_per_frame=quantizer.bytes_per_frame,
        compression_ratio=FLOAT32_BYTES * quantizer.dim / quantizer.bytes_per_frame,
    )
    return dataclasses.replace(measured, findings=findings(measured))


def _codec_error(quantizer: Quantizer, frames: Tensor, decoded: Tensor) -> float:
    """Relative error of float (B, D) in the teacher's space, measured in the codec's."""
    normalized = quantizer.normalize(frames)
    mean = reference_mean(normalized, torch.zeros_like(quantizer.mean))
    return relative_error(normalized, quantizer.normalize(decoded), mean)
