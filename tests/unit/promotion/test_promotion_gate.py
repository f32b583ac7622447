"""The gate's whole table: every row can fail, and fails alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.config import GateConfig
from mvqkd.promotion.gate import Candidate, Decision, decide

CONFIG = GateConfig(max_wer=0.5, tolerance=0.005, max_quantizer_error=0.8, min_test_utterances=20)
CHALLENGER = Candidate(
    bundle_id="c" * 64,
    wer=0.30,
    num_utterances=100,
    test_set_sha256="a" * 64,
    text_normalizer="upper-ascii-1",
    parity_ok=True,
    quantizer_error=0.31,
)
CHAMPION = dataclasses.replace(CHALLENGER, bundle_id="d" * 64)


def judge(champion: Candidate | None = None, **challenger: Any) -> Decision:
    return decide(dataclasses.replace(CHALLENGER, **challenger), champion, CONFIG)


def verdicts(decision: Decision) -> dict[str, str]:
    return {check.name: check.verdict for check in decision.checks}


def test_first_champion_needs_the_absolute_checks_only() -> None:
    decision = judge()
    assert decision.decision == "promote"
    assert verdicts(decision)["WER against champion"] == "skip"
    assert "none to beat" in decision.reason


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"num_utterances": 19}, "test utterances"),
        ({"wer": None}, "WER is finite"),
        ({"wer": math.nan}, "WER is finite"),
        ({"wer": math.inf}, "WER is finite"),
        ({"wer": -0.1}, "WER is finite"),
        ({"wer": 0.51}, "absolute WER"),
        ({"parity_ok": False}, "ONNX parity"),
        ({"parity_ok": None}, "ONNX parity"),
        ({"quantizer_error": 0.81}, "quantizer error"),
        ({"quantizer_error": math.nan}, "quantizer error"),
    ],
)
def test_each_absolute_check_rejects(changes: dict[str, Any], failing: str) -> None:
    for champion in (None, CHAMPION):
        decision = judge(champion, **changes)
        assert decision.decision == "reject"
        assert verdicts(decision)[failing] == "fail"
        assert decision.reason.startswith(failing)


@pytest.mark.parametrize(
    ("wer", "champion_wer", "outcome"),
    [
        (0.20, 0.30, "promote"),
        (0.30, 0.30, "promote"),
        (0.300, 0.295, "promote"),  # exactly the tolerance, where binary fractions would say more
        (0.306, 0.300, "reject"),
        (0.40, 0.30, "reject"),
        (0.30, None, "reject"),
        (0.30, math.nan, "reject"),
    ],
)
def test_comparison_with_the_champion(wer: float, champion_wer: float | None, outcome: str) -> None:
    decision = judge(dataclasses.replace(CHAMPION, wer=champion_wer), wer=wer)
    assert decision.decision == outcome
    assert verdicts(decision)["WER against champion"] == ("pass" if outcome == "promote" else "fail")


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"test_set_sha256": "b" * 64}, "same test set"),
        ({"text_normalizer": "upper-ascii-2"}, "same text normaliser"),
    ],
)
def test_unfair_comparison_is_refused_even_for_a_better_challenger(changes: dict[str, Any], failing: str) -> None:
    decision = judge(CHAMPION, wer=0.01, **changes)
    assert decision.decision == "reject"
    assert verdicts(decision)[failing] == "fail"
    assert "refused" in decision.checks[-1].why


def test_unknown_test_sets_are_not_the_same_test_set() -> None:
    decision = judge(dataclasses.replace(CHAMPION, test_set_sha256=""), test_set_sha256="")
    assert verdicts(decision)["same test set"] == "fail"


def test_the_champion_itself_is_promoted_again() -> None:
    same = dataclasses.replace(CHALLENGER, test_set_sha256="")
    assert decide(CHALLENGER, same, CONFIG).decision == "promote"


def test_a_student_without_quantizer_skips_its_bound() -> None:
    decision = judge(quantizer_error=None)
    assert decision.decision == "promote"
    assert verdicts(decision)["quantizer error"] == "skip"


def test_reason_counts_further_failures() -> None:
    assert "and 1 more failed" in judge(num_utterances=1, parity_ok=False).reason


def test_not_a_number_survives_as_json() -> None:
    record = json.loads(json.dumps(judge(wer=math.nan).to_json(), allow_nan=False))
    assert next(row for row in record["checks"] if row["name"] == "WER is finite")["figure"] == "nan"


rates = st.floats(0, 2) | st.just(math.nan) | st.none()
candidates = st.builds(
    Candidate,
    bundle_id=st.sampled_from(["c" * 64, "d" * 64]),
    wer=rates,
    num_utterances=st.integers(0, 40),
    test_set_sha256=st.sampled_from(["", "a" * 64, "b" * 64]),
    text_normalizer=st.sampled_from(["upper-ascii-1", "upper-ascii-2"]),
    parity_ok=st.sampled_from([True, False, None]),
    quantizer_error=rates,
)


@given(candidates, candidates | st.none())
def test_promotes_exactly_when_no_row_fails(challenger: Candidate, champion: Candidate | None) -> None:
    decision = decide(challenger, champion, CONFIG)
    assert (decision.decision == "promote") == all(check.verdict != "fail" for check in decision.checks)
    assert "\n" not in decision.reason
    json.dumps(decision.to_json(), allow_nan=False)


@given(candidates, candidates | st.none(), st.floats(0, 1))
def test_a_lower_wer_never_hurts(challenger: Candidate, champion: Candidate | None, share: float) -> None:
    before = decide(challenger, champion, CONFIG)
    if before.decision == "promote":
        assert challenger.wer is not None
        better = dataclasses.replace(challenger, wer=challenger.wer * share)
        assert decide(better, champion, CONFIG).decision == "promote"
