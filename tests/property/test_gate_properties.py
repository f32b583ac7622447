"""What holds for the gate whatever the reports say."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate, Costs, Scores, Utterances
from mvqkd.promotion.gate import decide
from mvqkd.promotion.paired import compare, pair
from mvqkd.promotion.significance import sign_flip_p

CONFIG = GateConfig(bootstrap_samples=200, min_test_utterances=1, min_speakers=3, min_slice_words=5)


@st.composite
def utterances(draw: st.DrawFn) -> tuple[Utterances, Utterances]:
    """Two models on the same utterances, some of whose speakers may be unknown; with a word at least."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 12), st.integers(0, 15), st.integers(0, 15), st.sampled_from(["a", "b", "c", "d", None])
            ),
            min_size=1,
            max_size=40,
        ).filter(lambda rows: sum(row[0] for row in rows) > 0)
    )
    ids = tuple(f"u{i}" for i in draw(st.permutations(range(len(rows)))))
    words, first, second = (np.array([row[column] for row in rows], dtype=np.int64) for column in range(3))
    speakers = tuple(row[3] for row in rows)
    return Utterances(ids, words, first, speakers), Utterances(ids, words, second, speakers)


def candidate(made: Utterances, name: str, **changes: object) -> Candidate:
    scores = Scores(
        test_set="test",
        test_set_sha256="a" * 64,
        text_normalizer="upper-ascii-1",
        num_utterances=len(made.ids),
        wer=float(made.errors.sum() / made.words.sum()),
        utterances=made,
    )
    costs = Costs(bundle_bytes=100, graph_bytes=10, graphs=(name,), rtf=0.1)
    return dataclasses.replace(Candidate(name * 64, scores, parity_ok=True, costs=costs), **changes)


def permuted(made: Utterances, order: list[int]) -> Utterances:
    return Utterances(
        tuple(made.ids[i] for i in order),
        made.words[order],
        made.errors[order],
        tuple(made.speakers[i] for i in order),
    )


@given(utterances(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_utterances_means_nothing(made: tuple[Utterances, Utterances], random: object) -> None:
    ours, theirs = made
    order = list(range(len(ours.ids)))
    random.shuffle(order)
    decision = decide(candidate(ours, "c"), candidate(theirs, "d"), CONFIG)
    assert decide(candidate(permuted(ours, order), "c"), candidate(theirs, "d"), CONFIG) == decision
    assert decide(candidate(ours, "c"), candidate(permuted(theirs, order), "d"), CONFIG) == decision


@given(utterances())
@settings(deadline=None)
def test_swapping_the_models_mirrors_the_comparison(made: tuple[Utterances, Utterances]) -> None:
    ours, theirs = (candidate(part, name) for part, name in zip(made, "cd", strict=True))
    there, back = pair(ours.scores, theirs.scores), pair(theirs.scores, ours.scores)
    assert there is not None
    assert back is not None
    forth, mirrored = compare(there, CONFIG), compare(back, CONFIG)
    assert forth.bootstrap.probability_better == mirrored.bootstrap.probability_worse
    assert forth.bootstrap.probability_worse == mirrored.bootstrap.probability_better
    assert forth.difference == -mirrored.difference
    low, high = mirrored.bootstrap.interval_95
    assert np.allclose(forth.bootstrap.interval_95, (-high, -low), equal_nan=True, atol=1e-8)


@given(utterances())
@settings(deadline=None)
def test_not_both_of_two_models_are_better(made: tuple[Utterances, Utterances]) -> None:
    ours, theirs = (candidate(part, name) for part, name in zip(made, "cd", strict=True))
    forth, back = (decide(*both, CONFIG).decision for both in ((ours, theirs), (theirs, ours)))
    assert (forth, back) != ("promote", "promote")


@given(utterances())
@settings(deadline=None)
def test_a_model_does_not_beat_itself(made: tuple[Utterances, Utterances]) -> None:
    ours = made[0]
    decision = decide(candidate(ours, "c"), candidate(ours, "d"), CONFIG)
    assert decision.decision == "reject"
    assert decide(candidate(ours, "c"), candidate(ours, "c"), CONFIG.model_copy(update={"max_wer": 99.0})).decision == (
        "promote"
    )


@given(utterances(), st.integers(0, 39))
@settings(deadline=None)
def test_one_error_less_never_makes_a_gain_less_sure(made: tuple[Utterances, Utterances], where: int) -> None:
    """By the exact test; the bootstrap may lose a little, because an outlier widens it."""
    ours, theirs = made
    differences = ours.errors - theirs.errors
    fewer = differences.copy()
    fewer[where % len(fewer)] -= 1
    if abs(fewer[where % len(fewer)]) <= abs(differences[where % len(fewer)]):
        # A loss made smaller; a gain made larger also adds to what chance could have done.
        assert sign_flip_p(fewer) <= sign_flip_p(differences) + 1e-9


rates = st.floats(0, 2) | st.just(math.nan) | st.none()
anything = st.builds(
    Candidate,
    bundle_id=st.sampled_from(["c" * 64, "d" * 64]),
    scores=st.builds(
        Scores,
        test_set=st.sampled_from(["test", "other"]),
        test_set_sha256=st.sampled_from(["", "a" * 64, "b" * 64]),
        text_normalizer=st.sampled_from(["upper-ascii-1", "upper-ascii-2"]),
        num_utterances=st.integers(0, 40),
        wer=rates,
        utterances=st.none() | utterances().map(lambda made: made[0]),
    ),
    parity_ok=st.sampled_from([True, False, None]),
    quantizer_error=rates,
    streams=st.booleans(),
    streaming_wer=rates,
    costs=st.builds(
        Costs, bundle_bytes=st.none() | st.integers(0, 99), graph_bytes=st.none() | st.integers(0, 99), rtf=rates
    ),
)


@given(anything, anything | st.none())
@settings(deadline=None)
def test_promotes_exactly_when_no_row_fails(challenger: Candidate, champion: Candidate | None) -> None:
    config = CONFIG.model_copy(update={"max_rtf": 1.0, "max_bundle_bytes": 50})
    decision = decide(challenger, champion, config)
    assert (decision.decision == "promote") == all(check.verdict != "fail" for check in decision.checks)
    assert len({check.name for check in decision.checks}) == len(decision.checks)
    assert all(check.why for check in decision.checks)
    assert "\n" not in decision.reason
    json.dumps(decision.to_json(), allow_nan=False)
