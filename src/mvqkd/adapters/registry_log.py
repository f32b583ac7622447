"""The audit log of a registered model: versions of a second model, ``NAME.audit``, one an entry.

The store numbers versions and never gives a number twice, so that appending is atomic on sqlite, on a server and on any
database behind it, and everybody reads the entries in one order. An entry is never changed; MLflow cannot forbid that,
so each carries a digest of all that its author had read: entries that were altered or deleted since show.
"""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import os
import socket
import uuid
from dataclasses import dataclass
from typing import Any

from mvqkd.adapters.mlflow_store import StoreError, registry_errors
from mvqkd.adapters.registry_state import Action, Entry
from mvqkd.adapters.registry_text import one_line, plain
from mvqkd.artifacts import canonical_json
from mvqkd.errors import RegistryError

SUFFIX = ".audit"
TAG_ENTRY = "mvqkd.audit.entry"
TAG_APPLIED = "mvqkd.audit.applied"

_MAX_WHY = 1000
_PAGE = 1000
_ATTEMPTS = 20
# What the store gives, or another tag says; the rest of an entry is its content.
_OUTSIDE_CONTENT = ("number", "time_ms", "is_applied")


@dataclass(frozen=True)
class Log:
    """The entries that could be read, and what is wrong with the log, a line each.

    ``head``: the last number in it, ``digest``: of everything up to there.
    """

    entries: tuple[Entry, ...] = ()
    flaws: tuple[str, ...] = ()
    head: int = 0
    digest: str = ""


def new_entry(
    action: Action,
    *,
    version: int | None,
    champion: int | None,
    why: str,
    who: str | None = None,
    **more: Any,
) -> Entry:
    """An entry by whoever runs this process, ready to be appended.

    Args:
        why: any text; becomes one line of bounded length.
        who: where it is not this process's user.
        more: further fields of ``Entry``.
    """
    who = one_line(who or actor())
    return Entry(action, version, champion, who, one_line(why)[:_MAX_WHY], uuid.uuid4().hex, **more)


def actor() -> str:
    """Who is at work: the user name that MLflow is told, else that of this machine's user."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if name:
        return name
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}@{socket.gethostname()}"


def read(client: Any, model_name: str) -> Log:
    """Read the whole log; empty where nothing has been written yet.

    Raises:
        RegistryError: the store failed.
    """
    versions: list[Any] = []
    with registry_errors(f"reading the audit log of {model_name}"):
        token = None
        while True:
            page = client.search_model_versions(
                f"name = '{model_name}{SUFFIX}'",
                max_results=_PAGE,
                order_by=["version_number ASC"],
                page_token=token,
            )
            versions += page
            token = page.token
            if not token:
                break
    return _log(sorted(versions, key=lambda version: int(version.version)))


def append(client: Any, model_name: str, entry: Entry, *, source: str, run_id: str | None) -> int:
    """Append an entry; returns its number. Only replaying the log tells whether it took effect.

    Args:
        source: every version of a model has one; a server accepts only what it can find.
        run_id: an MLflow run that the entry belongs to; the entry's page links to it.
    Raises:
        RegistryError: the store failed. The entry may be in the log all the same: its nonce tells.
    """
    name = f"{model_name}{SUFFIX}"
    with registry_errors(f"writing the audit log of {model_name}"):
        _ensure_log(client, model_name)
        for _ in range(_ATTEMPTS):
            log = read(client, model_name)
            content = {"after": log.head, "after_digest": log.digest, **_content(entry)}
            try:
                made = client.create_model_version(
                    name,
                    source,
                    run_id=run_id,
                    tags={TAG_ENTRY: canonical_json(content), **({TAG_APPLIED: "true"} if entry.is_applied else {})},
                    description=_description(model_name, entry),
                    await_creation_for=0,
                )
                return int(made.version)
            except Exception as error:
                if not _is_collision(error):
                    return _number_of(client, model_name, entry, error)
    raise StoreError(
        f"audit log {name}",
        expected=f"a free number within {_ATTEMPTS} attempts",
        got="others who were faster each time",
        next_step="run it again",
    )


def mark_applied(client: Any, model_name: str, entry: Entry) -> None:
    """Note that the aliases have been moved as far as this entry."""
    with registry_errors(f"writing the audit log of {model_name}"):
        client.set_model_version_tag(f"{model_name}{SUFFIX}", str(entry.number), TAG_APPLIED, "true")


def _ensure_log(client: Any, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(f"{model_name}{SUFFIX}")
    except MlflowException as missing:
        if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            client.create_registered_model(
                f"{model_name}{SUFFIX}",
                description=f"Audit log of `{model_name}`: a version is an entry, and no model. `mvqkd history` shows "
                "what became of each. Entries are only ever added; one that was altered or deleted shows there.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _is_collision(error: Exception) -> bool:
    # MLflow gives up on a number after three attempts of its own.
    return "Giving up after" in str(error)


def _number_of(client: Any, model_name: str, entry: Entry, error: Exception) -> int:
    """Number of an entry whose answer got lost on the way; without the entry, the error is passed on."""
    try:
        for found in reversed(read(client, model_name).entries):
            if found.nonce == entry.nonce:
                return found.number
    except RegistryError:
        raise error from None
    raise error


def _log(versions: list[Any]) -> Log:
    entries: list[Entry] = []
    flaws: list[str] = []
    digests = {0: ""}
    head = verified = 0
    for version in versions:
        number = int(version.version)
        flaws += [f"entry {missing} has been deleted" for missing in range(head + 1, number)]
        text = version.tags.get(TAG_ENTRY, "")
        digests[number] = hashlib.sha256(f"{digests[head]} {number} {text}".encode()).hexdigest()
        head = number
        try:
            entry, after, digest = _entry(text, version)
        except (ValueError, TypeError, KeyError, AttributeError):
            flaws.append(f"entry {number} cannot be read and counts for nothing")
            continue
        if digests.get(after) == digest:
            verified = max(verified, after)
        else:
            flaws.append(f"entries {verified + 1} to {after} are not what they were when entry {number} was written")
        entries.append(entry)
    return Log(tuple(entries), tuple(flaws), head, digests[head])


def _entry(text: str, version: Any) -> tuple[Entry, int, str]:
    """An entry, and which others its author had read, with their digest."""
    content = json.loads(text)
    known = {field.name for field in dataclasses.fields(Entry)} - set(_OUTSIDE_CONTENT)
    values = {name: value for name, value in content.items() if name in known}
    if not all(isinstance(values[name], int | None) for name in ("version", "champion")):
        raise TypeError(text)
    applied = version.tags.get(TAG_APPLIED) == "true"
    entry = Entry(**values, number=int(version.version), time_ms=int(version.creation_timestamp), is_applied=applied)
    return entry, int(content["after"]), str(content["after_digest"])


def _content(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(entry).items() if name not in _OUTSIDE_CONTENT}


def _description(model_name: str, entry: Entry) -> str:
    seen = "no champion" if entry.champion is None else f"version {entry.champion} as champion"
    subject = "" if entry.version is None else f" version {entry.version}"
    return (
        f"{entry.action}{subject}, by {plain(entry.who)}: {plain(entry.why)}\n\n"
        f"Of `{model_name}`, with {seen}. `mvqkd history --model {model_name}` says what became of it."
    )
