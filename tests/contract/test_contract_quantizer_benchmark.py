"""benchmarks/quantizer.py: what it keeps, what it renders, and that what it compares is comparable."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = {"command": "c", "machine": {"processor": "p", "cores": 2}, "versions": {}, "code": "1", "sets": {}}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"quantizer_{name}")

    return module


def test_a_unit_is_measured_again_only_when_its_settings_change(benchmark: Any, tmp_path: Path) -> None:
    results = benchmark("results")
    measured = []

    def unit(name: str, settings: Any, timed: bool = True) -> Any:
        def measure() -> list[dict[str, Any]]:
            measured.append(name)
            return [{"value": settings}]

        return results.Unit(name, "a", settings, 1.0, measure, timed)

    path = tmp_path / "results.json"
    first = results.Results(path, RUN)
    first.measure("codes", [unit("x", 1), unit("y", 1, timed=False)])
    first.measure("train", [unit("z", 1)])
    again = results.Results(path, RUN | {"command": "later"})
    again.measure("codes", [unit("x", 1), unit("y", 2)])
    assert measured == ["x", "y", "z", "y"]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["section"], row["unit"], row["value"]) for row in content["rows"]] == [
        ("codes", "x", 1),
        ("codes", "y", 2),
        ("train", "z", 1),
    ]
    commands = [content["runs"][row["run"]]["command"] for row in content["rows"]]
    assert commands == ["c", "later", "c"], "a row keeps the run that measured it"
    again.measure("codes", [unit("x", 1)])
    again.measure("train", [unit("z", 1)], again=True)
    assert [row["unit"] for row in again.rows] == ["x", "z"]
    assert measured[4:] == ["z"]
    assert {run["command"] for run in again.runs.values()} == {"c", "later"}


def test_a_unit_whose_process_died_leaves_the_others(benchmark: Any, tmp_path: Path) -> None:
    results, worker = benchmark("results"), benchmark("worker")

    def measure(function: Any, *arguments: Any) -> Any:
        with worker.process(1) as run:
            return [{"value": run(function, *arguments)}]

    units = [
        results.Unit("dies", "a", 0, 1.0, lambda: measure(os._exit, 1)),
        results.Unit("lives", "a", 0, 1.0, lambda: measure(os.getenv, "OMP_NUM_THREADS")),
    ]
    store = results.Results(tmp_path / "results.json", RUN)
    store.measure("codes", units)
    assert store.failed == ["codes, dies"]
    assert [(row["unit"], row["value"]) for row in store.rows] == [("lives", "1")]


def test_page_shows_what_the_results_say(benchmark: Any) -> None:
    page = benchmark("page")
    row = {"section": "codes", "data": "d", "run": "r", "dim": 256, "num_codebooks": 4, "codebook_size": 256}
    row |= {"iterations": 5, "vectors": 20_000, "different": 3, "block": 16}
    row |= {"same_in_float64": 3, "float64_is_ours": 2, "float64_is_theirs": 1}
    shown = page.render({"rows": [row], "runs": {"r": RUN}})
    assert "| d | 256 | 4 × 256 | 5 | 20,000 | 99.985 % | 3 | 3 | 0 | 2 | 1 |" in shown
    assert "`c` on 2 cores of p" in shown
    assert shown.count("Not measured yet") == 3
    tied = page.render({"rows": [row | {"same_in_float64": 2, "tied_in_float64": 1}], "runs": {"r": RUN}})
    assert "| 99.985 % | 3 | 2 | 1 | 2 | 1 |" in tied
    almost = page.render({"rows": [row | {"vectors": 10**9}], "runs": {"r": RUN}})
    assert "| 99.999 % | 3 |" in almost, "100 % are all of them"


def test_synthetic_vectors_are_normalised_and_repeatable(benchmark: Any, tmp_path: Path) -> None:
    data = benchmark("data")
    made = [
        data.prepare(data.Recipe("a", 2, 2000, 500, dim=8, seed=seed), tmp_path / folder)
        for seed, folder in ((0, "one"), (0, "two"), (1, "one"))
    ]
    assert made[0].key == made[1].key != made[2].key
    assert np.array_equal(made[0].held_out(), made[1].held_out())
    assert not np.array_equal(made[0].held_out(), made[2].held_out())
    assert made[0].to_fit(10).shape == (10, 8)
    np.testing.assert_allclose(made[0].to_fit().mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(made[0].to_fit().std(0), 1, atol=1e-4)
    assert 0.7 < made[0].held_out().std() < 1.3


def test_codecs_are_measured_by_their_own_codes(benchmark: Any, tmp_path: Path) -> None:
    pytest.importorskip("multi_quantization", reason="extra bench")
    codecs, data, worker = benchmark("codecs"), benchmark("data"), benchmark("worker")
    vectors = data.prepare(data.Recipe("a", 2, 600, 100, dim=6), tmp_path)
    changes = (("phase_1_steps", 20), ("phase_2_steps", 20), ("batch_size", 64))
    ours, theirs = codecs.Ours(changes=changes), codecs.ReferenceOfOurs(changes=changes)
    assert worker.find_fit(ours, vectors, 0, tmp_path) is None
    fit = worker.fit(ours, vectors, 0, tmp_path)
    assert worker.find_fit(ours, vectors, 0, tmp_path) == fit
    assert worker.find_fit(ours, vectors, 1, tmp_path) is None
    error = worker.relative_error(ours, fit.folder, vectors, 100)
    model = ours.load(fit.folder)
    x = vectors.held_out()
    reconstruction = ours.decode(model, ours.encode(model, x))
    assert error == pytest.approx(((x - reconstruction) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-4)
    assert worker.relative_error(theirs, fit.folder, vectors, 100) == pytest.approx(error, rel=1e-4)
    passes = worker.passes_until_fixed(ours, fit.folder, vectors, 100, 5)
    assert 1 <= passes["mean"] <= 5
    assert passes["share_done_after"] == sorted(passes["share_done_after"])
    agreement = worker.agreement(ours, fit.folder, vectors, 100, 5)
    assert (agreement["vectors"], agreement["num_codebooks"], agreement["dim"]) == (100, 2, 6)
    assert agreement["same_in_float64"] + agreement["tied_in_float64"] == agreement["different"] <= 1
    shares = worker.encode_profile(ours, fit.folder, vectors, 100)
    assert sum(shares.values()) == pytest.approx(1)


def test_batches_visit_every_vector_once_an_epoch(benchmark: Any) -> None:
    rows = list(benchmark("codecs").batches(10, 4, 5, seed=0))
    assert [len(batch) for batch in rows] == [4] * 5
    assert len({*rows[0], *rows[1]}) == len({*rows[2], *rows[3]}) == 8


@pytest.mark.slow
def test_quick_benchmark_measures_every_section(tmp_path: Path) -> None:
    for package in ("multi_quantization", "faiss", "vector_quantize_pytorch"):
        pytest.importorskip(package, reason="extra bench")
    command = [sys.executable, ROOT / "benchmarks" / "quantizer.py", "--quick", "--sets", "a", "--seeds", "0"]
    subprocess.run([*command, "--cache", tmp_path], check=True, cwd=tmp_path)
    results = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
    codecs = {row["codec"]: row for row in results["rows"] if row["section"] == "quality"}
    assert {"ours, best", "reference", "faiss RQ", "faiss LSQ", "ResidualVQ"} <= set(codecs)
    assert all(0 < row["relative_error"] < 1 and row["vectors_per_s"]["1"] > 0 for row in codecs.values())
    assert {row["section"] for row in results["rows"]} == {"codes", "encode", "train", "quality"}
    page = (tmp_path / "quick.md").read_text(encoding="utf-8")
    assert "Not measured yet" not in page
    assert all(f"| {name} |" in page for name in codecs)
