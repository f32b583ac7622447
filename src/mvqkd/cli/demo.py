"""``mvqkd demo``: bring every stage up to date with ``dvc repro``, then print the table of results.

DVC is called as the program it is. Its messages are reworded on the way, one line a stage; progress bars and
errors of the stages go to the terminal untouched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mvqkd.config import load_section
from mvqkd.errors import ConfigError
from mvqkd.stages import STAGES

_RUNNING = re.compile(r"Running stage '(?P<stage>[^']+)':")
_UNCHANGED = re.compile(r"Stage '(?P<stage>[^']+)' didn't change, skipping")
_RESTORED = re.compile(r"Stage '(?P<stage>[^']+)' is cached - skipping run.*")
# What DVC says to people who keep dvc.lock in git; here it would only puzzle.
_HOUSEKEEPING = re.compile(
    r"> mvqkd .*|(Generating|Updating) lock file .*|To (track|enable) .*|\s*(git add|dvc config) .*"
    r"|Use `dvc push` .*|Data and pipelines are up to date\.|"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo takes no arguments: params.yaml holds what can be tuned."""
    parser.epilog = "Runs in a checkout: it needs dvc.yaml and params.yaml of the current directory."


def run(_arguments: argparse.Namespace) -> int:
    """Run what is out of date, then the summary.

    Returns:
        0, or 1 when a stage failed; its own message is above, and another run goes on from there.
    """
    _check_folder(Path.cwd())
    _forget_lost_registry(Path.cwd())
    started = time.time()
    follower = Follower(print)
    code = _reproduce(follower)
    if code:
        where = f"stage {follower.running}" if follower.running else "dvc repro"
        print(
            f"mvqkd demo: {where} failed, its message is above; run `mvqkd demo` again to go on from there"
            if code != 130
            else f"mvqkd demo: interrupted in {where}; run `mvqkd demo` again to go on from there",
            file=sys.stderr,
        )
        return 130 if code == 130 else 1
    from mvqkd.cli.main import run as run_command

    print()
    # Where nothing had to run, the time that counts is the one that the stages took when they did.
    return run_command(["summary", *(["--started", str(started)] if follower.running else [])])


class Follower:
    """Rewords DVC's lines, one line a stage, and knows which stage is running."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.running: str | None = None
        self._show = show

    def line(self, text: str) -> None:
        """Take one line of DVC's output; what is not known passes unchanged."""
        text = text.rstrip("\n")
        if match := _RUNNING.fullmatch(text):
            self.running = match["stage"]
            self._show(f"{self._place(match['stage'])} ...")
        elif match := _UNCHANGED.fullmatch(text):
            self._show(f"{self._place(match['stage'])}: up to date")
        elif match := _RESTORED.fullmatch(text):
            self._show(f"{self._place(match['stage'])}: the same as in an earlier run, taken from DVC's cache")
        elif not _HOUSEKEEPING.fullmatch(text):
            self._show(text)

    def _place(self, name: str) -> str:
        order = list(STAGES)
        return f"[{order.index(name) + 1}/{len(order)}] {name}" if name in order else name


def _check_folder(folder: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"folder {folder}",
                expected=f"{name} in the current directory",
                got="no such file",
                next_step="change into the checkout of mvqkd and run it there",
            )
    # A slip in the last section should not show after ten minutes of work on the first ones.
    for stage in STAGES.values():
        load_section(stage.config_model, folder / "params.yaml")
    if not (folder / ".dvc").is_dir():
        _dvc("init", "--no-scm", "--quiet")
    elif not _in_git(folder):
        _dvc("config", "--local", "core.no_scm", "true")


def _forget_lost_registry(folder: Path) -> None:
    """Let gate and promote run again when the registry that they wrote to is gone (mlflow.db was deleted).

    DVC sees files only, and would call both up to date.
    """
    from mvqkd.adapters.mlflow_store import registry_is_missing

    if registry_is_missing():
        for stage in ("gate", "promote"):
            shutil.rmtree(folder / "artifacts" / STAGES[stage].output_directory, ignore_errors=True)


def _reproduce(follower: Follower) -> int:
    # Only stdout is read here: on stderr the stages see the terminal, and show bars on it.
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], stdout=subprocess.PIPE, text=True, bufsize=1, env=_environment()
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            follower.line(line)
        return process.wait()
    except KeyboardInterrupt:
        # The terminal sent the signal to every process; let them end in their own order.
        process.wait()
        return 130


def _dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, env=_environment(), stdout=subprocess.DEVNULL)


def _environment() -> dict[str, str]:
    """dvc.yaml calls ``mvqkd``: the one of this environment, whether it is activated or not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def _in_git(folder: Path) -> bool:
    command = ["git", "-C", str(folder), "rev-parse", "--is-inside-work-tree"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
