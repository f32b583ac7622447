"""The predictor's memory: what it gives is what the graph gives, in any order, and it does not grow without bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.testing.tones import SYMBOLS, make_tone_bundle


@pytest.fixture(scope="module")
def transducer(tmp_path_factory: pytest.TempPathFactory) -> OnnxTransducer:
    return OnnxTransducer(Path(make_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle").path))


def test_remembered_predictions_are_those_of_the_graph(
    transducer: OnnxTransducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvqkd.decode.onnx_graphs._REMEMBERED_CONTEXTS", 5)
    calls: list[int] = []
    run = transducer.run
    monkeypatch.setattr(transducer, "run", lambda part, *inputs: calls.append(len(inputs[0])) or run(part, *inputs))
    rng = np.random.default_rng(0)
    for _ in range(50):
        contexts = rng.integers(0, len(SYMBOLS), (rng.integers(1, 6), 2))
        expected = run("decoder", contexts)[0]
        assert np.array_equal(transducer.predict(contexts), expected)
        num_calls = len(calls)
        assert np.array_equal(transducer.predict(contexts[::-1]), expected[::-1])
        assert len(calls) == num_calls, "the second time nothing is computed"
        assert len(transducer._predicted) < 5 + 6
    assert max(calls) <= 5
