"""Requests to stop: the signals that a scheduler sends before it takes a machine away. Loads no torch."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from mvqkd.errors import TrainingError

# 128 + SIGTERM, what a shell shows of a process that SIGTERM has ended: schedulers know it as no fault of the program.
STOPPED_EXIT_CODE = 143
_STOPPED_AT = "stopped at step "
# How often a wait looks for a signal: handlers cannot cut it short.
_SLICE_S = 0.1


class TrainingStopped(TrainingError):
    """SIGTERM has ended training early; the same command goes on where it stopped."""


class StopRequest:
    """Notes signals instead of ending the process; a context, with the handlers of before restored at its end.

    Outside the main thread, where Python has no handlers, it notes nothing and signals do what they did before.

    Args:
        signals: which to note.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.received: signal.Signals | None = None
        self._signals = signals or (signal.SIGTERM,)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            number, handler = self._before.popitem()
            # None: a handler that Python has not set and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def sleep(self, duration_s: float) -> None:
        """Wait so long, or until a signal is noted."""
        end = time.monotonic() + duration_s
        while self.received is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(_SLICE_S, left))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)


def stopped_at(step: int) -> TrainingStopped:
    """The error of a training that has saved its state after ``step`` because it was told to stop."""
    return TrainingStopped(
        f"train-student {_STOPPED_AT}{step}",
        expected="training to its end",
        got="SIGTERM; the state is saved",
        next_step="run the same command again to go on",
    )


def step_of_stop(line: str) -> int | None:
    """The step in a line of output that holds ``stopped_at``'s message; None in any other line."""
    digits = line.partition(f"train-student {_STOPPED_AT}")[2].partition(":")[0]
    return int(digits) if digits.isdigit() else None
