"""Change who is champion: append an attempt to the audit log, see whether it won, move the aliases accordingly.

The log decides, the aliases follow: whoever finds the last entry unapplied moves them, its author or the next to
come along, so that a process may die at any point. An alias that differs from a log that is fully applied was moved by
somebody else; that is recorded and then holds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mvqkd.adapters import registry_log
from mvqkd.adapters.mlflow_store import StoreError, permission_not_needed, registry_errors
from mvqkd.adapters.registry_log import Log, new_entry
from mvqkd.adapters.registry_state import Entry, Outcome, State, replay

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
TAG_PREVIOUS_CHAMPION = "mvqkd.previous_champion"

_ATTEMPTS = 20
# A process between reading the log and moving an alias needs milliseconds for it; an alias that stays was left so.
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Standing:
    """A model's log, what it says, and where the aliases point."""

    log: Log
    state: State
    outcomes: tuple[Outcome, ...]
    aliases: Mapping[str, int]

    @property
    def is_pending(self) -> bool:
        """Whether the last entry that took effect has not reached the aliases yet."""
        return self.state.last is not None and not self.state.last.is_applied

    @property
    def champion(self) -> int | None:
        """Today's champion. An alias that no entry has moved counts: a person may have moved it on MLflow's pages."""
        return self.state.champion if self.is_pending else self.aliases.get(CHAMPION)

    @property
    def previous(self) -> int | None:
        """What a rollback would restore, unless that version has been deleted."""
        return next(iter(self.state.earlier), None) if self.log.entries else self.aliases.get(PREVIOUS)

    def outcome_of(self, nonce: str) -> tuple[Entry, Outcome] | None:
        """The first entry with this nonce, and what became of it."""
        rows = zip(self.log.entries, self.outcomes, strict=True)
        return next(((entry, outcome) for entry, outcome in rows if entry.nonce == nonce), None)


def standing(client: Any, model_name: str) -> Standing:
    """Read log and aliases; changes nothing.

    Raises:
        RegistryError: the store failed.
    """
    # Between the two reads an alias may get ahead of the log; `settle` looks again before it believes that.
    log = registry_log.read(client, model_name)
    state, outcomes = replay(log.entries)
    return Standing(log, state, outcomes, _aliases(client, model_name))


def settle(client: Any, model_name: str) -> Standing:
    """Bring log and aliases together: finish what a dead process began, record what was done outside.

    Raises:
        RegistryError: the store failed.
    """
    doubted: tuple[int, int | None] | None = None
    for _ in range(_ATTEMPTS):
        now = standing(client, model_name)
        alias = now.aliases.get(CHAMPION)
        if now.is_pending:
            apply(client, model_name)
        elif alias == now.state.champion:
            return now
        elif doubted != (now.log.head, alias):
            doubted = now.log.head, alias
            time.sleep(_LOOK_AGAIN_S)
        elif not now.log.entries and now.aliases.get(PREVIOUS, alias) != alias:
            # A registry that is older than its log: what a rollback would restore comes first, and moves nothing.
            _note(client, model_name, PREVIOUS, now.aliases[PREVIOUS], now, is_applied=True)
        else:
            _note(client, model_name, CHAMPION, alias, now)
    raise _restless(model_name)


def carry_out(client: Any, model_name: str, entry: Entry) -> tuple[Entry, Outcome, Standing]:
    """Append an attempt and do what follows from it.

    Returns:
        the entry as it stands in the log, what became of it, and where the model stands now.
    Raises:
        RegistryError: the store failed. Whether the attempt counts is then for the log to say: try again.
    """
    _append(client, model_name, entry, registry_log.read(client, model_name))
    now = apply(client, model_name)
    found = now.outcome_of(entry.nonce)
    if found is None:
        raise _restless(model_name)
    return *found, now


