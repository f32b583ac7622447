"""Who is champion after some entries: the rules, and that no order of entries lets two of them win."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from mvqkd.adapters.registry_state import Action, Entry, State, Verdict, replay


def log(*entries: Entry) -> tuple[Entry, ...]:
    """The entries as the store numbers them."""
    return tuple(
        dataclasses.replace(entry, number=number, nonce=entry.nonce or f"nonce-{number}")
        for number, entry in enumerate(entries, start=1)
    )


def entry(action: Action, version: int | None, seen: int | None, **more: object) -> Entry:
    return Entry(action, version, seen, "ann", "because", "", **more)


def verdicts(*entries: Entry) -> list[Verdict]:
    return [outcome.verdict for outcome in replay(log(*entries))[1]]


def state(*entries: Entry) -> State:
    return replay(log(*entries))[0]


def test_nothing_has_happened() -> None:
    assert replay(()) == (State(), ())
    assert (State().champion, State().earlier) == (None, ())


def test_of_two_promotions_against_one_champion_the_first_wins() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("promote", 3, 1)]
    assert verdicts(*rows) == ["done", "done", "lost"]
    now, outcomes = replay(log(*rows))
    assert (now.champion, now.earlier) == (2, (1,))
    assert outcomes[2].by == 2
    assert outcomes[2].why == "version 2 is champion since entry 2, not version 1"


def test_a_decision_is_carried_out_once() -> None:
    first, again = entry("promote", 2, 1, decision_id="d" * 64), entry("promote", 2, 1, decision_id="d" * 64)
    rows = [entry("promote", 1, None), first, entry("rollback", 1, 2), again]
    assert verdicts(*rows) == ["done", "done", "done", "repeated"]
    assert state(*rows).champion == 1, "who runs the pipeline again does not undo a rollback"
    forced = entry("promote", 2, 1, decision_id="d" * 64, forced=True)
    assert state(*rows, forced).champion == 2


def test_one_attempt_delivered_twice_counts_once() -> None:
    once = dataclasses.replace(entry("rollback", 1, 2), nonce="same")
    rows = [entry("promote", 1, None), entry("promote", 2, 1), once, once]
    assert verdicts(*rows) == ["done", "done", "done", "repeated"]


def test_each_rollback_goes_one_champion_further_back() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("promote", 3, 2)]
    assert state(*rows).earlier == (2, 1)
    rows.append(entry("rollback", 2, 3))
    assert (state(*rows).champion, state(*rows).earlier) == (2, (1,))
    rows.append(entry("rollback", 1, 2))
    assert (state(*rows).champion, state(*rows).earlier) == (1, ())


def test_a_rollback_by_two_at_once_goes_one_step() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("promote", 3, 2)]
    assert verdicts(*rows, entry("rollback", 2, 3), entry("rollback", 2, 3))[3:] == ["done", "lost"]


def test_what_was_rolled_back_can_be_brought_back_by_name() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("rollback", 1, 2), entry("rollback", 2, 1)]
    assert (state(*rows).champion, state(*rows).earlier) == (2, (1,))


def test_an_old_champion_that_wins_again_is_on_top_again() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("promote", 1, 2)]
    assert state(*rows).champions == (1, 2, 1)
    assert state(*rows).earlier == (2,)


def test_a_person_s_rejection_bars_a_version_until_somebody_forces_it() -> None:
    rows = [entry("promote", 1, None), entry("reject", 2, 1), entry("promote", 2, 1)]
    assert verdicts(*rows) == ["done", "done", "lost"]
    assert replay(log(*rows))[1][2].why == "version 2 was rejected in entry 2"
    rows.append(entry("promote", 2, 1, forced=True))
    assert state(*rows).champion == 2
    assert not state(*rows).rejected


def test_the_gate_s_rejection_bars_nothing_and_is_noted_once() -> None:
    by_gate = entry("reject", 2, 1, decision_id="r" * 64)
    rows = [entry("promote", 1, None), by_gate, by_gate, entry("promote", 2, 1)]
    assert verdicts(*log(*rows)) == ["done", "done", "repeated", "done"]


def test_a_champion_is_rolled_back_not_rejected() -> None:
    assert verdicts(entry("promote", 1, None), entry("reject", 1, 1)) == ["done", "lost"]
    # The gate may judge it again with other thresholds: that is noted and moves nothing.
    by_gate = entry("reject", 1, 1, decision_id="r" * 64)
    assert verdicts(entry("promote", 1, None), by_gate) == ["done", "done"]
    assert state(entry("promote", 1, None), by_gate).champion == 1


def test_a_rejected_former_champion_is_not_gone_back_to() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("promote", 3, 2), entry("reject", 2, 3)]
    assert state(*rows).earlier == (1,)


def test_what_was_refused_before_it_was_registered_has_no_version() -> None:
    rows = [entry("promote", 1, None), entry("promote", None, None), entry("promote", None, 1)]
    assert verdicts(*rows) == ["done", "lost", "lost"]


def test_moves_from_outside_hold() -> None:
    rows = [entry("promote", 1, None), entry("promote", 2, 1), entry("outside", 1, 2)]
    assert state(*rows).champions == (1,)
    rows += [entry("outside", 7, 1), entry("outside", None, 7)]
    assert (state(*rows).champion, state(*rows).earlier) == (None, (7, 1)), "a rollback undoes that, too"
    assert verdicts(*rows, entry("promote", 8, None))[-1] == "done"


_VERSIONS = st.none() | st.integers(1, 4)
_ENTRIES = st.builds(
    Entry,
    st.sampled_from(["promote", "reject", "rollback", "outside"]),
    _VERSIONS,
    _VERSIONS,
    st.just("ann"),
    st.just("because"),
    st.sampled_from(["", "", "", "n1", "n2"]),
    decision_id=st.none() | st.sampled_from(["d1", "d2"]),
    forced=st.booleans(),
)


@given(st.lists(_ENTRIES, max_size=12))
def test_only_who_saw_the_champion_of_the_moment_replaces_it(entries: list[Entry]) -> None:
    rows = log(*entries)
    champion = None
    for length, row in enumerate(rows, start=1):
        now, outcomes = replay(rows[:length])
        if now.champion != champion:
            assert outcomes[-1].verdict == "done"
            assert row.champion == champion, "an attempt that saw another champion has won"
            assert now.champion == row.version
            assert row.action != "reject"
        assert now.champion not in now.rejected
        champion = now.champion


@given(st.lists(_ENTRIES, max_size=12))
def test_a_longer_log_does_not_change_what_became_of_earlier_entries(entries: list[Entry]) -> None:
    rows = log(*entries)
    whole = replay(rows)[1]
    for length in range(len(rows)):
        assert replay(rows[:length])[1] == whole[:length]
