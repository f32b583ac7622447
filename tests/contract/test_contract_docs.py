"""Tables in docs/ are made from benchmarks/results/ and from nothing else."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("demo", "README.md"),
        ("distillation", "docs/experiments.md"),
        ("distillation_averaged", "docs/experiments_averaged.md"),
        ("distillation_prompts", "docs/experiments_prompts.md"),
        ("gate", "docs/gate.md"),
        ("install_size", "README.md"),
        ("monitor", "docs/report.md"),
        ("quantizer", "docs/quantizer.md"),
        ("rnnt_loss", "docs/rnnt_loss.md"),
        ("scale", "docs/scale.md"),
    ],
)
def test_page_is_what_its_benchmark_renders(name: str, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    # One benchmark may have figures on several sets of data, each with a name behind an underscore.
    script = "distillation" if name.startswith("distillation_") else name
    benchmark = importlib.import_module(script)
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    rendered = benchmark.render(results)
    assert len(rendered) > 300
    assert rendered in (ROOT / page).read_text(encoding="utf-8"), f"run `python benchmarks/{script}.py --render`"


def test_every_result_says_how_it_was_made() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert {"command", "machine", "versions", "rows"} <= set(results), file.name
