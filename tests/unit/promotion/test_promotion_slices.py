"""Speakers as what is resampled, speakers and lengths as slices that may not get worse."""

from __future__ import annotations

import numpy as np
import pytest

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate
from mvqkd.promotion.gate import decide
from mvqkd.promotion.paired import Pairs, compare, pair, slices
from mvqkd.promotion.verdict import Check, Decision
from tests.unit.promotion.candidates import candidate, scores, spread

CONFIG = GateConfig(bootstrap_samples=1_000)


def paired(challenger: list[int], champion: list[int], words: list[int], speakers: list[str] | None = None) -> Pairs:
    found = pair(scores(challenger, words, speakers=speakers), scores(champion, words))
    assert found is not None
    return found


def row(decision: Decision, name: str) -> Check:
    (found,) = [check for check in decision.checks if check.name == name]
    return found


def of_speakers(count: int, each: int, errors: dict[int, int], usual: int = 3, *, bundle: str) -> Candidate:
    """Utterances of ten words; a speaker's utterances have so many errors each."""
    names = [f"s{i % count:02}" for i in range(count * each)]
    made = [errors.get(i % count, usual) for i in range(count * each)]
    return candidate(scores=scores(made, speakers=names), bundle=bundle)


def test_speakers_are_resampled_where_there_are_enough() -> None:
    names = [f"s{i % 30}" for i in range(120)]
    pairs = paired(spread(300, 120), spread(310, 120), [10] * 120, names)
    assert (compare(pairs, CONFIG).unit, compare(pairs, CONFIG).num_units) == ("speaker", 30)
    few = CONFIG.model_copy(update={"min_speakers": 31})
    assert (compare(pairs, few).unit, compare(pairs, few).num_units) == ("utterance", 120)


def test_one_utterance_without_speaker_leaves_utterances() -> None:
    names = [f"s{i % 30}" for i in range(120)]
    pairs = paired(spread(300, 120), spread(310, 120), [10] * 120, [*names[:-1], None])
    assert compare(pairs, CONFIG).unit == "utterance"


def test_errors_that_come_by_speaker_say_less_than_as_many_that_do_not() -> None:
    # Of 24 speakers 14 got better and 10 worse, each on all of 20 utterances: 14 to 10 is a coin's throw.
    names = [f"s{i % 24:02}" for i in range(480)]
    champion = [3] * 480
    challenger = [2 if i % 24 < 14 else 4 for i in range(480)]
    by_speaker = compare(paired(challenger, champion, [10] * 480, names), CONFIG)
    by_utterance = compare(paired(challenger, champion, [10] * 480), CONFIG)
    assert by_utterance.bootstrap.probability_better > 0.99
    assert by_utterance.p_value < 0.01
    assert by_speaker.bootstrap.probability_better < 0.9
    assert by_speaker.p_value > 0.2
    assert by_speaker.difference == by_utterance.difference


def test_a_speaker_who_gets_much_worse_rejects_a_better_mean() -> None:
    champion = of_speakers(10, 20, {}, bundle="d")
    challenger = of_speakers(10, 20, {7: 5}, usual=2, bundle="c")
    decision = decide(challenger, champion, CONFIG)
    assert [check.name for check in decision.failed] == ["slices by speaker"]
    assert row(decision, "slices by speaker").figure == pytest.approx(0.2)
    assert "s07: 50.00 % against the champion's 30.00 % on 200 words" in decision.reason
    assert row(decision, "lower WER, bootstrap").verdict == "pass"
    allowed = CONFIG.model_copy(update={"max_slice_regression": 0.2})
    assert decide(challenger, champion, allowed).decision == "promote"


