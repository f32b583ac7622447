"""Checks of a challenger by itself: no champion is needed for them, and none can excuse a failure."""

from __future__ import annotations

from collections.abc import Iterator

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate
from mvqkd.promotion.verdict import ROUNDING, Check, check, percent, points, skipped, usable


def absolute_checks(challenger: Candidate, config: GateConfig) -> Iterator[Check]:
    """Every row, in the order in which the first that fails becomes the reason."""
    yield _enough_utterances(challenger, config)
    yield _wer_is_a_number(challenger)
    yield from _wer_bounds(challenger, config)
    yield _parity(challenger)
    yield _quantizer_bound(challenger, config)
    yield _streaming_gap(challenger, config)
    yield _latency_bound(challenger, config)
    yield _rtf_bound(challenger, config)
    yield _size_bound(challenger, config)


def _enough_utterances(challenger: Candidate, config: GateConfig) -> Check:
    figure, threshold = challenger.scores.num_utterances, config.min_test_utterances
    holds = figure >= threshold
    why = (
        f"{figure} utterances, at least {threshold} needed"
        if holds
        else f"{figure} utterances say too little about a WER, {threshold} needed"
    )
    return check("test utterances", figure, threshold, holds=holds, why=why)


def _wer_is_a_number(challenger: Candidate) -> Check:
    name, threshold, wer = "WER is finite", "finite, 0 or more", challenger.scores.wer
    if wer is None:
        return check(name, None, threshold, holds=False, why="the bundle's report has no WER of the ONNX bundle")
    shown = percent(wer) if usable(wer) else str(wer)
    return check(name, wer, threshold, holds=usable(wer), why=f"the WER of record is {shown}")


def _wer_bounds(challenger: Candidate, config: GateConfig) -> Iterator[Check]:
    """A row a test set; also one for a bound on a set that was not scored, which must not pass by being absent."""
    record = challenger.scores
    yield _within("absolute WER", record.wer, config.max_wer_by_split.get(record.test_set, config.max_wer))
    for name, scores in sorted(challenger.others.items()):
        yield _within(f"absolute WER, {name}", scores.wer, config.max_wer_by_split.get(name, config.max_wer))
    for name, bound in sorted(config.max_wer_by_split.items()):
        if name != record.test_set and name not in challenger.others:
            why = "max_wer_by_split bounds it, and no report of it was given"
            yield check(f"absolute WER, {name}", None, bound, holds=False, why=why)


def _within(name: str, wer: float | None, threshold: float) -> Check:
    if wer is None or not usable(wer):
        return check(name, wer, threshold, holds=False, why="without a WER there is nothing to bound")
    holds = wer <= threshold + ROUNDING
    why = f"{percent(wer)} {'is within' if holds else 'is above'} {percent(threshold)}"
    return check(name, wer, threshold, holds=holds, why=why)


def _parity(challenger: Candidate) -> Check:
    name, threshold = "ONNX parity", "ok"
    if challenger.parity_ok is None:
        return check(name, None, threshold, holds=False, why="the bundle carries no parity verdict")
    if challenger.parity_ok:
        return check(name, "ok", threshold, holds=True, why="the exported graphs compute what the student computes")
    why = "the exported graphs do not compute what the student computes"
    return check(name, "not ok", threshold, holds=False, why=why)


def _quantizer_bound(challenger: Candidate, config: GateConfig) -> Check:
    name, figure, threshold = "quantizer error", challenger.quantizer_error, config.max_quantizer_error
    if figure is None:
        return skipped(name, "the student was made without a quantizer", threshold=threshold)
    holds = usable(figure) and figure <= threshold + ROUNDING
    why = f"relative error {figure:.3f}, at most {threshold:g}"
    return check(
        name,
        figure,
        threshold,
        holds=holds,
        why=why if holds else f"{why}: its indexes say too little about the teacher",
    )


def _streaming_gap(challenger: Candidate, config: GateConfig) -> Check:
    name, offline, streaming = "streaming gap", challenger.scores.wer, challenger.streaming_wer
    if not challenger.streams:
        return skipped(name, "the bundle has no graphs that stream")
    if streaming is None or offline is None or not usable(streaming) or not usable(offline):
        return check(name, None, None, holds=False, why="the bundle streams, but its report does not say how well")
    # A share of almost nothing is nothing: what is within the tolerance is never a gap.
    gap, threshold = streaming - offline, max(config.max_streaming_gap * offline, config.tolerance)
    holds = gap <= threshold + ROUNDING
    why = (
        f"streaming {percent(streaming)}, offline {percent(offline)}: {points(gap)} "
        f"{'are within' if holds else 'are more than'} {points(threshold)}"
    )
    return check(name, gap, threshold, holds=holds, why=why)


def _latency_bound(challenger: Candidate, config: GateConfig) -> Check:
    name, figure, threshold = "streaming latency", challenger.costs.latency_s, config.max_latency_s
    if not challenger.streams:
        return skipped(name, "the bundle has no graphs that stream", threshold=threshold)
    if figure is None or not usable(figure):
        why = "the bundle streams, but does not state its latency"
        return check(name, figure, threshold, holds=False, why=why)
    why = f"its chunks delay the text by {figure:.3g} s, at most {threshold:g} s"
    return check(name, figure, threshold, holds=figure <= threshold + ROUNDING, why=why)


def _rtf_bound(challenger: Candidate, config: GateConfig) -> Check:
    name, figure, threshold = "real-time factor", challenger.costs.rtf, config.max_rtf
    if threshold is None:
        # Not even the figure: it differs from run to run, and what does not decide must not change a decision's id.
        return skipped(name, "no bound is set (max_rtf); the figure stands beside the decision")
    if figure is None or not usable(figure):
        return check(name, figure, threshold, holds=False, why="the bundle does not state it")
    why = f"{figure:.3g} s of computing a second of speech, at most {threshold:g}"
    return check(name, figure, threshold, holds=figure <= threshold + ROUNDING, why=why)


def _size_bound(challenger: Candidate, config: GateConfig) -> Check:
    name, figure, threshold = "bundle size", challenger.costs.bundle_bytes, config.max_bundle_bytes
    if threshold is None:
        return skipped(name, "no bound is set (max_bundle_bytes)", figure=figure)
    if figure is None:
        return check(name, None, threshold, holds=False, why="the bundle's size is unknown")
    return check(name, figure, threshold, holds=figure <= threshold, why=f"{figure:,} bytes, at most {threshold:,}")
