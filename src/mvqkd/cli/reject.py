"""``mvqkd reject``: bar a registered version from becoming champion."""

from __future__ import annotations

import argparse

from mvqkd.cli.registry_arguments import add_reason, add_version, reason_of, version_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which version, and why."""
    add_version(parser, "reject")
    add_reason(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reject, and print where that is noted."""
    from mvqkd.adapters.registry_review import reject

    done = reject(version_of(arguments), why=reason_of(arguments))
    print(
        f"reject: {done.model_name} version {done.entry.version} will not become champion (audit entry "
        f"{done.entry.number}); champion is {_named(done.standing.champion)}"
    )
    return 0


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
