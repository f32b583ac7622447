"""Unmodified sherpa-onnx decodes the exported graphs as this project does, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.search import greedy_search, modified_beam_search
from mvqkd.errors import ExportParityError
from mvqkd.export.sherpa import open_sherpa

if TYPE_CHECKING:
    from conftest import Exported

Floats = NDArray[np.float32]


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_sherpa_finds_the_tokens_of_torch(
    exported: Exported, recordings: list[Floats], features: list[Floats], method: str
) -> None:
    reference = exported.reference
    tokens = OnnxTransducer(exported.bundle).tokens
    search = greedy_search if method == "greedy_search" else modified_beam_search
    found = search(reference, *reference.encode(*pad_features(features)))  # type: ignore[operator]
    assert len({hypothesis.tokens for hypothesis in found}) == len(found)
    assert min(len(hypothesis.tokens) for hypothesis in found) > 3
    with open_sherpa(exported.bundle, decoding_method=method) as sherpa:  # type: ignore[arg-type]
        assert sherpa.version.count(".") >= 2
        for samples, hypothesis in zip(recordings, found, strict=True):
            result = sherpa.decode(samples)
            assert result.symbols == tuple(tokens.symbols[token] for token in hypothesis.tokens)
            assert result.text == tokens.decode(hypothesis.tokens)


def test_sherpa_takes_the_int8_encoder(exported: Exported, recordings: list[Floats]) -> None:
    (expected,) = OnnxTransducer(exported.bundle, int8=True).transcribe(recordings[:1])
    with open_sherpa(exported.bundle, int8=True) as sherpa:
        assert sherpa.decode(recordings[0]).text == expected


def test_missing_metadata_ends_sherpa_but_not_us(altered: Callable[..., Path]) -> None:
    def forget(graph: Any) -> None:
        del graph.metadata_props[:]

    said = r"sherpa-onnx, bundle .* the process ended with"
    with (
        pytest.raises(ExportParityError, match=said) as caught,
        open_sherpa(altered("offline/decoder.onnx", forget)) as sherpa,
    ):
        sherpa.decode(np.zeros(16_000, dtype=np.float32))
    assert "\n" not in str(caught.value)


def test_a_process_that_has_gone_is_an_error_not_a_hang(exported: Exported, recordings: list[Floats]) -> None:
    with open_sherpa(exported.bundle) as sherpa:
        sherpa.decode(recordings[0])
        sherpa._process.kill()
        sherpa._process.wait()
        with pytest.raises(ExportParityError, match="the process ended with"):
            sherpa.decode(recordings[0])
