"""Requests to stop: signals are noted in the main thread only, waits end with them, handlers come back."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mvqkd.train.preemption import StopRequest, step_of_stop, stopped_at


@pytest.mark.parametrize("signals", [(), (signal.SIGTERM, signal.SIGINT)])
def test_a_signal_is_noted_and_the_handlers_come_back(signals: tuple[signal.Signals, ...]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with StopRequest(*signals) as stop:
        assert stop.received is None
        assert (signal.getsignal(signal.SIGINT) is before[signal.SIGINT]) is not bool(signals)
        os.kill(os.getpid(), signal.SIGTERM)
        stop.sleep(5.0)
        assert stop.received is signal.SIGTERM
        if signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received is signal.SIGTERM, "the first counts"
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_wait_ends_with_a_signal_or_its_time() -> None:
    with StopRequest() as stop:
        began = time.monotonic()
        stop.sleep(0.15)
        assert 0.15 <= time.monotonic() - began < 5
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        stop.sleep(30)
        assert time.monotonic() - began < 10


def test_another_thread_has_no_handlers() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(signal.getsignal(signal.SIGTERM))
            stop.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_the_message_of_a_stop_says_the_step_to_people_and_programs() -> None:
    message = str(stopped_at(12))
    assert message.startswith("train-student stopped at step 12: expected training to its end, got SIGTERM")
    assert step_of_stop(f"10:00:00 mvqkd train-student: {message}") == 12
    assert step_of_stop("train-student stopped at step twelve: no") is None
    assert step_of_stop("train-student: resumed at step 12, epoch 1") is None
