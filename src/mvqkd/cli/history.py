"""``mvqkd history``: who made which version champion, when and why, from the audit log of a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mvqkd.cli.registry_arguments import add_model, model_of

if TYPE_CHECKING:
    from mvqkd.adapters.registry_review import History
    from mvqkd.adapters.registry_state import Entry, Outcome

EXIT_FLAWED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which model, and in which form."""
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object with every field of every entry")


def run(arguments: argparse.Namespace) -> int:
    """Print the log, oldest first; exit code 1 when entries were altered or deleted."""
    from mvqkd.adapters.registry_review import history

    name = model_of(arguments)
    found = history(name)
    print(_as_json(name, found) if arguments.json else _as_text(name, found))
    return EXIT_FLAWED if found.flaws else 0


def _as_text(name: str, found: History) -> str:
    lines = [_line(entry, outcome) for entry, outcome in found.rows]
    champion = "no champion" if found.champion is None else f"champion is version {found.champion}"
    back = "" if found.previous is None else f"; `mvqkd rollback` would restore version {found.previous}"
    return "\n".join(
        [*lines, f"{name}: {champion}{back}", *(f"WARNING: {flaw}; do not trust the log" for flaw in found.flaws)]
    )


def _line(entry: Entry, outcome: Outcome) -> str:
    subject = "" if entry.version is None else f" version {entry.version}"
    seen = "" if entry.action == "reject" else f" (champion was {entry.champion or 'none'})"
    became = "" if outcome.verdict == "done" else f" -> {outcome.verdict.upper()}: {outcome.why}"
    forced = ", forced" if entry.forced else ""
    decision = f", decision {entry.decision_id[:12]}" if entry.decision_id else ""
    return (
        f"{entry.number:>4}  {_when(entry)}  {entry.action}{subject}{seen} by {entry.who}{decision}{forced}: "
        f"{entry.why}{became}"
    )


def _as_json(name: str, found: History) -> str:
    rows = [
        {**dataclasses.asdict(entry), "time_utc": _when(entry), "outcome": dataclasses.asdict(outcome)}
        for entry, outcome in found.rows
    ]
    record = {"model": name, "champion": found.champion, "previous": found.previous, "flaws": list(found.flaws)}
    return json.dumps({**record, "entries": rows}, indent=2, ensure_ascii=False)


def _when(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.time_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
