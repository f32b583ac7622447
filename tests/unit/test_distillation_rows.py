"""benchmarks/distillation.py: how students are compared, from the errors of each utterance that their rows carry."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = np.full(60, 10)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("distillation_runs")


def row(variant: str, seed: int, errors: np.ndarray) -> dict[str, Any]:
    counts = {"words_of_utterances": WORDS, "errors_of_utterances": errors}
    return {"variant": variant, "seed": seed} | {
        name: " ".join(str(value) for value in values) for name, values in counts.items()
    }


def test_pooled_pairs_the_seeds_that_both_have(runs: ModuleType) -> None:
    rows = [
        row("none", 0, np.full(60, 8)),
        row("none", 1, np.full(60, 6)),
        row("none", 2, np.full(60, 1)),
        row("mvq", 0, np.full(60, 6)),
        row("mvq", 1, np.full(60, 5)),
    ]
    found = runs.pooled(rows, "mvq", "none")
    assert found["seeds"] == [0, 1]
    assert (found["wer"], found["wer_against"]) == pytest.approx((0.55, 0.7))
    assert found["relative_reduction"] == pytest.approx(1 - 0.55 / 0.7)
    # Every utterance gains as much as every other: no resample can say anything else.
    assert found["interval_95"] == pytest.approx([found["relative_reduction"]] * 2)
    assert found["p"] == 0.0
    assert runs.pooled(rows, "none", "mvq")["p"] == 1.0
    assert runs.pooled(rows, "mvq", "l2") is None


def test_an_interval_covers_zero_where_students_are_equally_good(runs: ModuleType) -> None:
    mine, theirs = np.random.default_rng(0).permutation(np.tile([4, 6], 30)), np.tile([6, 4], 30)
    found = runs.pooled([row("mvq", 0, mine), row("none", 0, theirs)], "mvq", "none")
    low, high = found["interval_95"]
    assert low < 0 < high
    assert 0.05 < found["p"] < 0.95


def test_a_row_is_compared_with_rivals_of_its_own_seed(runs: ModuleType) -> None:
    rows = [
        row("none", 0, np.full(60, 8)),
        row("mvq", 0, np.full(60, 6)),
        row("mvq", 1, np.full(60, 9)),
        row("l2", 1, np.full(60, 7)),
    ]
    runs.compare(rows)
    assert [found["p_against_none"] for found in rows] == [None, 0.0, None, None]
    assert [found["p_against_l2"] for found in rows] == [None, None, 1.0, None]
