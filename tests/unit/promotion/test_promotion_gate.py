"""The gate's whole table: every row can fail, and fails alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate, Scores
from mvqkd.promotion.gate import decide
from mvqkd.promotion.verdict import Check, Decision
from tests.unit.promotion.candidates import GRAPHS, candidate, scores, spread

CONFIG = GateConfig(max_wer=0.5, bootstrap_samples=1_000)
CHAMPION = candidate(300, bundle="d")


def judge(challenger: Candidate | None = None, champion: Candidate | None = None, **config: Any) -> Decision:
    return decide(challenger or candidate(), champion, CONFIG.model_copy(update=config))


def row(decision: Decision, name: str) -> Check:
    (found,) = [check for check in decision.checks if check.name == name]
    return found


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.failed]


def with_scores(errors: int = 300, **changes: Any) -> Candidate:
    """A challenger whose scores say something else than its errors."""
    return candidate(scores=dataclasses.replace(scores(spread(errors)), **changes))


def test_first_champion_needs_the_absolute_checks_only() -> None:
    decision = judge()
    assert decision.decision == "promote"
    assert row(decision, "WER against champion").verdict == "skip"
    assert "none to beat" in decision.reason
    assert decision.comparison == {}


STREAMING = {"streams": True, "streaming_wer": 0.33}


@pytest.mark.parametrize(
    ("changes", "config", "failing"),
    [
        ({"scores": scores(spread(6, 19))}, {}, "test utterances"),
        ({"scores": scores(spread(300), wer=0.51)}, {}, "absolute WER"),
        ({}, {"max_wer_by_split": {"test": 0.2}}, "absolute WER"),
        ({"others": {"far": scores(spread(600), test_set="far")}}, {}, "absolute WER, far"),
        (
            {"others": {"far": scores(spread(300), test_set="far")}},
            {"max_wer_by_split": {"far": 0.2}},
            "absolute WER, far",
        ),
        ({"others": {"far": scores([1], test_set="far", wer=None)}}, {}, "absolute WER, far"),
        ({}, {"max_wer_by_split": {"far": 0.2}}, "absolute WER, far"),
        ({"parity_ok": False}, {}, "ONNX parity"),
        ({"parity_ok": None}, {}, "ONNX parity"),
        ({"quantizer_error": 0.81}, {}, "quantizer error"),
        ({"quantizer_error": math.nan}, {}, "quantizer error"),
        ({"quantizer_error": math.inf}, {}, "quantizer error"),
        (STREAMING | {"streaming_wer": 0.46}, {}, "streaming gap"),
        (STREAMING | {"streaming_wer": None}, {}, "streaming gap"),
        (STREAMING | {"streaming_wer": math.nan}, {}, "streaming gap"),
        (STREAMING, {"max_streaming_gap": 0.05}, "streaming gap"),
        (STREAMING | {"costs": dataclasses.replace(GRAPHS, latency_s=2.1)}, {}, "streaming latency"),
        (STREAMING | {"costs": dataclasses.replace(GRAPHS, latency_s=None)}, {}, "streaming latency"),
        ({}, {"max_rtf": 0.01}, "real-time factor"),
        ({"costs": dataclasses.replace(GRAPHS, rtf=None)}, {"max_rtf": 1.0}, "real-time factor"),
        ({"costs": dataclasses.replace(GRAPHS, rtf=math.nan)}, {"max_rtf": 1.0}, "real-time factor"),
        ({}, {"max_bundle_bytes": 2_999}, "bundle size"),
        ({"costs": dataclasses.replace(GRAPHS, bundle_bytes=None)}, {"max_bundle_bytes": 5_000}, "bundle size"),
    ],
)
def test_each_absolute_check_rejects_alone(changes: dict[str, Any], config: dict[str, Any], failing: str) -> None:
    decision = judge(candidate(**changes), **config)
    assert decision.decision == "reject"
    assert failed(decision) == [failing]
    assert decision.reason.startswith(f"{failing}: ")
    # And whatever it gains against a champion.
    assert failing in failed(judge(candidate(**changes), CHAMPION, **config))


@pytest.mark.parametrize("wer", [None, math.nan, math.inf, -0.1])
def test_a_wer_that_is_no_rate_rejects_first(wer: float | None) -> None:
    for champion in (None, CHAMPION):
        decision = judge(with_scores(wer=wer), champion)
        assert decision.decision == "reject"
        assert failed(decision)[0] == "WER is finite"


@pytest.mark.parametrize(
    ("changes", "config", "name"),
    [
        ({"scores": scores(spread(6, 20))}, {}, "test utterances"),
        ({"scores": scores(spread(500))}, {}, "absolute WER"),
        ({"scores": scores(spread(600))}, {"max_wer_by_split": {"test": 0.6}}, "absolute WER"),
        ({"quantizer_error": 0.8}, {}, "quantizer error"),
        (STREAMING | {"streaming_wer": 0.45}, {}, "streaming gap"),
        (STREAMING | {"streaming_wer": 0.1}, {}, "streaming gap"),
        (STREAMING | {"costs": dataclasses.replace(GRAPHS, latency_s=2.0)}, {}, "streaming latency"),
        ({}, {"max_rtf": 0.02}, "real-time factor"),
        ({}, {"max_bundle_bytes": 3_000}, "bundle size"),
    ],
)
def test_a_bound_allows_what_meets_it(changes: dict[str, Any], config: dict[str, Any], name: str) -> None:
    decision = judge(candidate(**changes), **config)
    assert decision.decision == "promote"
    assert row(decision, name).verdict == "pass"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"quantizer_error": None}, "quantizer error"),
        ({}, "streaming gap"),
        ({}, "streaming latency"),
        ({}, "real-time factor"),
        ({}, "bundle size"),
    ],
)
def test_what_does_not_apply_is_skipped_with_a_reason(changes: dict[str, Any], name: str) -> None:
    decision = judge(candidate(**changes))
    assert decision.decision == "promote"
    assert row(decision, name).verdict == "skip"
    assert row(decision, name).why


def test_the_machines_speed_stays_out_of_what_it_does_not_decide() -> None:
    fast = judge(candidate(costs=dataclasses.replace(GRAPHS, rtf=0.01)), CHAMPION)
    slow = judge(candidate(costs=dataclasses.replace(GRAPHS, rtf=0.90)), CHAMPION)
    better = candidate(200), candidate(200, costs=dataclasses.replace(GRAPHS, rtf=0.9))
    assert judge(better[0], CHAMPION) == judge(better[1], CHAMPION)
    assert fast.to_json() != slow.to_json(), "of equal models it decides"


def test_no_gap_in_a_test_set_without_errors() -> None:
    perfect = candidate(0, streams=True, streaming_wer=0.004)
    assert row(judge(perfect), "streaming gap").verdict == "pass"
    assert row(judge(dataclasses.replace(perfect, streaming_wer=0.006)), "streaming gap").verdict == "fail"


def test_a_better_challenger_wins() -> None:
    decision = judge(candidate(200), CHAMPION)
    assert decision.decision == "promote"
    assert decision.reason == "better than the champion: 20.00 % against 30.00 %, lower with probability 100.00 %"
    assert row(decision, "lower WER, bootstrap").figure == 1.0
    assert row(decision, "lower WER, exact test").figure == pytest.approx(2.0**-100, abs=1e-9)
    assert decision.comparison["test"]["difference"] == pytest.approx(-0.1)
    assert decision.comparison["test"]["interval_95"] == pytest.approx([-0.1, -0.1])


def test_a_worse_challenger_loses() -> None:
    decision = judge(candidate(400), CHAMPION)
    assert decision.decision == "reject"
    assert decision.reason.startswith("not worse, test: 40.00 % is worse than the champion's 30.00 % + tolerance 0.50")
    assert decision.comparison["test"]["probability_worse"] == 1.0


def test_a_gain_that_may_be_chance_is_not_enough() -> None:
    # Three utterances better and one worse: 0.2 points lower, and a coin would do it in 5 of 16 cases.
    errors = spread(300)
    errors[:4] = [2, 2, 2, 4]
    decision = judge(candidate(errors), CHAMPION)
    assert decision.decision == "reject"
    assert row(decision, "not worse, test").verdict == "pass"
    assert row(decision, "lower WER, exact test").figure == pytest.approx(5 / 16)
    assert row(decision, "lower WER, exact test").verdict == "skip"
    assert decision.reason.startswith("cheaper than champion: not shown to be better (its WER is lower in 7")
    assert "by chance in 31.25 % of equal models" in decision.reason
    assert "equal, but no cheaper: graphs +0.0%, RTF +0.0%" in decision.reason


def test_few_differences_that_agree_are_not_enough() -> None:
    # The bootstrap is sure of three utterances out of a hundred: only a resample without any of them is not lower.
    errors = spread(300)
    errors[:3] = [2, 2, 2]
    decision = judge(candidate(errors), CHAMPION, bootstrap_samples=20_000)
    assert row(decision, "lower WER, bootstrap").verdict == "pass"
    assert row(decision, "lower WER, exact test").figure == pytest.approx(1 / 8)
    assert decision.decision == "reject"


def test_many_small_gains_and_one_great_loss_are_not_enough() -> None:
    # By signs alone that is rare enough. But a test set with two such utterances would have shown a loss.
    errors = spread(300)
    errors[:29] = [2] * 28 + [13]
    decision = judge(candidate(errors), CHAMPION, bootstrap_samples=10_000)
    assert row(decision, "lower WER, exact test").verdict == "pass"
    assert row(decision, "lower WER, bootstrap").figure == pytest.approx(0.92, abs=0.01)
    assert decision.decision == "reject"


@pytest.mark.parametrize(
    ("costs", "outcome"),
    [
        ({}, "reject"),
        ({"graph_bytes": 800}, "promote"),
        ({"graph_bytes": 801}, "reject"),
        ({"rtf": 0.016}, "promote"),
        ({"rtf": 0.017}, "reject"),
        ({"graph_bytes": 500, "rtf": 0.023}, "promote"),
        ({"graph_bytes": 500, "rtf": 0.024}, "reject"),
        ({"graph_bytes": 1_100, "rtf": 0.01}, "promote"),
        ({"graph_bytes": 1_200, "rtf": 0.01}, "reject"),
        ({"graph_bytes": 2_000, "rtf": 0.04}, "reject"),
        ({"graph_bytes": 500, "rtf": None}, "promote"),
        ({"graph_bytes": None, "rtf": 0.01}, "promote"),
        ({"graph_bytes": None, "rtf": None}, "reject"),
        ({"graph_bytes": 500, "graphs": ("d",)}, "reject"),
    ],
)
def test_an_equal_challenger_wins_by_being_cheaper(costs: dict[str, Any], outcome: str) -> None:
    decision = judge(candidate(costs=dataclasses.replace(GRAPHS, **costs)), CHAMPION)
    assert decision.decision == outcome
    assert row(decision, "equal to champion").verdict == "pass"
    assert failed(decision) == ([] if outcome == "promote" else ["cheaper than champion"])


def test_cheaper_is_not_enough_for_a_challenger_that_may_be_worse() -> None:
    errors = spread(300)
    errors[:30] = [2, 4, 4] * 10
    cheap = dataclasses.replace(GRAPHS, graph_bytes=100)
    decision = judge(candidate(errors, costs=cheap), CHAMPION, tolerance=0.05)
    assert decision.decision == "reject"
    assert failed(decision) == ["equal to champion"]
    assert row(decision, "cheaper than champion").verdict == "skip"


def test_equality_within_the_margin_needs_words_enough_to_see_it() -> None:
    # No difference in 500 words: a challenger half a point worse shows none either, once in twelve times.
    few, champion = (candidate(scores=scores(spread(150), words=5), bundle=name) for name in "cd")
    few = dataclasses.replace(few, costs=dataclasses.replace(GRAPHS, graph_bytes=100))
    decision = judge(few, champion)
    assert decision.decision == "reject"
    assert "500 words cannot show 0.50 points, 598 can" in decision.reason
    assert judge(few, champion, equal_margin=0.01).decision == "promote"
    assert judge(few, champion, equal_margin=0.0).decision == "reject"


def test_models_without_errors_are_equal() -> None:
    perfect = candidate(0, costs=dataclasses.replace(GRAPHS, graph_bytes=500))
    decision = judge(perfect, candidate(0, bundle="d"))
    assert decision.decision == "promote"
    assert decision.comparison["test"]["p_value"] == 1.0
    assert decision.comparison["test"]["interval_95"] == (0.0, 0.0)
    assert judge(candidate(0), candidate(300, bundle="d")).decision == "promote"


def test_the_tolerance_is_met_exactly() -> None:
    # 0.295 + 0.005 is less than 0.3 in binary.
    decision = judge(candidate(300), candidate(295, bundle="d"))
    assert row(decision, "not worse, test").verdict == "pass"
    assert row(judge(candidate(301), candidate(295, bundle="d")), "not worse, test").verdict == "fail"


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"test_set_sha256": "b" * 64}, "same test set"),
        ({"text_normalizer": "upper-ascii-2"}, "same text normaliser"),
    ],
)
def test_unfair_comparison_is_refused_even_for_a_better_challenger(changes: dict[str, Any], failing: str) -> None:
    decision = judge(with_scores(100, **changes), CHAMPION)
    assert failed(decision) == [failing, "WER against champion"]
    assert "refused" in row(decision, "WER against champion").why
    assert decision.comparison == {}


def test_unknown_test_sets_are_not_the_same_test_set() -> None:
    unknown = dataclasses.replace(CHAMPION, scores=dataclasses.replace(CHAMPION.scores, test_set_sha256=""))
    assert "same test set" in failed(judge(with_scores(100, test_set_sha256=""), unknown))


def _reports_that_do_not_pair() -> list[tuple[str, Scores]]:
    given = scores(spread(200))
    assert given.utterances is not None
    ids = given.utterances.ids
    renamed = dataclasses.replace(given.utterances, ids=("other", *ids[1:]))
    twice = dataclasses.replace(given.utterances, ids=(ids[1], *ids[1:]))
    longer = dataclasses.replace(given.utterances, words=given.utterances.words + 1)
    return [
        ("no utterances", dataclasses.replace(given, utterances=None)),
        ("other utterances", dataclasses.replace(given, utterances=renamed)),
        ("one twice", dataclasses.replace(given, utterances=twice)),
        ("other references", dataclasses.replace(given, utterances=longer)),
        ("fewer", scores(spread(100, 50))),
    ]


@pytest.mark.parametrize(("_what", "given"), _reports_that_do_not_pair())
def test_reports_that_do_not_pair_are_refused(_what: str, given: Scores) -> None:
    decision = judge(candidate(scores=given), CHAMPION)
    assert failed(decision) == ["WER against champion"]
    assert "do not list the same utterances" in decision.reason
    mirrored = judge(candidate(200), dataclasses.replace(CHAMPION, scores=given))
    assert failed(mirrored) == ["WER against champion"]


def test_an_utterance_that_both_list_twice_cannot_be_paired() -> None:
    twice = dict(_reports_that_do_not_pair())["one twice"]
    assert failed(judge(candidate(scores=twice), candidate(scores=twice, bundle="d"))) == ["WER against champion"]


@pytest.mark.parametrize("wer", [None, math.nan])
def test_a_champion_without_a_usable_wer_is_refused(wer: float | None) -> None:
    champion = dataclasses.replace(CHAMPION, scores=dataclasses.replace(CHAMPION.scores, wer=wer))
    decision = judge(candidate(200), champion)
    assert failed(decision) == ["WER against champion"]
    assert "the champion has no usable WER" in decision.reason


def test_the_champion_itself_is_promoted_again() -> None:
    same = dataclasses.replace(CHAMPION, scores=dataclasses.replace(CHAMPION.scores, test_set_sha256=""))
    decision = judge(CHAMPION, same)
    assert decision.decision == "promote"
    assert decision.reason == "the challenger is the champion itself"


def test_the_same_model_in_another_bundle_is_not_promoted() -> None:
    again = candidate(300, costs=dataclasses.replace(GRAPHS, graphs=("d",), rtf=0.001))
    decision = judge(again, CHAMPION)
    assert failed(decision) == ["cheaper than champion"]
    assert "its graphs are the champion's" in decision.reason


def further(errors: int, **changes: Any) -> dict[str, Scores]:
    return {"far": scores(spread(errors), test_set="far", **changes)}


def test_a_further_set_may_not_get_worse_either() -> None:
    champion = dataclasses.replace(CHAMPION, others=further(400))
    decision = judge(candidate(200, others=further(410)), champion)
    assert failed(decision) == ["not worse, far"]
    assert decision.comparison["far"]["difference"] == pytest.approx(0.01)
    decision = judge(candidate(200, others=further(405)), champion)
    assert decision.decision == "promote"
    assert decision.reason.startswith("better than the champion: 20.00 %"), "the set of record decides who is better"


def test_a_further_set_without_the_champions_report_keeps_its_bound_alone() -> None:
    decision = judge(candidate(200, others=further(410)), CHAMPION)
    assert decision.decision == "promote"
    assert row(decision, "not worse, far").verdict == "skip"


@pytest.mark.parametrize(
    "changes", [{"test_set_sha256": "b" * 64}, {"text_normalizer": "other"}, {"utterances": None}, {"wer": None}]
)
def test_a_further_set_that_does_not_compare_is_refused(changes: dict[str, Any]) -> None:
    champion = dataclasses.replace(CHAMPION, others=further(400, **changes))
    decision = judge(candidate(200, others=further(300)), champion)
    assert failed(decision) == ["not worse, far"]
    assert "refused" in decision.reason


def test_permuted_test_sets_give_the_same_decision() -> None:
    others = {name: scores(spread(total), test_set=name) for name, total in (("a", 310), ("b", 320), ("c", 330))}
    mirrored = dict(reversed(others.items()))
    assert judge(candidate(200, others=others), CHAMPION) == judge(candidate(200, others=mirrored), CHAMPION)


def test_reason_counts_further_failures() -> None:
    assert "and 1 more failed" in judge(candidate(parity_ok=False, quantizer_error=0.9)).reason


def test_not_a_number_survives_as_json() -> None:
    record = json.loads(json.dumps(judge(with_scores(wer=math.nan), CHAMPION).to_json(), allow_nan=False))
    assert next(row for row in record["checks"] if row["name"] == "WER is finite")["figure"] == "nan"


def test_comparison_says_how_it_was_made() -> None:
    record = judge(candidate(200), CHAMPION, seed=7).to_json()["comparison"]["test"]
    assert (record["resamples"], record["seed"], record["unit"], record["num_units"]) == (1_000, 7, "utterance", 100)
    assert (record["challenger_wer"], record["champion_wer"], record["num_words"]) == (0.2, 0.3, 1000)
