"""benchmarks/scale_plan.py and the page: arithmetic by hand, choices, and that every figure comes from the results."""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARDS = [
    {"cuts": 5, "audio_s": 60.0, "total_s": 0.6, "cpu_s": 0.6, "teacher_s": 0.4, "codec_s": 0.14},
    {"cuts": 5, "audio_s": 60.0, "total_s": 1.2, "cpu_s": 1.2, "teacher_s": 0.9, "codec_s": 0.24},
]
RATES: dict[str, Any] = {
    "run": {
        "command": "c",
        "machine": {"cores": 2, "processor": "p"},
        "versions": {"python": "1", "torch": "2", "lhotse": "3"},
        "load_average": 0.1,
        "seed": 0,
    },
    "encode": {"shards": SHARDS, "teacher_id": "t", "layer": 1, "dim": 8, "codec_bytes": 8, "mean_cut_s": 12.0},
    "start": {
        "runs_s": [3.0],
        "start_s": 3.0,
        "peak_bytes": 5e8,
        "plan_cuts": 100,
        "plan_s_per_cut": 1e-4,
        "plan_bytes_per_cut": 4000.0,
    },
    "merge": {
        "merge_bytes_per_s": 1e8,
        "verify_bytes_per_s": 1e9,
        "index_bytes_per_cut": 30.0,
        "open_bytes_per_cut": 300.0,
    },
}


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {name: importlib.import_module(f"scale_{name}") for name in ("assumptions", "page", "plan")}


@pytest.fixture
def plan(modules: Any) -> Any:
    return modules["plan"]


@pytest.fixture
def assumed(modules: Any) -> Any:
    return modules["assumptions"].Assumptions()


def test_storage_is_the_papers(plan: Any, assumed: Any) -> None:
    """1,000 h x 3 of 1280 float32 channels at 50 Hz: 2.5 TB in binary units; 8 bytes a frame are a 640th of it."""
    sizes = plan.storage_bytes(1_000, RATES, assumed)
    assert sizes["float32"] / 2**40 == pytest.approx(2.5, rel=0.02)
    assert sizes["float16"] == sizes["float32"] / 2
    index = 1_000 * 3600 / 12 * 3 * 30
    assert sizes["ci_8"] - index == pytest.approx(sizes["float32"] / 640)
    assert sizes["ci_16"] - index == pytest.approx(2 * (sizes["ci_8"] - index))


def test_scenarios_take_what_was_measured_and_say_what_was_not(plan: Any, assumed: Any) -> None:
    core, gpu = plan.scenarios(RATES, assumed)
    assert list(core.rates) == pytest.approx([0.01, 0.02])
    assert core.real_time_factor == pytest.approx(1 / 0.015)
    large = 2 * 1e9 * 50 / 3e13
    assert list(gpu.rates) == pytest.approx([large * 2 / 3 + 0.001, large * 4 / 3 + 0.001])


def test_a_run_is_as_large_as_memory_allows(plan: Any, assumed: Any) -> None:
    assert plan.run_hours(RATES, replace(assumed, pod_memory_gb=16)) == 10_000  # 4 million cuts of 12 s: 13,333 h
    assert plan.run_hours(RATES, replace(assumed, pod_memory_gb=4)) == 3_000
    for cut in plan.campaigns(60_000, 10_000, 200):
        assert cut.run_h <= 10_000
        assert 1 <= cut.pods <= cut.items <= 200
        assert cut.num_runs * cut.items * cut.item_audio_h == pytest.approx(60_000 * (1 / 0.9 + 1 + 1 / 1.1))
    assert {cut.num_runs for cut in plan.campaigns(60_000, 10_000, 200)} == {6, 12, 30, 60}


