"""Is what arrives still what the models were made for? Errors and codes of the quantizer, and WER where there is text.

A difference is drift if chance hardly explains it *and* it is large enough to matter: with enough audio everything
differs by something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mvqkd.errors import DataError
from mvqkd.quantizer.drift import Compared, Errors, Usage, compare_errors, compare_usage, divergence, joined
from mvqkd.report.baseline import Baseline
from mvqkd.report.listening import Heap, listen_to
from mvqkd.report.recordings import Recording
from mvqkd.report.word_drift import WordDrift, compare_words

NUM_WORST = 5


@dataclass(frozen=True)
class Limits:
    """What counts as drift, and how sure one must be; ``mvqkd monitor`` has a flag and a reason for each."""

    max_false_alarms: float = 0.01
    max_error_change: float = 0.07
    max_usage_divergence: float = 0.02
    max_wer_increase: float = 0.02
    min_recordings: int = 25
    max_unreadable_share: float = 0.1
    max_audio_s: float = 3600.0
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        change: what is held against ``limit``; of the error a share, else a difference.
        unlikely: whether chance alone hardly gives such a change.
        chance: its probability; None of the WER, which has an interval instead.
        detectable: the least change that so much audio can show; ``noticed`` says it in words.
    """

    name: str
    figure: float
    reference: float
    change: float
    limit: float
    unlikely: bool
    chance: float | None
    detectable: float
    noticed: str
    why: str

    @property
    def verdict(self) -> Literal["fine", "drift"]:
        return "drift" if self.unlikely and abs(self.change) > self.limit else "fine"

    @property
    def explanation(self) -> str:
        """Why, and what a verdict of no drift is worth: nothing found is no proof where little could be found."""
        if self.verdict == "drift" or self.detectable <= self.limit:
            return self.why
        return f"{self.why}; too little audio to notice less than {self.noticed}"


