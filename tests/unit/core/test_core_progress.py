"""Progress: every item passes, and a log shows how far it is."""

from __future__ import annotations

import logging

import pytest

from mvqkd import progress


def test_items_pass_unchanged() -> None:
    assert list(progress.track(iter("abc"), "stage", total=3)) == ["a", "b", "c"]


def test_lines_tell_count_rate_and_time_left(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO, logger="mvqkd.progress"):
        assert list(progress.track(range(3), "encode-ci", total=10, unit="cut", initial=4)) == [0, 1, 2]
    lines = [record.getMessage() for record in caplog.records]
    assert "encode-ci: 7/10 cut" in lines[-1]
    assert "left" in lines[-1]
