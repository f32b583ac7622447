"""Why the champion should change: a lower WER, or the same WER for less."""

from __future__ import annotations

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Costs
from mvqkd.promotion.paired import Comparison
from mvqkd.promotion.significance import words_for_equality
from mvqkd.promotion.verdict import ROUNDING, Check, check, percent, points, skipped

EQUAL, CHEAPER = "equal to champion", "cheaper than champion"


def merit(result: Comparison, challenger: Costs, champion: Costs, config: GateConfig) -> tuple[list[Check], str]:
    """Rows, and the reason to promote if none of them fails.

    Both tests of a lower WER must agree: the bootstrap answers the question that is asked, and the exact test is right
    also where few utterances differ and the bootstrap is too sure of itself.
    """
    wins = [_by_bootstrap(result, config), _by_exact_test(result, config)]
    if all(row.verdict == "pass" for row in wins):
        why = (
            f"better than the champion: {percent(result.challenger_wer)} against {percent(result.champion_wer)}, "
            f"lower with probability {percent(result.bootstrap.probability_better)}"
        )
        return [*wins, skipped(EQUAL, "it is better"), skipped(CHEAPER, "it is better")], why
    equal = _equal(result, config)
    if equal.verdict == "fail":
        return [*wins, equal, skipped(CHEAPER, "being cheaper counts between equals only")], equal.why
    cheaper = _cheaper(challenger, champion, config, _not_better(result))
    why = f"as good as the champion within {points(config.equal_margin)}, and cheaper: {cheaper.why}"
    return [*wins, equal, cheaper], why


def _by_bootstrap(result: Comparison, config: GateConfig) -> Check:
    figure, threshold = result.bootstrap.probability_better, config.min_probability
    why = f"its WER is lower in {percent(figure)} of resampled test sets, {percent(threshold)} needed"
    return _win("lower WER, bootstrap", figure, threshold, figure >= threshold, why)


def _by_exact_test(result: Comparison, config: GateConfig) -> Check:
    figure, threshold = result.p_value, 1 - config.min_probability
    why = f"of models that are equal {percent(figure)} look so much better by chance, at most {percent(threshold)} may"
    return _win("lower WER, exact test", figure, threshold, figure <= threshold + ROUNDING, why)


def _win(name: str, figure: float, threshold: float, holds: bool, why: str) -> Check:
    # Not shown is no failure yet: the challenger may still be equal and cheaper.
    if holds:
        return check(name, figure, threshold, holds=True, why=why)
    return skipped(name, f"not shown, so it must be equal and cheaper: {why}", figure=figure, threshold=threshold)


def _equal(result: Comparison, config: GateConfig) -> Check:
    margin, needed, figure = config.equal_margin, config.min_probability, result.bootstrap.probability_within
    words = words_for_equality(margin, needed)
    not_equal = f"{_not_better(result)}, nor to be equal: "
    if result.num_words < words:
        why = f"{not_equal}{result.num_words} words cannot show {points(margin)}, {words:,.0f} can"
        return check(EQUAL, figure, needed, holds=False, why=why)
    holds = figure >= needed
    why = f"at most {points(margin)} worse in {percent(figure)} of resampled test sets, {percent(needed)} needed"
    return check(EQUAL, figure, needed, holds=holds, why=why if holds else not_equal + why)


def _not_better(result: Comparison) -> str:
    return (
        f"not shown to be better (its WER is lower in {percent(result.bootstrap.probability_better)} of resampled test "
        f"sets, and by chance in {percent(result.p_value)} of equal models)"
    )


def _cheaper(challenger: Costs, champion: Costs, config: GateConfig, not_better: str) -> Check:
    """One cost falls by a share worth a change, and the other does not rise by as much."""
    threshold = f"one {-config.min_saving:.0%}, none {config.min_saving:+.0%}"
    if challenger.graphs and challenger.graphs == champion.graphs:
        return check(CHEAPER, "same graphs", threshold, holds=False, why="equal: its graphs are the champion's")
    costs = {"graphs": (challenger.graph_bytes, champion.graph_bytes), "RTF": (challenger.rtf, champion.rtf)}
    rise = {what: ours / theirs - 1 for what, (ours, theirs) in costs.items() if ours is not None and theirs}
    if not rise:
        why = f"{not_better}, and the bundles do not state what both cost"
        return check(CHEAPER, None, threshold, holds=False, why=why)
    shown = ", ".join(f"{what} {share:+.1%}" for what, share in rise.items())
    saves = any(share <= -config.min_saving + ROUNDING for share in rise.values())
    holds = saves and all(share < config.min_saving - ROUNDING for share in rise.values())
    why = shown if holds else f"{not_better}, and equal, but no cheaper: {shown}"
    return check(CHEAPER, shown, threshold, holds=holds, why=why)
