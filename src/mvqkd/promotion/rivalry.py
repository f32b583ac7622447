"""Checks of a challenger against the champion: a fair comparison, no set and no slice worse, and a reason to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate, Scores
from mvqkd.promotion.merit import merit
from mvqkd.promotion.paired import Comparison, Pairs, Slice, compare, pair, slices
from mvqkd.promotion.verdict import ROUNDING, Check, check, percent, points, skipped, usable

AGAINST = "WER against champion"


@dataclass(frozen=True)
class Rivalry:
    """Rows against the champion, the reason to promote if none fails, and the figures behind both."""

    checks: tuple[Check, ...]
    reason: str
    comparison: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slices: tuple[Mapping[str, Any], ...] = ()


def rivalry(challenger: Candidate, champion: Candidate | None, config: GateConfig) -> Rivalry:
    """Compare with the champion; the same bundle compares equal, and without a champion there is nothing to beat."""
    wer = challenger.scores.wer
    if champion is None:
        why = "first champion: all absolute checks hold and there is none to beat"
        return Rivalry((skipped(AGAINST, why, figure=wer),), why)
    if champion.bundle_id == challenger.bundle_id:
        why = "the challenger is the champion itself"
        return Rivalry((check(AGAINST, wer, champion.scores.wer, holds=True, why=why),), why)
    alike = _alike(challenger.scores, champion.scores)
    pairs = _fair_pairs(challenger.scores, champion.scores, alike)
    if isinstance(pairs, str):
        row = check(AGAINST, wer, champion.scores.wer, holds=False, why=pairs)
        return Rivalry((*alike, row), pairs)

    name = challenger.scores.test_set
    compared = {name: compare(pairs, config)}
    rows = [*alike, _not_worse(name, compared[name].challenger_wer, compared[name].champion_wer, config)]
    for other, scores in sorted(challenger.others.items()):
        row, result = _further_set(other, scores, champion.others.get(other), config)
        rows.append(row)
        compared |= {other: result} if result is not None else {}
    by_slice = slices(pairs, config.min_slice_words)
    rows += _slice_checks(by_slice, pairs, config)
    merits, reason = merit(compared[name], challenger.costs, champion.costs, config)
    settings = {"resamples": config.bootstrap_samples, "seed": config.seed, "margin": config.equal_margin}
    return Rivalry(
        (*rows, *merits),
        reason,
        {test_set: result.to_json() | settings for test_set, result in compared.items()},
        tuple(dataclasses.asdict(part) for part in by_slice),
    )


def _alike(challenger: Scores, champion: Scores) -> list[Check]:
    return [
        _same(
            "same test set",
            challenger.test_set_sha256,
            champion.test_set_sha256,
            "score both bundles on one test set",
        ),
        _same(
            "same text normaliser",
            challenger.text_normalizer,
            champion.text_normalizer,
            "score both with one normaliser",
        ),
    ]


def _same(name: str, challenger: str, champion: str, remedy: str) -> Check:
    # An empty digest or name identifies nothing, so two of them are not "the same".
    if challenger and challenger == champion:
        return check(name, challenger, champion, holds=True, why="challenger and champion were scored alike")
    why = f"challenger {challenger[:16] or 'unknown'}, champion {champion[:16] or 'unknown'}: {remedy}"
    return check(name, challenger, champion, holds=False, why=why)


def _fair_pairs(challenger: Scores, champion: Scores, alike: list[Check]) -> Pairs | str:
    """Both systems utterance by utterance, or why they do not compare."""
    if any(row.verdict == "fail" for row in alike):
        return "refused: WERs of different test sets or normalisers do not compare"
    for whose, scores in (("challenger", challenger), ("champion", champion)):
        if not usable(scores.wer):
            return f"refused: the {whose} has no usable WER"
    found = pair(challenger, champion)
    return "refused: the reports do not list the same utterances and references" if found is None else found


def _not_worse(test_set: str, wer: float, champion_wer: float, config: GateConfig) -> Check:
    difference = wer - champion_wer
    holds = difference <= config.tolerance + ROUNDING
    why = (
        f"{percent(wer)} {'is within' if holds else 'is worse than'} the champion's {percent(champion_wer)} "
        f"+ tolerance {points(config.tolerance)}"
    )
    return check(f"not worse, {test_set}", difference, config.tolerance, holds=holds, why=why)


def _further_set(
    name: str, challenger: Scores, champion: Scores | None, config: GateConfig
) -> tuple[Check, Comparison | None]:
    """A bundle is scored on one set alone; on others the champion is known only by reports that were given."""
    row = f"not worse, {name}"
    if champion is None:
        return skipped(row, "no report of the champion's student on this set was given: it keeps its bound alone"), None
    pairs = _fair_pairs(challenger, champion, _alike(challenger, champion))
    if isinstance(pairs, str):
        return check(row, challenger.wer, champion.wer, holds=False, why=pairs), None
    result = compare(pairs, config)
    return _not_worse(name, result.challenger_wer, result.champion_wer, config), result


def _slice_checks(found: list[Slice], pairs: Pairs, config: GateConfig) -> Iterator[Check]:
    """A row a way of slicing. A slice fails when it is worse by more than the bound and chance does not explain it.

    Of twenty slices one looks bad by chance alone, so chance is shared out among all slices that are tested.
    """
    tested = [part for part in found if part.p_worse is not None]
    chance = (1 - config.min_probability) / max(1, len(tested))
    for kind in ("speaker", "length"):
        name = f"slices by {kind}"
        mine = [part for part in tested if part.kind == kind]
        if not mine:
            unknown = kind == "speaker" and all(speaker is None for speaker in pairs.speakers)
            why = (
                "the reports name no speakers"
                if unknown
                else f"fewer than two slices, or none with {config.min_slice_words} words"
            )
            yield skipped(name, why, threshold=config.max_slice_regression)
            continue
        bad = [part for part in mine if part.difference > config.max_slice_regression + ROUNDING]
        sure = [part for part in bad if part.p_worse is not None and part.p_worse <= chance]
        worst = max(sure or mine, key=lambda part: (part.difference, part.name))
        shown = (
            f"{worst.name}: {percent(worst.challenger_wer)} against the champion's {percent(worst.champion_wer)} "
            f"on {worst.num_words} words"
        )
        if sure:
            why = f"{len(sure)} of {len(mine)} slices are worse by more than chance explains; {shown}"
        elif bad:
            why = f"chance explains it (p {worst.p_worse:.3g}, {chance:.2g} would be evidence); {shown}"
        else:
            why = f"of {len(mine)} slices the worst is {shown}"
        yield check(name, worst.difference, config.max_slice_regression, holds=not sure, why=why)
