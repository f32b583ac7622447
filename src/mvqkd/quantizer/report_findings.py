"""What a reader of a quantizer's report should notice, in sentences, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvqkd.quantizer.report import QuantizerReport

# Fewer frames leave the error itself uncertain by about 1 % and domains hardly comparable.
FEW_HELD_OUT_FRAMES = 1000
# Frames of other cuts are always a little harder than those that were fitted; more than a little is overfitting, or
# speech of another kind.
LARGE_GAP = 0.1
# Passes are cheap beside a teacher's forward: stop where another one gains less.
LARGE_LAST_GAIN = 0.01
DEAD_SHARE = 0.01
USED_BITS_SHARE = 0.9
# Entropies as counted are low by (K - 1) / (2 B ln 2) bits: 1 % of the bits at so many frames an entry.
FRAMES_PER_ENTRY = 10
WORST_TO_MEDIAN = 1.5
LARGE_REDUNDANCY = 0.5


def findings(report: QuantizerReport) -> list[str]:
    """The points of a report that call for attention; none of a sound quantizer that was measured well."""
    return [*_of_errors(report), *_of_usage(report)]


def _of_errors(report: QuantizerReport) -> Iterator[str]:
    if report.held_out_frames < FEW_HELD_OUT_FRAMES:
        yield f"held-out frames: only {report.held_out_frames}, the errors are uncertain; hold out more"
    gap = report.held_out_gap
    if gap is not None and gap > LARGE_GAP:
        yield f"held-out error {gap:.0%} above that of fitted frames; fit on more frames, of more speakers"
    by_pass = report.relative_error_by_iteration
    gain = (by_pass[-2] - by_pass[-1]) / by_pass[-1] if len(by_pass) > 1 and by_pass[-1] > 0 else 0.0
    if gain > LARGE_LAST_GAIN:
        yield f"the last refine pass still gained {gain:.1%}: raise refine_iterations"
    if report.domain_error_spread is not None and report.domain_error_spread > WORST_TO_MEDIAN:
        worst = report.domains[0]
        yield (
            f"{worst.domain}: error {report.domain_error_spread:.1f} times the median domain's; "
            "fit on more frames like these"
        )
    if report.channels.lost:
        yield f"{report.channels.lost} of {report.dim} channels decode no better than their mean; use more codebooks"


def _of_usage(report: QuantizerReport) -> Iterator[str]:
    entries = report.num_codebooks * report.codebook_size
    if report.usage_frames < FRAMES_PER_ENTRY * report.codebook_size:
        yield (
            f"only {report.usage_frames} frames to count {report.codebook_size} entries a codebook on: "
            "entropy and dead entries say little; hand in more fitted frames"
        )
        return
    if report.dead_entries > report.dead_entries_by_chance + DEAD_SHARE * entries:
        yield f"{report.dead_entries} of {entries} entries are dead; raise entropy_scale or fit longer"
    if report.bits_per_frame < USED_BITS_SHARE * report.bits_per_frame_nominal:
        yield (
            f"{report.bits_per_frame:.1f} of {report.bits_per_frame_nominal} bits are used: "
            "entries are chosen unevenly; raise entropy_scale or fit longer"
        )
    shared = report.redundancy
    if shared is not None and shared.largest > LARGE_REDUNDANCY:
        pair = next(
            (first, second)
            for first, row in enumerate(shared.matrix)
            for second, value in enumerate(row)
            if first < second and value == shared.largest
        )
        yield f"codebooks {pair[0]} and {pair[1]} share {shared.largest:.0%} of their information; fit longer"
