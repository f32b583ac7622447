"""docs/serving.md shows the measured figures and the limits that the code has."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from mvqkd.serve import protocol
from mvqkd.serve.metrics import Metrics
from mvqkd.serve.protocol import CLOSE_CODE_OF_END, MAX_MESSAGE_BYTES, MAX_RATE_HZ, MIN_RATE_HZ
from mvqkd.serve.settings import DEFAULT_PORT

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_page_is_what_its_benchmark_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    results = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text(encoding="utf-8"))
    rendered = importlib.import_module("serving_page").render(results)
    assert len(rendered) > 300
    assert rendered in PAGE, "run `python benchmarks/serving.py --render`"


def test_page_names_every_close_code_and_no_other() -> None:
    codes = {value for name, value in vars(protocol).items() if name.startswith("CLOSE_") and isinstance(value, int)}
    named = {int(code) for code in re.findall(r"^\| (1\d{3}) \|", PAGE, re.MULTILINE)}
    # 1009 is the WebSocket library's own.
    assert named == codes | {1009}
    assert set(CLOSE_CODE_OF_END.values()) <= named


def test_page_states_the_limits() -> None:
    assert f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz" in PAGE
    assert f"{MAX_MESSAGE_BYTES // 1024} KiB" in PAGE
    assert f":{DEFAULT_PORT}/" in PAGE


def test_page_names_metrics_that_exist() -> None:
    metrics = Metrics()
    metrics.rejected.labels("busy").inc()
    metrics.swaps.labels("champion", "failed").inc()
    metrics.streams_open.labels("champion").inc()
    metrics.model_info.labels("champion", "1", "0").set(1)
    text = metrics.page().decode()
    named = set(re.findall(r"`(mvqkd_\w+)`", PAGE))
    assert len(named) >= 7
    for name in named:
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}", text, re.MULTILINE), name
