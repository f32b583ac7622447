"""What a person decides about registered versions: approve, reject, roll back, and read who did what.

Plain functions, to be called from a pipeline's step as from the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mvqkd.adapters.mlflow_store import connect, registry_errors, registry_is_missing
from mvqkd.adapters.registry import bundle_of, find_version
from mvqkd.adapters.registry_change import Standing, carry_out, settle, standing, version_or_none
from mvqkd.adapters.registry_log import new_entry
from mvqkd.adapters.registry_page import TAG_AWAITS, TAG_JUDGED_AGAINST, TAG_REVIEW, TAG_VERDICT, reviewed
from mvqkd.adapters.registry_state import Entry, Outcome
from mvqkd.adapters.registry_text import require_model_name
from mvqkd.adapters.run_records import TAG_BUNDLE
from mvqkd.adapters.tracking import TAG_DECISION
from mvqkd.errors import RegistryError


@dataclass(frozen=True)
class Reviewed:
    """What a command has brought about: its entry in the audit log, and where the model stands now."""

    model_name: str
    entry: Entry
    standing: Standing


@dataclass(frozen=True)
class History:
    """Every entry of the audit log with what became of it, the champion of now, and what is wrong with the log."""

    rows: tuple[tuple[Entry, Outcome], ...]
    champion: int | None
    previous: int | None
    flaws: tuple[str, ...]


def approve(uri: str, *, why: str, force: bool = False) -> Reviewed:
    """Make a version champion on a reviewer's word.

    The gate must have decided for it, against the champion of today, and nobody may have rejected it since.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        force: do it whatever was decided; the version's files must verify all the same.
    Raises:
        RegistryError: it may not become champion, or somebody else was faster.
        ArtifactError: its files are damaged.
    """
    client, version = find_version(uri)
    name, number = str(version.name), int(version.version)
    now = settle(client, name)
    if now.champion == number:
        raise _refused(uri, "a version that is not champion", f"version {number}, champion already", "nothing to do")
    if not force:
        _require_decision(client, version, now)
    bundle_of(client, version, afresh=True)
    decision = version.tags.get(TAG_DECISION) or None
    done = _carry_out(
        client, name, "promote", number, now, why, version, decision_id=decision, forced=force, verb="approve"
    )
    with registry_errors(f"tagging {name} version {number}"):
        if TAG_AWAITS in version.tags:
            client.set_model_version_tag(name, str(number), TAG_AWAITS, "nothing")
    _note(client, name, number, f"approved in entry {done.entry.number} by {done.entry.who}: {done.entry.why}")
    return done


def reject(uri: str, *, why: str) -> Reviewed:
    """Bar a version from becoming champion, whatever the gate says of it.

    Raises:
        RegistryError: it is champion, or was rejected before.
    """
    client, version = find_version(uri)
    name, number = str(version.name), int(version.version)
    now = settle(client, name)
    if number in now.state.rejected:
        entry = now.state.rejected[number]
        raise _refused(uri, "a version that is not rejected", f"one rejected in entry {entry}", "nothing to do")
    if now.champion == number:
        raise _refused(
            uri,
            "a version that is not champion",
            f"the champion, version {number}",
            f"`mvqkd rollback --model {name}` first"
            if now.state.earlier
            else "promote another first: it is the only one",
        )
    done = _carry_out(client, name, "reject", number, now, why, version, verb="reject")
    _note(client, name, number, f"rejected in entry {done.entry.number} by {done.entry.who}: {done.entry.why}")
    return done


def rollback(model_name: str, *, to: int | None = None, why: str) -> Reviewed:
    """Make an earlier version champion again.

    Each rollback goes one champion further back, and never forward again to one that was rolled back.

    Args:
        to: any version, also one that was rolled back; None: the champion before this one.
    Raises:
        RegistryError: there is no such version, or somebody else has moved the champion meanwhile.
        ArtifactError: its files are damaged; the champion stays.
    """
    if registry_is_missing():
        raise _refused(f"model {model_name}", "a model registry here", "none", "set MLFLOW_TRACKING_URI")
    client = connect()
    now = settle(client, require_model_name(model_name))
    advice = f"`mvqkd history --model {model_name}` shows what there was; --to VERSION takes any version"
    subject = f"champion of {model_name}, version {now.champion or 'none'}"
    if to is not None and to == now.champion:
        raise _refused(subject, "another version to roll back to", f"version {to}, champion already", advice)
    with registry_errors(f"looking up earlier champions of {model_name}"):
        candidates = now.state.earlier if to is None else (to,)
        versions = (version_or_none(client, model_name, number) for number in candidates)
        version = next((version for version in versions if version is not None), None)
    if version is None:
        expected = "an earlier champion that nobody has rejected or deleted" if to is None else f"a version {to}"
        raise _refused(subject, expected, "none", advice)
    bundle_of(client, version, afresh=True)
    done = _carry_out(client, model_name, "rollback", int(version.version), now, why, version, verb="rollback")
    if now.champion is not None:
        said = f"rolled back in entry {done.entry.number} by {done.entry.who}: {done.entry.why}"
        _note(client, model_name, now.champion, said)
    return done


def history(model_name: str) -> History:
    """Read the audit log.

    Raises:
        RegistryError: the store failed.
    """
    if registry_is_missing():
        return History((), None, None, ())
    now = standing(connect(), require_model_name(model_name))
    rows = tuple(zip(now.log.entries, now.outcomes, strict=True))
    return History(rows, now.champion, now.previous, now.log.flaws)


def _require_decision(client: Any, version: Any, now: Standing) -> None:
    uri, tags = f"{version.name} version {version.version}", version.tags
    if tags.get(TAG_VERDICT) != "promote":
        said = tags.get("mvqkd.reason", "no decision of the gate")
        raise _refused(uri, "a decision of the gate to promote it", said, "--force approves it all the same")
    if (entry := now.state.rejected.get(int(version.version))) is not None:
        who = next((row.who for row in now.log.entries if row.number == entry), "somebody")
        raise _refused(uri, "that nobody has rejected it", f"entry {entry}, by {who}", "--force approves all the same")
    decision = tags.get(TAG_DECISION)
    if decision in now.state.decisions:
        raise _refused(
            uri,
            "a decision that was not carried out yet",
            f"one carried out in entry {now.state.decisions[decision]} and undone since",
            f"`mvqkd rollback --model {version.name} --to {version.version}` takes it back",
        )
    if now.champion is None:
        return
    with registry_errors(f"looking up the champion of {version.name}"):
        champion = version_or_none(client, version.name, now.champion)
    today = "" if champion is None else champion.tags.get(TAG_BUNDLE, "")
    judged = tags.get(TAG_JUDGED_AGAINST, "")
    if today != judged:
        raise _refused(
            uri,
            f"a comparison with today's champion, version {now.champion} ({today[:12]})",
            f"one with {judged[:12] or 'no champion'}",
            "run `mvqkd gate` and `mvqkd promote` again, or --force",
        )


def _carry_out(
    client: Any, name: str, action: Any, number: int, now: Standing, why: str, version: Any, *, verb: str, **more: Any
) -> Reviewed:
    bundle_id = version.tags.get(TAG_BUNDLE)
    entry = new_entry(action, version=number, champion=now.champion, why=why, bundle_id=bundle_id, **more)
    written, outcome, after = carry_out(client, name, entry)
    if outcome.verdict != "done":
        by = next((row.who for row in after.log.entries if row.number == outcome.by), None)
        raise RegistryError(
            f"{verb} of {name} version {number}, audit entry {written.number}",
            expected="that nobody has changed the model meanwhile",
            got=outcome.why + (f", by {by}" if by else ""),
            next_step=f"look at `mvqkd history --model {name}` and decide anew",
        )
    return Reviewed(name, written, after)


def _note(client: Any, name: str, number: int, said: str) -> None:
    """Say on a version's page what a person has decided about it."""
    with registry_errors(f"noting on {name} version {number}"):
        version = version_or_none(client, name, number)
        if version is not None:
            client.set_model_version_tag(name, str(number), TAG_REVIEW, said)
            client.update_model_version(name, str(number), description=reviewed(version.description or "", said))


def _refused(subject: str, expected: str, got: str, next_step: str) -> RegistryError:
    return RegistryError(subject, expected=expected, got=got, next_step=next_step)
