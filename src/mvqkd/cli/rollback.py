"""``mvqkd rollback``: make the champion before this one champion again."""

from __future__ import annotations

import argparse

from mvqkd.cli.registry_arguments import add_model, add_reason, model_of, reason_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which model, how far back, and why."""
    add_model(parser)
    parser.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="back (or forward again) to this version (the champion before this one; again: the one before that)",
    )
    add_reason(parser, "no reason given")


def run(arguments: argparse.Namespace) -> int:
    """Roll back, and print from where to where."""
    from mvqkd.adapters.registry_review import rollback

    done = rollback(model_of(arguments), to=arguments.to, why=reason_of(arguments))
    print(
        f"rollback: {done.model_name} version {done.entry.version} is champion again, in place of version "
        f"{done.entry.champion} (audit entry {done.entry.number})"
    )
    return 0
