"""benchmarks/gate.py draws what it says that it draws, and counts what the gate decides."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mvqkd.config import GateConfig

ROOT = Path(__file__).resolve().parents[3]
LENGTHS = {1: 50, 3: 20, 8: 20, 20: 10}
CONFIG = GateConfig(bootstrap_samples=200)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gate")


@pytest.fixture
def simulation(benchmark: ModuleType) -> ModuleType:
    return importlib.import_module("gate_simulation")


@pytest.fixture
def errors(simulation: ModuleType) -> Any:
    return simulation.ErrorModel(LENGTHS, wer=0.3, dispersion=2.5, shared=0.8)


@pytest.mark.parametrize("difference", [-0.1, 0.0, 0.1])
def test_the_true_difference_is_that_of_many_utterances(errors: Any, difference: float) -> None:
    words, champion, challenger, _ = errors.draw(np.random.default_rng(0), 400_000, difference)
    assert champion.sum() / words.sum() == pytest.approx(0.3, rel=0.01)
    assert challenger.sum() / champion.sum() - 1 == pytest.approx(difference, abs=0.003)


def test_speakers_differ_around_the_true_difference(errors: Any) -> None:
    _, champion, challenger, speakers = errors.draw(
        np.random.default_rng(0), 500_000, 0.0, num_speakers=500, speaker_deviation=0.2
    )
    ratios = np.bincount(speakers, challenger) / np.bincount(speakers, champion)
    assert challenger.sum() / champion.sum() == pytest.approx(1, abs=0.03)
    assert ratios.std() == pytest.approx(0.2, abs=0.03)


def test_a_fit_finds_what_was_drawn(errors: Any, simulation: ModuleType) -> None:
    words, first, second, _ = errors.draw(np.random.default_rng(1), 200_000, 0.0)
    fitted = simulation.fit(words, first, [[first, second]], shared=0.0)
    assert fitted.wer == pytest.approx(0.3, rel=0.02)
    assert fitted.dispersion == pytest.approx(2.5, rel=0.05)
    assert fitted.shared == pytest.approx(0.8, abs=0.01)
    assert {length: count / 200_000 for length, count in fitted.lengths.items()} == pytest.approx(
        {length: count / 100 for length, count in LENGTHS.items()}, abs=0.01
    )
    assert simulation.fit(words, first, [[first]], shared=0.7).shared == 0.7


def test_rates_count_decisions(errors: Any, benchmark: ModuleType) -> None:
    def cell(difference: float | None, size: int = 300) -> dict[str, Any]:
        row: dict[str, Any] = benchmark.cell(errors, CONFIG, np.random.default_rng(0), size, difference, 60)
        return row

    better, equal, worse, same = (cell(difference) for difference in (-0.4, 0.0, 0.4, None))
    assert better["missed_promotion_rate"] == 0
    assert better["false_promotion_rate"] is None
    assert worse["false_promotion_rate"] == worse["plain_false_promotion_rate"] == 0
    assert equal["false_promotion_rate"] < 0.15 < 0.35 < equal["plain_false_promotion_rate"] < 0.65
    assert same["false_promotion_rate"] == same["plain_false_promotion_rate"] == 0
    assert same["tolerant_false_promotion_rate"] == same["cheaper_promotion_rate"] == 1
    assert cell(0.0) == equal


def test_the_benchmark_fits_a_real_report(benchmark: ModuleType, tmp_path: Path) -> None:
    from mvqkd.testing.lineage import make_lineage

    lineage = make_lineage(tmp_path, wer=0.3)
    model = benchmark.error_model(lineage.bundle.path, [[lineage.wer_report.path, lineage.wer_report.path]])
    assert model.wer == 0.3
    assert model.lengths == {8: 8, 9: 104}
    assert model.shared == 1.0


def test_published_rates_are_those_of_the_rows(benchmark: ModuleType) -> None:
    results = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    assert {str(row["test_utterances"]) for row in results["rows"]} == {"100", "500", "2620"}
    for name in benchmark.NAMED:
        for row in results["rows"]:
            difference = "same" if row["true_difference"] is None else f"{row['true_difference']:g}"
            published = results[name].get(difference, {}).get(str(row["test_utterances"]))
            assert published == row[name]
    assert all(rate <= 0.05 for rate in results["false_promotion_rate"]["0"].values())
    assert all(rate > 0.4 for rate in results["plain_false_promotion_rate"]["0"].values())
    assert all(row["pairs"] >= 2_000 for row in results["rows"])
    alike = next(row for row in results["speakers"] if row["deviation"] == 0)
    assert alike["false_promotion_rate_by_speaker"] <= 0.05


def test_the_page_has_the_tables_of_the_results(benchmark: ModuleType) -> None:
    results = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    rendered = benchmark.render(results)
    assert rendered in benchmark.PAGE.read_text(encoding="utf-8"), "run `python benchmarks/gate.py --render`"
    assert rendered.count("\n|") == len(results["rows"]) + len(results["speakers"]) + 4