def test_a_speaker_with_few_words_does_not_reject_by_chance() -> None:
    champion = of_speakers(10, 20, {}, bundle="d")
    names, made = [f"s{i % 10:02}" for i in range(200)] + ["rare"] * 3, [2] * 200 + [9] * 3
    rare = candidate(scores=scores(made, speakers=names))
    rival = candidate(scores=scores([3] * 203, speakers=names), bundle="d")
    assert champion.scores.utterances is not None
    decision = decide(rare, rival, CONFIG)
    assert decision.decision == "promote"
    record = next(part for part in decision.slices if part["name"] == "rare")
    assert (record["num_words"], record["p_worse"]) == (30, None)
    # Tested, three utterances are no evidence either: all three worse is what chance does once in eight times.
    small = CONFIG.model_copy(update={"min_slice_words": 1})
    decision = decide(rare, rival, small)
    assert decision.decision == "promote"
    assert "chance explains it (p 0.125" in row(decision, "slices by speaker").why


def test_chance_is_shared_by_all_slices() -> None:
    """The one bad slice is p = 0.03: evidence if it were the only one, none among ten."""
    names = [f"s{i % 10:02}" for i in range(300)]
    champion, challenger = [3] * 300, [2] * 300
    for i in range(0, 50, 10):
        challenger[i] = 9
    for i in range(50, 300, 10):
        challenger[i] = 3
    few = candidate(scores=scores(challenger, speakers=names))
    rival = candidate(scores=scores(champion, speakers=names), bundle="d")
    decision = decide(few, rival, CONFIG)
    assert decision.decision == "promote"
    bad = next(part for part in decision.slices if part["name"] == "s00")
    assert bad["p_worse"] == pytest.approx(1 / 32)
    assert bad["difference"] > CONFIG.max_slice_regression
    alone = [name if name == "s00" else "others" for name in names]
    few = candidate(scores=scores(challenger, speakers=alone))
    assert decide(few, rival, CONFIG.model_copy(update={"min_probability": 0.9})).decision == "reject"


def test_long_utterances_that_get_worse_reject() -> None:
    words = [4] * 200 + [30] * 20
    champion, challenger = [1] * 200 + [3] * 20, [0] * 200 + [6] * 20
    decision = decide(
        candidate(scores=scores(challenger, words)), candidate(scores=scores(champion, words), bundle="d"), CONFIG
    )
    assert [check.name for check in decision.failed] == ["slices by length"]
    assert "21 words and more: 20.00 % against the champion's 10.00 % on 600 words" in decision.reason


def test_slices_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 40, 300).tolist()
    names = [f"s{i}" for i in rng.integers(0, 6, 300)]
    pairs = paired(rng.integers(0, 4, 300).tolist(), rng.integers(0, 4, 300).tolist(), words, names)
    found = slices(pairs, 100)
    for kind in ("speaker", "length"):
        mine = [part for part in found if part.kind == kind]
        assert sum(part.num_words for part in mine) == sum(words)
        assert sum(part.num_utterances for part in mine) == 300
        assert sum(part.challenger_wer * part.num_words for part in mine) == pytest.approx(pairs.challenger.sum())
    assert [part.name for part in found if part.kind == "length"] == [
        "0 to 2 words",
        "3 to 5 words",
        "6 to 10 words",
        "11 to 20 words",
        "21 words and more",
    ]


def test_a_single_slice_is_the_whole_set_and_left_out() -> None:
    assert slices(paired([1] * 30, [2] * 30, [10] * 30, ["one"] * 30), 1) == []


def test_rows_say_why_nothing_was_tested() -> None:
    decision = decide(candidate(200), candidate(300, bundle="d"), CONFIG)
    assert row(decision, "slices by speaker").why == "the reports name no speakers"
    assert row(decision, "slices by length").verdict == "skip"
    one = candidate(scores=scores(spread(200), speakers=["one"] * 100))
    decision = decide(one, candidate(300, bundle="d"), CONFIG)
    assert row(decision, "slices by speaker").why == "fewer than two slices, or none with 100 words"


def test_speakers_of_either_report_count() -> None:
    names = [f"s{i % 2}" for i in range(100)]
    old, new = scores(spread(300)), scores(spread(200), speakers=names)
    for ours, theirs in ((new, old), (old, new)):
        found = pair(ours, theirs)
        assert found is not None
        assert set(found.speakers) == {"s0", "s1"}
