"""benchmarks/deployment.py: its page, its clock, and that what it compares is comparable."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "deployment.json"
SILENCE = np.zeros(16_000, dtype=np.float32)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: importlib.import_module(f"deployment_{name}" if name else "deployment")


def test_page_is_what_the_results_say(benchmark: Any) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert benchmark("").render(results) == page, "run `python benchmarks/deployment.py --render`"
    assert "WER is not comparable at our data scale" in page
    assert "never seen these prompts" in page
    text = RESULTS.read_text(encoding="utf-8")
    assert '"/' not in text, "no path of the machine that measured belongs into the results"
    assert " /" not in results["command"]


def test_every_system_has_a_row_or_a_reason(benchmark: Any) -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    models = {row["model"] for row in rows}
    assert {"student, offline", "student, streaming", "student, CTC", "whisper-tiny.en", "moonshine-tiny"} <= models
    for row in rows:
        if "missing" in row:
            assert row["missing"]
            continue
        assert "torch" not in row["packages"], "the page says that no row loads it"
        assert 0 < row["rtf"] < 2
        # One thread: no more processor time than time.
        assert row["rtf_cpu"] < 1.1 * row["rtf"]
        assert row["model_bytes"] > 1e6


def test_rendering_needs_nothing_that_measures() -> None:
    code = "import sys, deployment; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'mvqkd')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "benchmarks")


class Slow:
    """A system that says a letter a block and one at the end, each after a given amount of work."""

    def __init__(self, clock: list[float], work_s: float, silent_blocks: int = 0) -> None:
        self.clock, self.work_s, self.silent = clock, work_s, silent_blocks
        self.text = ""

    def start(self) -> None: ...

    def feed(self, block: Any) -> Iterator[str]:
        self.clock[0] += self.work_s
        self.silent -= 1
        self.text += "A" if self.silent < 0 else ""
        yield self.text

    def finish(self) -> Iterator[str]:
        self.clock[0] += self.work_s
        self.text += "."
        yield self.text

    def first_token_s(self) -> float:
        return 0.25


@pytest.mark.parametrize(
    ("work_s", "silent_blocks", "first_text_s", "final_s"),
    [
        # Fast: each block is done before the next comes; the last one and the end follow each other.
        (0.03, 0, 0.13, 0.06),
        (0.03, 3, 0.43, 0.06),
        # Too slow: ten blocks and the end take 0.15 s each, beginning when the first block has come.
        (0.15, 0, 0.25, 0.75),
    ],
)
def test_a_stream_is_late_by_its_work_and_by_what_it_is_behind(
    benchmark: Any,
    monkeypatch: pytest.MonkeyPatch,
    work_s: float,
    silent_blocks: int,
    first_text_s: float,
    final_s: float,
) -> None:
    worker, clock = benchmark("worker"), [5.0]
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])
    heard = worker.simulate(Slow(clock, work_s, silent_blocks), SILENCE)
    assert heard["text"] == (10 - silent_blocks) * "A" + "."
    assert heard["first_text_s"] == pytest.approx(first_text_s)
    assert heard["first_token_s"] == 0.25
    assert heard["final_s"] == pytest.approx(final_s)
    assert heard["wall_s"] == pytest.approx(11 * work_s)


def test_whisper_hears_the_features_it_was_trained_on(benchmark: Any, tmp_path: Path) -> None:
    import torch

    from mvqkd.teacher.whisper_encoder import LogMel

    filters = np.load(benchmark("systems").write_whisper_filters(tmp_path))
    samples = np.random.default_rng(0).normal(0, 0.1, 23_457).astype(np.float32)
    ours = benchmark("recognizers").WhisperLogMel(filters)(samples, 3000)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, LogMel(80)(torch.from_numpy(samples), 3000).numpy(), atol=1e-3)


def test_moonshine_tokens_are_read_with_short_and_long_lengths(benchmark: Any, tmp_path: Path) -> None:
    symbols = [b"", b"a", "▁word".encode(), b"x" * 127, b"y" * 128, b"z" * 300]
    lengths = [bytes([len(s)]) if len(s) < 128 else bytes([0x80 | len(s) % 128, len(s) // 128]) for s in symbols]
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(b"".join(length + symbol for length, symbol in zip(lengths, symbols, strict=True)))
    assert benchmark("recognizers").read_moonshine_tokens(path) == symbols


def test_speech_begins_where_it_gets_loud(benchmark: Any) -> None:
    onset_s = benchmark("data").onset_s
    samples = np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32)
    samples[4_800:9_600] += np.sin(np.arange(4_800)).astype(np.float32)
    assert onset_s(samples) == pytest.approx(0.3)
    assert onset_s(SILENCE) == 0


def test_the_command_names_no_folder_of_this_machine(benchmark: Any) -> None:
    words = [str(ROOT / "benchmarks" / "deployment.py"), "--manifest", "/somewhere/data/test.jsonl", "--limit", "5"]
    assert benchmark("").command(words) == "python benchmarks/deployment.py --manifest test.jsonl --limit 5"


def test_what_the_bundle_lacks_is_said(benchmark: Any, tmp_path: Path) -> None:
    facts = {"variants": {}}
    systems = benchmark("systems").students(tmp_path, facts)
    assert len(systems) == 12
    assert all(system.missing and "export-onnx" in system.missing for system in systems)
    (row, *_) = benchmark("").compare(systems, benchmark("data").TestSet("t", [SILENCE], ["A"], ""), 1)
    assert row["missing"] == systems[0].missing


def test_a_peer_that_is_not_installed_is_named_with_its_command(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    systems = benchmark("systems")
    monkeypatch.setattr(systems, "_installed", lambda package: False)
    missing = {system.name: system.missing for system in systems.peers(tmp_path)}
    assert missing["moonshine"] == "pip install moonshine-voice==0.0.49"
    assert missing["pocketsphinx"] == "pip install 'pocketsphinx>=5.1'"
    assert missing["whisper-int8"] == "pip install ctranslate2"


def test_a_system_that_dies_leaves_the_others(benchmark: Any) -> None:
    systems, data = benchmark("systems"), benchmark("data")
    dies = systems.System("dies", "m", "p", "r", "offline", "Moonshine", {"model": "/nowhere"})
    (row,) = benchmark("").compare([dies], data.TestSet("t", [SILENCE], ["A"], ""), 1)
    assert row["missing"].startswith("failed: dies: ended with 1")


def test_left_out_weights_are_not_quantised_and_compute_the_same(benchmark: Any) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from mvqkd.export.quantize import quantize_matmuls

    int8 = benchmark("int8")
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(8, 16)), "b": rng.normal(size=(16, 4))}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert int8.weight_sizes(model) == [(8, 16), (16, 4)]
    assert int8.leave_out(model, (8, 16)) == 1
    onnx.checker.check_model(model, full_check=True)
    quantized = quantize_matmuls(model)
    kept = {item.name: item.data_type for item in quantized.graph.initializer}
    assert kept["a"] == TensorProto.FLOAT
    assert "b" not in kept


def test_findings_compare_with_the_fastest_peer_and_with_float32(benchmark: Any) -> None:
    def row(system: str, model: str, precision: str, rtf: float, wer: float, model_bytes: int) -> dict[str, Any]:
        return {
            **{"system": system, "model": model, "precision": precision, "runtime": "mvqkd", "rtf": rtf, "wer": wer},
            **{"model_bytes": model_bytes, "texts": [precision], "left_out": None},
        }

    found = benchmark("figures").findings(
        [
            row("offline-float32-mvqkd", "student, offline", "float32", 0.02, 0.100, 30),
            row("offline-int8-mvqkd", "student, offline", "int8", 0.01, 0.104, 10),
            row("whisper-float32", "whisper-tiny.en", "float32", 0.2, 0, 1),
            row("whisper-int8", "whisper-tiny.en", "int8", 0.1, 0, 1),
        ]
    )
    assert [(item["system"], item["ratio"]) for item in found if item["kind"] == "speed"] == [
        ("offline-float32-mvqkd", pytest.approx(5)),
        ("offline-int8-mvqkd", pytest.approx(10)),
    ]
    (int8,) = [item for item in found if item["kind"] == "int8"]
    assert (int8["wer_points"], int8["smaller"], int8["faster"]) == pytest.approx((0.4, 3, 2))
    assert int8["texts_changed"] == 1
