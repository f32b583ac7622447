"""Arguments that the commands about registered versions share: which model, and why."""

from __future__ import annotations

import argparse
from pathlib import Path

from mvqkd.cli.params import model_name
from mvqkd.errors import ConfigError


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, whose default is the name under which ``promote`` registers."""
    parser.add_argument("--model", metavar="NAME", help="registered model (promote.model_name of the params file)")
    parser.add_argument("--params", type=Path, metavar="FILE", help="YAML with that section (params.yaml, if any)")


def model_of(arguments: argparse.Namespace) -> str:
    """The model that is meant."""
    return str(arguments.model) if arguments.model else model_name(arguments.params)


def add_version(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add which version, by default the newest of the model."""
    parser.add_argument(
        "version",
        nargs="?",
        metavar="models:/NAME/VERSION",
        help=f"what to {verb}; also models:/NAME@ALIAS (the challenger: the newest version)",
    )
    add_model(parser)


def version_of(arguments: argparse.Namespace) -> str:
    """The URI of the version that is meant."""
    return str(arguments.version) if arguments.version else f"models:/{model_of(arguments)}@challenger"


def add_reason(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--reason``, for the audit log."""
    shown = f" ({default})" if default else ""
    parser.add_argument(
        "--reason", required=default is None, default=default, metavar="TEXT", help=f"why, for the audit log{shown}"
    )


def reason_of(arguments: argparse.Namespace) -> str:
    """The reason that was given.

    Raises:
        ConfigError: it is empty.
    """
    reason = str(arguments.reason).strip()
    if not reason:
        raise ConfigError("--reason", expected="a reason", got="none", next_step="say why in a few words")
    return reason