def test_without_chance_a_row_is_arithmetic(plan: Any, assumed: Any) -> None:
    calm = replace(assumed, failures_per_hour=0.0, schedule_spread=0.0, straggler_share=0.0)
    same = {**RATES, "encode": {"shards": SHARDS[:1]}}
    core, _ = plan.scenarios(same, calm)
    row = plan.simulated(core, plan.Campaign(1_000, 2, 10, 4), same, calm, runs=5, seed=0)
    work_h = 500 * (1 / 0.9 + 1 + 1 / 1.1) / 10 * 0.01
    start_h = (3 + 1e-4 * 500 * 300) / 3600
    assert row["item_work_h"] == pytest.approx(work_h, abs=1e-4)
    assert row["median_h"] == row["p95_h"] == pytest.approx(2 * 3 * (90 / 3600 + start_h + work_h), abs=1e-3)
    assert row["cost"] == pytest.approx(20 * (start_h + work_h) * 0.04, abs=1e-3)
    assert row["wasted_share"] == pytest.approx(start_h / (start_h + work_h), abs=1e-5)
    assert row["run_failure"] == 0


def test_failures_cost_and_checkpoints_save(plan: Any, assumed: Any) -> None:
    alike = replace(assumed, straggler_share=0.0)
    core, _ = plan.scenarios(RATES, alike)
    cut = plan.Campaign(1_000, 1, 16, 16)
    rows = [
        plan.simulated(core, cut, RATES, alike, 400, 0, failures_per_hour=failures, checkpoints=kept)
        for failures, kept in ((0.0, False), (0.2, False), (0.2, True))
    ]
    calm, lost, kept = (row["cost"] for row in rows)
    assert calm < kept < lost
    assert rows[1]["run_failure"] > rows[0]["run_failure"] == 0
    assert rows[1] == plan.simulated(core, cut, RATES, alike, 400, 0, failures_per_hour=0.2)


def test_choice_prefers_few_pods_then_low_cost_then_few_runs_then_haste(plan: Any) -> None:
    def row(pods: int, p95_h: float, cost: float, runs: int = 1, fails: float = 0.0) -> dict[str, Any]:
        return {"pods": pods, "p95_h": p95_h, "cost": cost, "runs": runs, "run_failure": fails}

    rows = [row(4, 9, 90), row(8, 5, 100), row(8, 3, 101), row(8, 2, 101, runs=2), row(8, 4, 99, fails=0.5)]
    assert plan.choose([*rows, row(16, 1, 50)], 6, 0.01) == rows[2]
    assert plan.choose(rows, 10, 0.01) == rows[0]
    assert plan.choose(rows, 1, 0.01) is None


def test_command_simulates_from_stored_rates(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = importlib.import_module("scale")
    (tmp_path / "scale.json").write_text(json.dumps({"rates": RATES}))
    monkeypatch.setattr(scale, "RESULTS", tmp_path / "scale.json")
    options = ["--runs", "40", "--max-items", "20", "--deadline-1m-h", "1e-3", "--gpu-hour-price", "7"]
    monkeypatch.setattr(sys, "argv", ["scale.py", "--no-measure", "--out", str(tmp_path / "mine.json"), *options])
    scale.main()
    results = json.loads((tmp_path / "mine.json").read_text())
    assert {"command", "machine", "versions", "rows"} <= set(results)
    assert results["rates"] == RATES
    assert (results["assumptions"]["gpu_hour_price"], results["assumptions"]["max_items"]) == (7, 20)
    chosen = {(row["scenario"], row["corpus_h"]): row for row in results["rows"]}
    assert ("gpu", 1_000) in chosen
    assert ("gpu", 1_000_000) not in chosen
    for row in results["rows"]:
        assert row["items"] <= 20
        assert row in results["beside"]
        assert row["p95_h"] <= modules["assumptions"].Assumptions(**results["assumptions"]).deadlines_h[row["corpus_h"]]
    page = capsys.readouterr().out
    assert page.count("none within these limits") >= 2
    assert all(f"`--{name.replace('_', '-')}`" in page for name in asdict(modules["assumptions"].Assumptions()))
    assert "67 |" in page, "the measured teacher's 1 / 0.015 times real time"
    assert not any(math.isnan(value) for row in results["rows"] for value in row.values() if isinstance(value, float))


def test_page_is_what_the_results_render(modules: Any) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))
    rendered = modules["page"].render(results)
    assert len(rendered) > 3_000
    assert rendered in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), (
        "run `python benchmarks/scale.py --render`"
    )
