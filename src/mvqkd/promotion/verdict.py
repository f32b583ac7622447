"""What a judgement consists of: rows of checks, and the decision that follows from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "fail", "skip"]
Outcome = Literal["promote", "reject"]
Figure = float | str | None

# Sums of decimal WERs are not exact in binary: 0.295 + 0.005 must allow 0.3.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One row of the verdict. ``skip``: the check does not apply or cannot be made, and ``why`` says so."""

    name: str
    figure: Figure
    threshold: Figure
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class Decision:
    """The verdict, its reason in one line, every row behind it, and the comparison with the champion in figures.

    ``comparison`` maps a test set to its paired figures; ``slices`` has a record a slice of the set of record.
    """

    decision: Outcome
    reason: str
    checks: tuple[Check, ...]
    comparison: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: tuple[Mapping[str, Any], ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.verdict == "fail")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a figure that is no finite number becomes its name (``nan``, ``inf``)."""
        record: dict[str, Any] = _plain(dataclasses.asdict(self))
        return record


def check(name: str, figure: Figure, threshold: Figure, *, holds: bool, why: str) -> Check:
    """A row that passes or fails."""
    return Check(name, figure, threshold, "pass" if holds else "fail", why)


def skipped(name: str, why: str, *, figure: Figure = None, threshold: Figure = None) -> Check:
    """A row that neither passes nor fails."""
    return Check(name, figure, threshold, "skip", why)


def usable(figure: float | None) -> bool:
    """Whether a figure is a finite number of 0 or more."""
    return figure is not None and math.isfinite(figure) and figure >= 0


def percent(share: float) -> str:
    """A rate as people read it: ``28.10 %``."""
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    """A difference of two rates: ``0.50 points``."""
    return f"{100 * difference:.2f} points"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