def apply(client: Any, model_name: str) -> Standing:
    """Move the aliases to where the log says they belong.

    Raises:
        RegistryError: the store failed.
    """
    for _ in range(_ATTEMPTS):
        now = standing(client, model_name)
        if not now.is_pending:
            return now
        with registry_errors(f"moving the aliases of {model_name}"):
            targets = {PREVIOUS: now.state.earlier, CHAMPION: (now.state.champion,)}
            settled = {alias: _first(client, model_name, versions) for alias, versions in targets.items()}
            for alias, number in settled.items():
                _set_alias(client, model_name, alias, number, now.aliases)
            moved = now.state.moved_by
            if moved and moved.action == "promote" and moved.version and moved.champion:
                client.set_model_version_tag(model_name, str(moved.version), TAG_PREVIOUS_CHAMPION, str(moved.champion))
        assert now.state.last is not None
        # Only if nobody has written meanwhile: else an alias may have been moved back, and is moved once more.
        if registry_log.read(client, model_name).head == now.log.head:
            registry_log.mark_applied(client, model_name, now.state.last)
            aliases = {**now.aliases, **settled}
            entries = tuple(
                replace(entry, is_applied=True) if entry.number == now.state.last.number else entry
                for entry in now.log.entries
            )
            state, outcomes = replay(entries)
            return Standing(
                replace(now.log, entries=entries),
                state,
                outcomes,
                {alias: number for alias, number in sorted(aliases.items()) if number is not None},
            )
    raise _restless(model_name)


def version_or_none(client: Any, model_name: str, number: int | str) -> Any | None:
    """A version (an MLflow ModelVersion), or None where there is none of that number."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model_name, str(number))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return None


def _first(client: Any, model_name: str, numbers: Iterable[int | None]) -> int | None:
    """The first of these versions that has not been deleted."""
    return next((n for n in numbers if n is not None and version_or_none(client, model_name, n) is not None), None)


def _note(
    client: Any, model_name: str, alias: str, number: int | None, now: Standing, *, is_applied: bool = False
) -> None:
    """Record an alias that no entry has put where it is."""
    place = "removed" if number is None else f"on version {number}"
    began = "where no entry had put it" if now.log.entries else "when the log began"
    entry = new_entry(
        "outside",
        version=number,
        champion=now.state.champion,
        who="somebody outside mvqkd",
        why=f"the alias {alias} was found {place}, {began}",
        is_applied=is_applied,
    )
    _append(client, model_name, entry, now.log)


def _aliases(client: Any, model_name: str) -> dict[str, int]:
    from mlflow.exceptions import MlflowException

    with registry_errors(f"reading the aliases of {model_name}"):
        try:
            model = client.get_registered_model(model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: int(number) for alias, number in sorted(model.aliases.items())}


def _set_alias(client: Any, model_name: str, alias: str, number: int | None, found: Mapping[str, int]) -> None:
    if number is not None:
        client.set_registered_model_alias(model_name, alias, str(number))
    elif alias in found:
        # A login that may edit may not delete. The log says all the same that there is nothing before the champion.
        with permission_not_needed():
            client.delete_registered_model_alias(model_name, alias)


def _append(client: Any, model_name: str, entry: Entry, log: Log) -> None:
    """Append, with a source that a server accepts: the run of a version concerned, that version, an earlier entry."""
    run_id, source = None, f"models:/{model_name}{registry_log.SUFFIX}/{log.head}"
    with registry_errors(f"writing the audit log of {model_name}"):
        for number in (entry.version, entry.champion):
            found = None if number is None else version_or_none(client, model_name, number)
            if found is not None:
                run_id = found.run_id or None
                source = f"runs:/{run_id}/audit" if run_id else f"models:/{model_name}/{number}"
                break
    registry_log.append(client, model_name, entry, source=source, run_id=run_id)


def _restless(model_name: str) -> StoreError:
    return StoreError(
        f"audit log of {model_name}",
        expected=f"a moment's rest within {_ATTEMPTS} attempts",
        got="others who write to it all the time",
        next_step="run it again",
    )
