"""The command line: one subcommand a stage and a few to look around. Help loads no torch."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from mvqkd.errors import MvqkdError
from mvqkd.stages import STAGES

# name -> (module with add_arguments(parser) and run(arguments) -> exit code, one line of help)
TOOLS: dict[str, tuple[str, str]] = {
    "transcribe": ("mvqkd.cli.transcribe", "print the text of audio files with a bundle or the current champion"),
    "serve": ("mvqkd.cli.serve", "recognise speech over WebSocket and HTTP, with a page to try it (extra serve)"),
    "inspect": ("mvqkd.cli.inspect", "say what an artifact is, what it was made from and how good it is"),
    "merge-ci": ("mvqkd.cli.merge_ci", "join the parts that several ranks of encode-ci have written"),
    "push": ("mvqkd.cli.push", "upload an artifact to a DVC remote and print its id there"),
    "pull": ("mvqkd.cli.pull", "download an artifact from a DVC remote by that id, verified; needs no git"),
    "report": ("mvqkd.cli.report", "write everything about a run on one HTML page that needs no network"),
    "monitor": ("mvqkd.cli.monitor", "compare new audio with what the quantizer was fitted on; exit code 3 is drift"),
    "approve": ("mvqkd.cli.approve", "make a registered version champion on a reviewer's word"),
    "reject": ("mvqkd.cli.reject", "bar a registered version from becoming champion"),
    "rollback": ("mvqkd.cli.rollback", "make the champion before this one champion again"),
    "history": ("mvqkd.cli.history", "show who changed a registered model, when and why"),
    "reproduce": ("mvqkd.cli.reproduce", "print how a registered version was made, or make it again and compare"),
    "sync": ("mvqkd.cli.sync", "deliver to MLflow what waits since it could not be reached"),
    "summary": ("mvqkd.cli.summary", "collect the figures of all stages into artifacts/summary.json and a table"),
    "pipeline": ("mvqkd.cli.pipeline", "compile, submit, schedule and watch the Kubeflow pipeline (extra kfp)"),
    "demo": ("mvqkd.cli.demo", "run every stage that is out of date (dvc repro), then the summary"),
    "doctor": ("mvqkd.cli.doctor", "check what of the environment is missing and say how to get it"),
    "ui": ("mvqkd.cli.ui", "open the MLflow pages of runs and registered versions on loopback"),
}

EXIT_DOMAIN_ERROR = 1
EXIT_USAGE = 2


def run(arguments: Sequence[str]) -> int:
    """Parse and carry out one command.

    Returns:
        0 done, 1 a problem that the user can act on (one line on stderr), 2 wrong usage; 3: see
        ``gate --strict`` and ``monitor``.
    """
    parser = build_parser(arguments[0] if arguments else None)
    parsed = parser.parse_args(arguments)
    if not hasattr(parsed, "run"):
        parser.print_help()
        return EXIT_USAGE
    _set_up_logging(parsed.verbose)
    try:
        code: int = parsed.run(parsed)
    except MvqkdError as error:
        if parsed.debug:
            raise
        print(f"mvqkd {parsed.command}: {error}", file=sys.stderr)
        return EXIT_DOMAIN_ERROR
    except ModuleNotFoundError as error:
        missing = _module("mvqkd.cli.extras").missing_dependency(error, f"command {parsed.command}")
        if parsed.debug or missing is None:
            raise
        print(f"mvqkd {parsed.command}: {missing}", file=sys.stderr)
        return EXIT_DOMAIN_ERROR
    except KeyboardInterrupt:
        print(f"mvqkd {parsed.command}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; leave quietly, without Python's complaint at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Build the parser; only the named command's own arguments are added, so that help stays fast."""
    parser = argparse.ArgumentParser(
        prog="mvqkd",
        description="Distil a big speech teacher into a small ONNX ASR student through codebook indexes (MVQ-KD).",
        epilog="Stages run in the order shown; each reads and writes directories under artifacts/. "
        "`mvqkd STAGE --help` lists its parameters. Start with `mvqkd doctor` and `mvqkd demo`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(title="stages, then tools", metavar="COMMAND", dest="command")
    for stage in STAGES.values():
        sub = commands.add_parser(stage.name, help=stage.help, description=stage.help, parents=[common])
        if command == stage.name:
            _module("mvqkd.cli.stage_command").add_arguments(sub, stage)
    for name, (module, text) in TOOLS.items():
        sub = commands.add_parser(name, help=text, description=text, parents=[common])
        if command == name:
            _module(module).add_arguments(sub)
            sub.set_defaults(run=_module(module).run)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("mvqkd").setLevel(logging.DEBUG if verbose else logging.INFO)
