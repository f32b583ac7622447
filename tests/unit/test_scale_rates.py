"""benchmarks/scale_rates.py measures what it says, on a tiny corpus: slow, because it starts real processes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvqkd.cli.main import run
from mvqkd.testing.corpus import make_corpus
from tests.pipeline_budget import tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scale_rates")


def test_parts_of_a_call_are_timed_and_passed_on(rates: Any) -> None:
    timed = rates._Timed("a-b-c")
    assert timed.split("-") == ["a", "b", "c"]
    assert 0 < timed.seconds < 1
    assert timed.__doc__ is not None


def test_shards_have_about_equal_audio(rates: Any) -> None:
    class Cut:
        def __init__(self, duration: float) -> None:
            self.duration = duration

    cuts = [Cut(7.0) for _ in range(40)]
    shards = list(rates._by_audio(cuts))
    assert [len(shard) for shard in shards] == [9, 9, 9, 9], "the rest, less than a shard, is left out"
    assert [cut for shard in shards for cut in shard] == cuts[:36]


@pytest.mark.slow
def test_everything_is_measured(rates: Any, tmp_path: Path) -> None:
    params = tiny_params(make_corpus(tmp_path / "corpus", 80))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("prepare-data", "extract-teacher", "fit-quantizer"):
        assert run([stage, "--params", str(tmp_path / "params.yaml"), "--artifacts-dir", str(tmp_path)]) == 0
    found = rates.measure(tmp_path / "data", tmp_path / "teacher-embeddings", tmp_path / "quantizer", seed=0)
    encode, start, merge = found["encode"], found["start"], found["merge"]
    assert len(encode["shards"]) == encode["of_shards"] >= 3
    for shard in encode["shards"]:
        assert 60 <= shard["audio_s"] < 75
        assert 0 < shard["codec_s"] < shard["teacher_s"] < shard["total_s"]
        assert shard["teacher_s"] + shard["codec_s"] < shard["total_s"]
    assert 0.5 < start["start_s"] < 120
    assert start["plan_bytes_per_cut"] < 500, "lhotse's cuts take thousands of bytes each; a pod holds only its own"
    assert 0 < start["plan_s_per_cut"] < 0.01
    assert merge["verify_bytes_per_s"] > merge["merge_bytes_per_s"] > 1e6
    assert 10 < merge["index_bytes_per_cut"] < 100
