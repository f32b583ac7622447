"""``mvqkd approve``: make a registered version champion on a reviewer's word."""

from __future__ import annotations

import argparse

from mvqkd.cli.registry_arguments import add_reason, add_version, reason_of, version_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which version, and why."""
    add_version(parser, "approve")
    add_reason(parser)
    parser.add_argument(
        "--force", action="store_true", help="also without the gate's consent, or after somebody has rejected it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Approve, and print who is champion now."""
    from mvqkd.adapters.registry_review import approve

    done = approve(version_of(arguments), why=reason_of(arguments), force=arguments.force)
    before = done.entry.champion
    print(
        f"approve: {done.model_name} version {done.entry.version} is champion (audit entry {done.entry.number})"
        + (f"; before it was version {before}: `mvqkd rollback` restores that" if before else "")
    )
    return 0
