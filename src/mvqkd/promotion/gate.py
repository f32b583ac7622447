"""The gate: should this bundle become the champion? A pure function over small records; no files, no registry.

Every check is a row that a reviewer can read: figure, threshold, verdict and why. One failed row rejects.
A comparison that would not be fair (another test set, another text normaliser) is refused, never guessed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mvqkd.config import GateConfig

Verdict = Literal["pass", "fail", "skip"]
Outcome = Literal["promote", "reject"]

# Sums of decimal WERs are not exact in binary: 0.295 + 0.005 must allow 0.3.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Candidate:
    """What the gate knows of one bundle. The WER is that of what ships: the ONNX bundle's own row.

    ``wer`` is a share of words (0.25 = 25 %), None when the report has no such row. ``parity_ok`` is None when
    the bundle carries no parity verdict. ``quantizer_error`` is the held-out relative reconstruction error, None
    when the student was made without a quantizer. ``other_wers`` has the WER on further test sets by their names.
    """

    bundle_id: str
    wer: float | None
    num_utterances: int
    test_set_sha256: str
    text_normalizer: str
    parity_ok: bool | None
    quantizer_error: float | None = None
    other_wers: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One row of the verdict. ``skip``: the check does not apply, and ``why`` says so."""

    name: str
    figure: float | str | None
    threshold: float | str | None
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Decision:
    """The verdict, its reason in one line, and every row behind it."""

    decision: Outcome
    reason: str
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a figure that is no finite number becomes its name (``nan``, ``inf``)."""
        record = dataclasses.asdict(self)
        record["checks"] = [{key: _plain(value) for key, value in row.items()} for row in record["checks"]]
        return record


def decide(challenger: Candidate, champion: Candidate | None, config: GateConfig) -> Decision:
    """Judge a challenger against absolute bounds and, where there is one, the champion.

    Args:
        challenger: the bundle under judgement.
        champion: the bundle to beat; None when there is no champion yet. The same bundle as the challenger
            compares equal.
        config: thresholds.
    Returns:
        ``promote`` when no check fails, else ``reject``.
    """
    checks = [check(challenger, config) for check in _ABSOLUTE_CHECKS]
    checks += [_within(f"absolute WER, {name}", wer, config) for name, wer in challenger.other_wers.items()]
    checks += _comparison(challenger, champion, config)
    failed = [check for check in checks if check.verdict == "fail"]
    if failed:
        more = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
        return Decision("reject", f"{failed[0].name}: {failed[0].why}{more}", tuple(checks))
    return Decision("promote", checks[-1].why, tuple(checks))


def _enough_utterances(challenger: Candidate, config: GateConfig) -> Check:
    figure, threshold = challenger.num_utterances, config.min_test_utterances
    if figure >= threshold:
        return Check("test utterances", figure, threshold, "pass", f"{figure} utterances, at least {threshold} needed")
    why = f"{figure} utterances say too little about a WER, {threshold} needed"
    return Check("test utterances", figure, threshold, "fail", why)


def _wer_is_a_number(challenger: Candidate, config: GateConfig) -> Check:
    name, threshold = "WER is finite", "finite, 0 or more"
    if challenger.wer is None:
        return Check(name, None, threshold, "fail", "the bundle's report has no WER of the ONNX bundle")
    if not math.isfinite(challenger.wer) or challenger.wer < 0:
        return Check(name, challenger.wer, threshold, "fail", f"the WER of record is {challenger.wer}")
    return Check(name, challenger.wer, threshold, "pass", f"the WER of record is {_percent(challenger.wer)}")


def _wer_bound(challenger: Candidate, config: GateConfig) -> Check:
    return _within("absolute WER", challenger.wer, config)


def _within(name: str, wer: float | None, config: GateConfig) -> Check:
    threshold = config.max_wer
    if not _usable(wer):
        return Check(name, wer, threshold, "fail", "without a WER there is nothing to bound")
    assert wer is not None
    if wer <= threshold + _ROUNDING:
        return Check(name, wer, threshold, "pass", f"{_percent(wer)} is within {_percent(threshold)}")
    return Check(name, wer, threshold, "fail", f"{_percent(wer)} is above {_percent(threshold)}")


def _parity(challenger: Candidate, config: GateConfig) -> Check:
    name, threshold = "ONNX parity", "ok"
    if challenger.parity_ok is None:
        return Check(name, None, threshold, "fail", "the bundle carries no parity verdict")
    if challenger.parity_ok:
        return Check(name, "ok", threshold, "pass", "the exported graphs compute what the student computes")
    return Check(name, "not ok", threshold, "fail", "the exported graphs do not compute what the student computes")


def _quantizer_bound(challenger: Candidate, config: GateConfig) -> Check:
    name, figure, threshold = "quantizer error", challenger.quantizer_error, config.max_quantizer_error
    if figure is None:
        return Check(name, None, threshold, "skip", "the student was made without a quantizer")
    if _usable(figure) and figure <= threshold + _ROUNDING:
        return Check(name, figure, threshold, "pass", f"relative error {figure:.3f}, at most {threshold:g}")
    why = f"relative error {figure:.3f}, at most {threshold:g}: its indexes say too little about the teacher"
    return Check(name, figure, threshold, "fail", why)


_ABSOLUTE_CHECKS: tuple[Callable[[Candidate, GateConfig], Check], ...] = (
    _enough_utterances,
    _wer_is_a_number,
    _wer_bound,
    _parity,
    _quantizer_bound,
)


def _comparison(challenger: Candidate, champion: Candidate | None, config: GateConfig) -> list[Check]:
    name = "WER against champion"
    if champion is None:
        why = "first champion: all absolute checks hold and there is none to beat"
        return [Check(name, challenger.wer, None, "skip", why)]
    if champion.bundle_id == challenger.bundle_id:
        return [Check(name, challenger.wer, champion.wer, "pass", "the challenger is the champion itself")]
    same_set = _same(
        "same test set", challenger.test_set_sha256, champion.test_set_sha256, "score both bundles on one test set"
    )
    same_normalizer = _same(
        "same text normaliser", challenger.text_normalizer, champion.text_normalizer, "score both with one normaliser"
    )
    rows = [same_set, same_normalizer]
    if any(row.verdict == "fail" for row in rows):
        why = "refused: WERs of different test sets or normalisers do not compare"
        return [*rows, Check(name, challenger.wer, champion.wer, "fail", why)]
    if not _usable(challenger.wer) or not _usable(champion.wer):
        whose = "champion" if _usable(challenger.wer) else "challenger"
        return [*rows, Check(name, challenger.wer, champion.wer, "fail", f"refused: the {whose} has no usable WER")]
    assert challenger.wer is not None
    assert champion.wer is not None
    threshold = champion.wer + config.tolerance
    holds = challenger.wer <= threshold + _ROUNDING
    why = (
        f"{_percent(challenger.wer)} {'is within' if holds else 'is worse than'} the champion's "
        f"{_percent(champion.wer)} + tolerance {_percent(config.tolerance)}"
    )
    return [*rows, Check(name, challenger.wer, threshold, "pass" if holds else "fail", why)]


def _same(name: str, challenger: str, champion: str, remedy: str) -> Check:
    # An empty digest or name identifies nothing, so two of them are not "the same".
    if challenger and challenger == champion:
        return Check(name, challenger, champion, "pass", "challenger and champion were scored alike")
    why = f"challenger {challenger[:16] or 'unknown'}, champion {champion[:16] or 'unknown'}: {remedy}"
    return Check(name, challenger, champion, "fail", why)


def _usable(figure: float | None) -> bool:
    return figure is not None and math.isfinite(figure) and figure >= 0


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