@dataclass(frozen=True)
class Monitored:
    """The outcome: every check, what it was made of, and the recordings least like the fitting data."""

    checks: list[Check]
    recordings: int
    pieces: int
    duration_s: float
    unreadable: list[str]
    divergence_by_codebook: list[float]
    worst: list[dict[str, Any]]
    baseline: dict[str, Any]
    limits: Limits

    @property
    def drift(self) -> bool:
        return any(check.verdict == "drift" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        record = {"drift": self.drift, **asdict(self)}
        for check, row in zip(self.checks, record["checks"], strict=True):
            del row["noticed"]
            row |= {"verdict": check.verdict, "why": check.explanation}
        return record

    def metrics(self) -> dict[str, float]:
        """In single numbers, for a metrics page."""
        numbers: dict[str, float] = {"drift": float(self.drift)}
        for check in self.checks:
            name = check.name.replace(" ", "_").lower()
            numbers |= {name: check.figure, f"{name}_reference": check.reference, f"{name}_change": check.change}
        return numbers | {"recordings": float(self.recordings), "duration_s": self.duration_s}


def monitor(
    recordings: Iterable[Recording], baseline: Baseline, limits: Limits, *, bundle: Path | None = None
) -> Monitored:
    """Listen to new audio and compare it with what the quantizer was fitted on.

    Args:
        recordings: in random order, where there is more than ``limits.max_audio_s``. What cannot be read is left out
            and named.
        bundle: onnx-bundle that hears those which have a text; None: WER is not looked at.
    Raises:
        DataError: too few recordings to tell, or too many that cannot be read.
        ArtifactError: the bundle has no report to compare with.
    """
    return judged(listen_to(recordings, baseline, bundle, limits.max_audio_s), baseline, limits, bundle=bundle)


def judged(heap: Heap, baseline: Baseline, limits: Limits, *, bundle: Path | None = None) -> Monitored:
    """Compare what was heard with what the quantizer was fitted on.

    Args:
        bundle: the one that has heard the recordings with a text.
    Raises:
        DataError, ArtifactError: as for ``monitor``.
    """
    _refuse_too_little(heap, limits)
    usage, errors = joined(heap.pieces, baseline.quantizer.codebook_size)
    return Monitored(
        checks=list(_checks(heap, usage, errors, baseline, limits, bundle)),
        recordings=heap.recordings,
        pieces=len(heap.pieces),
        duration_s=round(heap.duration_s, 1),
        unreadable=heap.unreadable,
        divergence_by_codebook=[round(b, 5) for b in divergence(usage.counts(), baseline.usage.counts()).tolist()],
        worst=_worst(heap),
        baseline=baseline.described(),
        limits=limits,
    )


def _checks(
    heap: Heap, usage: Usage, errors: Errors, baseline: Baseline, limits: Limits, bundle: Path | None
) -> Iterator[Check]:
    # Each of several checks may sound a false alarm; together they may as often as one is asked to.
    significance = limits.max_false_alarms / (3 if heap.words else 2)
    draws = {"resamples": limits.resamples, "seed": limits.seed}
    found = compare_errors(errors, baseline.errors, significance=significance, **draws)
    yield _error_check(found, limits.max_error_change, significance)
    found = compare_usage(usage, baseline.usage, significance=significance, **draws)
    yield _usage_check(found, limits.max_usage_divergence, significance)
    if heap.words and bundle is not None:
        yield _word_check(compare_words(heap.words, bundle, significance, limits.seed), limits.max_wer_increase)


def _error_check(found: Compared, limit: float, significance: float) -> Check:
    # Of a codec without any error nothing is a share.
    scale = found.reference or 1.0
    change = found.change / scale
    return Check(
        name="relative error",
        figure=found.figure,
        reference=found.reference,
        change=change,
        limit=limit,
        unlikely=found.chance <= significance,
        chance=found.chance,
        detectable=found.detectable / scale,
        noticed=f"{found.detectable / scale:.1%}",
        why=f"{found.figure:.3f}, {change:+.1%} against {found.reference:.3f} of held-out fitting data",
    )


def _usage_check(found: Compared, limit: float, significance: float) -> Check:
    return Check(
        name="usage divergence",
        figure=found.figure,
        reference=found.reference,
        # Less than chance gives is not less than nothing.
        change=max(0.0, found.change),
        limit=limit,
        unlikely=found.chance <= significance,
        chance=found.chance,
        detectable=found.detectable,
        noticed=f"{found.detectable:.3f} bits beyond that",
        why=f"{found.figure:.4f} bits from the use of entries in the fitting data; chance alone: {found.reference:.4f}",
    )


def _word_check(found: WordDrift, limit: float) -> Check:
    return Check(
        name="WER",
        figure=found.wer,
        reference=found.wer_of_record,
        # Better than of record is no alarm.
        change=max(0.0, found.increase),
        limit=limit,
        unlikely=found.low > 0,
        chance=None,
        detectable=found.detectable,
        noticed=f"{100 * found.detectable:.1f} points more",
        why=f"{found.wer:.1%} on {found.num_words:,} words, {100 * found.increase:+.1f} points against "
        f"{found.wer_of_record:.1%} of record",
    )


def _refuse_too_little(heap: Heap, limits: Limits) -> None:
    total = heap.recordings + len(heap.unreadable)
    if len(heap.unreadable) > limits.max_unreadable_share * total:
        raise DataError(
            f"monitor: {total} recordings",
            expected=f"at most {limits.max_unreadable_share:.0%} that cannot be read",
            got=f"{len(heap.unreadable)}, the first: {heap.unreadable[0]}",
            next_step="mend or remove them, or raise --max-unreadable-share",
        )
    if heap.recordings < max(1, limits.min_recordings):
        raise DataError(
            f"monitor: {total} recordings",
            expected=f"at least {limits.min_recordings}, to tell a change from chance",
            got=f"{heap.recordings} that can be read",
            next_step="collect more, or lower --min-recordings",
        )


def _worst(heap: Heap) -> list[dict[str, Any]]:
    """Recordings of the largest relative errors."""
    sums: dict[str, list[float]] = {}
    for owner, (_, errors, variations) in zip(heap.owners, heap.pieces, strict=True):
        row = sums.setdefault(owner, [0.0, 0.0, 0.0])
        for place, value in enumerate((errors.sum(), variations.sum(), len(errors))):
            row[place] += float(value)
    relative = {owner: error / variation if variation > 0 else 0.0 for owner, (error, variation, _) in sums.items()}
    ranked = sorted(relative, key=lambda owner: (-relative[owner], owner))
    return [
        {"id": owner, "relative_error": round(relative[owner], 4), "frames": int(sums[owner][2])}
        for owner in ranked[:NUM_WORST]
    ]
