"""What the audit log of a model says: a pure function from its entries to who is champion, and which entry did what.

MLflow offers no transactions, but it numbers the entries: everybody who reads the log sees them in one order. An entry
is an attempt. It says which champion its author had seen, and takes effect only if that is the champion when its turn
comes. Whoever replays the log therefore finds the same winner, and no lock is needed that a dying process could keep.

Champions form a stack: a promotion puts a version on top, a rollback takes the top off. Rolling back twice thus goes
back two champions, and never to and fro between two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["promote", "reject", "rollback", "outside"]
Verdict = Literal["done", "lost", "repeated"]


@dataclass(frozen=True)
class Entry:
    """One attempt to change a model, as it stands in the log.

    Args:
        action: ``outside`` records that the alias was found where no entry had put it.
        version: the version concerned: the new champion, or the one that is rejected. None: there is none, because
            the attempt was refused before anything was registered, or because the alias was taken away.
        champion: version that was champion when the author looked; None: there was none.
        who, why: for people.
        bundle_id: content id of the version's bundle.
        decision_id: of the gate's decision; None where a person decided alone.
        pipeline_run: the orchestrator's run.
        forced: carry it out whatever was decided or rejected before.
        nonce: tells a repeated delivery of one attempt from another attempt.
        number, time_ms: the place in the log and the time of it, both given by the store.
        is_applied: the aliases have been moved accordingly.
    """

    action: Action
    version: int | None
    champion: int | None
    who: str
    why: str
    nonce: str
    bundle_id: str | None = None
    decision_id: str | None = None
    pipeline_run: str | None = None
    forced: bool = False
    number: int = 0
    time_ms: int = 0
    is_applied: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of an entry. ``repeated``: an earlier entry had done the same already; ``by`` names it."""

    verdict: Verdict
    why: str = ""
    by: int | None = None


@dataclass(frozen=True)
class State:
    """Where a model stands after some entries.

    ``champions``: the stack, today's last; None stands for a time without one. ``rejected``: version -> number of the
    entry by which a person rejected it. ``decisions``: decision id -> number of the entry that carried it out.
    ``moved_by``: the last entry that moved the champion, ``last``: the last that took effect at all.
    """

    champions: tuple[int | None, ...] = ()
    rejected: Mapping[int, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)
    moved_by: Entry | None = None
    last: Entry | None = None

    @property
    def champion(self) -> int | None:
        return self.champions[-1] if self.champions else None

    @property
    def earlier(self) -> tuple[int, ...]:
        """What a rollback may restore, the first that still exists: earlier champions that nobody has rejected."""
        versions = [version for version in reversed(self.champions) if version not in (None, self.champion)]
        return tuple(dict.fromkeys(version for version in versions if version and version not in self.rejected))


def replay(entries: Iterable[Entry]) -> tuple[State, tuple[Outcome, ...]]:
    """Go through the log from its beginning.

    Returns:
        the state after it, and what became of each entry.
    """
    state, outcomes, seen = State(), [], dict[str, int]()
    for entry in entries:
        if entry.nonce in seen:
            outcome = Outcome("repeated", f"it is entry {seen[entry.nonce]}, delivered twice", seen[entry.nonce])
        else:
            outcome = judge(state, entry)
        seen.setdefault(entry.nonce, entry.number)
        outcomes.append(outcome)
        if outcome.verdict == "done":
            state = _after(state, entry)
    return state, tuple(outcomes)


def judge(state: State, entry: Entry) -> Outcome:
    """Whether an entry takes effect in a state, and why not."""
    if entry.decision_id is not None and not entry.forced and entry.decision_id in state.decisions:
        number = state.decisions[entry.decision_id]
        return Outcome("repeated", f"decision {entry.decision_id[:12]} was carried out in entry {number}", number)
    if entry.action == "reject":
        return _judge_rejection(state, entry)
    if entry.champion != state.champion:
        by = state.moved_by.number if state.moved_by else None
        moved = f" since entry {by}" if by else ""
        return Outcome("lost", f"{_named(state.champion)} is champion{moved}, not {_named(entry.champion)}", by)
    if entry.action == "outside":
        return Outcome("done")
    if entry.version is None:
        return Outcome("lost", "it was refused before it was registered")
    if entry.version in state.rejected and not entry.forced:
        by = state.rejected[entry.version]
        return Outcome("lost", f"version {entry.version} was rejected in entry {by}", by)
    if entry.version == state.champion:
        return Outcome("repeated", f"version {entry.version} is champion already", by=_number(state))
    return Outcome("done")


def _judge_rejection(state: State, entry: Entry) -> Outcome:
    # The gate judges the champion, too, when it is run again; that takes nothing from it.
    if entry.decision_id is None and entry.version is not None and entry.version == state.champion:
        return Outcome("lost", f"version {entry.version} is champion: roll it back instead", _number(state))
    return Outcome("done")


def _after(state: State, entry: Entry) -> State:
    decisions, rejected = dict(state.decisions), dict(state.rejected)
    if entry.decision_id is not None:
        decisions[entry.decision_id] = entry.number
    if entry.action == "reject":
        if entry.decision_id is None and entry.version is not None:
            rejected[entry.version] = entry.number
        return State(state.champions, rejected, decisions, state.moved_by, entry)
    if entry.version is not None:
        rejected.pop(entry.version, None)
    return State(_stack(state.champions, entry), rejected, decisions, entry, entry)


def _stack(champions: tuple[int | None, ...], entry: Entry) -> tuple[int | None, ...]:
    if entry.action != "promote" and entry.version is not None and entry.version in champions:
        last = len(champions) - 1 - champions[::-1].index(entry.version)
        return champions[: last + 1]
    return (*champions, entry.version)


def _number(state: State) -> int | None:
    return state.moved_by.number if state.moved_by else None


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
