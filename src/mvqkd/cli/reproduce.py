"""``mvqkd reproduce``: how a registered version was made, as a script; with ``--run``, make it again and compare."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mvqkd.cli.push import REMOTE_VARIABLE

if TYPE_CHECKING:
    from mvqkd.adapters.reproduction import Reproduced

EXIT_DIFFERS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which version, and from where its code and its data come."""
    parser.add_argument("version", metavar="models:/NAME@ALIAS", help="also models:/NAME/VERSION")
    parser.add_argument("--run", action="store_true", dest="carry_out", help="do it, and compare ids and WER")
    parser.add_argument(
        "--repository", metavar="URL", help="where the code is cloned from (the checkout of the current directory)"
    )
    parser.add_argument(
        "--remote",
        default=os.environ.get(REMOTE_VARIABLE) or None,
        metavar="URL",
        help="DVC remote to take data, embeddings, quantizer and indexes from, as far as it has them"
        f" (${REMOTE_VARIABLE}; none: all is made)",
    )
    parser.add_argument("--into", type=Path, metavar="DIR", help="directory of the clone (reproduce-BUNDLE)")


def run(arguments: argparse.Namespace) -> int:
    """Print the script, or carry it out; exit code 1 when indexes or WER differ."""
    from mvqkd.adapters.reproduction import read_recipe, rebuild, repository_here, script
    from mvqkd.errors import ConfigError

    recipe = read_recipe(arguments.version)
    directory: Path = arguments.into or Path(f"reproduce-{recipe.bundle_id[:12]}")
    repository = arguments.repository or repository_here(Path.cwd())
    if not arguments.carry_out:
        print(script(recipe, repository=repository, remote=arguments.remote, directory=directory))
        return 0
    if repository is None:
        raise ConfigError("--repository", expected="where to clone from", got="none", next_step="pass a URL or a path")
    done = rebuild(recipe, repository=repository, remote=arguments.remote, directory=directory)
    print(_table(done))
    return 0 if done.is_same else EXIT_DIFFERS


def _table(done: Reproduced) -> str:
    rows = [("stage", "then", "now", "", "")]
    rows += [
        (row.made.stage, row.made.id[:12], row.found[:12], "same" if row.is_same else "OTHER", row.how)
        for row in done.stages
    ]
    same = "same" if done.wer_then == done.wer_now else "OTHER"
    rows.append(("WER of the bundle", _shown(done.wer_then), _shown(done.wer_now), same, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _shown(wer: float | None) -> str:
    return "unknown" if wer is None else f"{100 * wer:.4f} %"
