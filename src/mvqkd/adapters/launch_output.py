"""What torch's elastic launcher and its ranks print: passed on, and searched for what ended them."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections import defaultdict, deque
from pathlib import Path
from typing import IO

from mvqkd.train.preemption import step_of_stop

_LOG = logging.getLogger("mvqkd.launch")

# How the launcher marks lines of ranks; a tab is in no message of ours.
PREFIX_TEMPLATE = "rank ${rank}\t"
_RANK = re.compile(r"rank (\d+)\t")
_RESTART = re.compile(r"(\d+)/(\d+) attempts left; will restart worker group")
_FAILURE = re.compile(
    r"rank\s*: (?P<rank>\d+) \(local_rank: \d+\)\s*\n"
    r"\s*exitcode\s*: (?P<code>-?\d+) [^\n]*\n"
    r"\s*error_file: (?P<file>[^\n]*)"
)
_KEPT_RANK_LINES = 5
# Enough for the launcher's summary of a node's ranks.
_KEPT_AGENT_LINES = 500


class LauncherOutput:
    """Reads the output of the launcher line by line."""

    def __init__(self) -> None:
        self.stopped_at_step: int | None = None
        self._of_rank: dict[int, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT_RANK_LINES))
        self._of_agent: deque[str] = deque(maxlen=_KEPT_AGENT_LINES)

    def relay(self, stream: IO[str]) -> None:
        """Pass lines of ranks on to stderr, those of rank 0 as they are; note all. Closes the stream at its end."""
        with stream:
            for line in stream:
                self._note(line.rstrip("\n"))

    def _note(self, line: str) -> None:
        match = _RANK.match(line)
        if match is None:
            self._of_agent.append(line)
            _LOG.debug("torchrun: %s", line)
            if restart := _RESTART.search(line):
                _LOG.warning(
                    "train-student: a rank ended; all restart from the last state, %s of %s left", *restart.groups()
                )
            return
        rank, text = int(match[1]), line[match.end() :]
        print(text if rank == 0 else f"rank {rank}: {text}", file=sys.stderr, flush=True)
        self._of_rank[rank].append(text)
        step = step_of_stop(text)
        self.stopped_at_step = self.stopped_at_step if step is None else step

    def failure(self) -> tuple[str, str]:
        """Who failed first, and of what: ``rank 1``, its error or last lines; without a failed rank the launcher's."""
        found = [_Failure(match) for match in _FAILURE.finditer("\n".join(self._of_agent))]
        if not found:
            return "torch's launcher", next((line for line in reversed(self._of_agent) if line.strip()), "no word")
        # The launcher sends SIGTERM to those that are left. Whom another signal killed said nothing. Of the others the
        # first to say so is the one: a rank whose peer is gone says so after that.
        first = min(found, key=lambda failure: (failure.code == -signal.SIGTERM, failure.code >= 0, failure.told_at))
        last = " | ".join(line.strip() for line in self._of_rank[first.rank] if line.strip())
        return f"rank {first.rank}", first.message or ", ".join(part for part in (first.ending, last) if part)


class _Failure:
    """An entry of the launcher's summary."""

    def __init__(self, match: re.Match[str]) -> None:
        self.rank, self.code = int(match["rank"]), int(match["code"])
        self.message, self.told_at = "", float("inf")
        file = Path(match["file"].strip())
        if file.is_file():
            self.message = json.loads(file.read_text(encoding="utf-8"))["message"]["message"]
            # The summary's own times are whole seconds.
            self.told_at = file.stat().st_mtime

    @property
    def ending(self) -> str:
        return f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"
