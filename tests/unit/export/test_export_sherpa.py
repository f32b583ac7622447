"""Unmodified sherpa-onnx decodes the exported graphs as this project does, or says why not."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.decode.batching import pad_features
from mvqkd.decode.hotwords import ContextGraph, Hotword
from mvqkd.decode.onnx_graphs import Variant
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.search import ctc_greedy_search, greedy_search, modified_beam_search
from mvqkd.errors import ExportParityError
from mvqkd.export.bundle import write_sherpa_options
from mvqkd.export.scoring import Recognizers
from mvqkd.export.sherpa import SHERPA_EXTRA_FRAMES, open_sherpa, padded_for_sherpa

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
    found = search(reference, *reference.encode(*pad_features(features)))
    assert len({hypothesis.tokens for hypothesis in found}) == len(found)
    assert min(len(hypothesis.tokens) for hypothesis in found) > 3
    with open_sherpa(exported.bundle, decoding_method=method) as sherpa:
        assert sherpa.version.count(".") >= 2
        for samples, hypothesis in zip(recordings, found, strict=True):
            result = sherpa.decode(samples)
            assert result.symbols == tuple(tokens.symbols[token] for token in hypothesis.tokens)
            assert result.text == tokens.decode(hypothesis.tokens)


@pytest.mark.parametrize("variant", ["offline", "streaming", "ctc"])
def test_sherpa_takes_the_int8_graphs(exported: Exported, recordings: list[Floats], variant: Variant) -> None:
    rows = Recognizers.open(exported.bundle, int8=True).rows(int8=True)
    key = {
        "offline": ("greedy", "onnxruntime-int8"),
        "streaming": ("greedy", "onnxruntime-streaming-int8"),
        "ctc": ("ctc_greedy", "onnxruntime-int8"),
    }[variant]
    expected = rows[key](recordings[0])
    assert expected != rows["ctc_greedy" if variant != "ctc" else "greedy", "onnxruntime-int8"](recordings[0])
    with open_sherpa(exported.bundle, variant=variant, int8=True) as sherpa:
        assert sherpa.decode(padded_for_sherpa(recordings[0], 4)).text.startswith(expected)


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
def test_sherpa_streams_as_torch_would_decode_the_whole(
    exported: Exported, recordings: list[Floats], method: str
) -> None:
    reference = exported.reference
    tokens = OnnxTransducer(exported.bundle).tokens
    search = greedy_search if method == "greedy_search" else modified_beam_search
    with open_sherpa(exported.bundle, variant="streaming", decoding_method=method) as sherpa:
        for samples in (padded_for_sherpa(recording, 4) for recording in recordings):
            features = log_mel(samples)[:-SHERPA_EXTRA_FRAMES]
            hidden, frames = reference.hidden(*pad_features([features]), chunk_frames=4)
            (expected,) = search(reference, reference.project(hidden), frames)
            assert len(expected.tokens) > 3
            assert sherpa.decode(samples).symbols == tuple(tokens.symbols[token] for token in expected.tokens)


def test_sherpa_decodes_the_ctc_head(exported: Exported, recordings: list[Floats], features: list[Floats]) -> None:
    reference = exported.reference
    tokens = OnnxTransducer(exported.bundle).tokens
    hidden, frames = reference.hidden(*pad_features(features))
    found = ctc_greedy_search(reference.ctc_log_probs(hidden), frames)
    assert len({hypothesis.tokens for hypothesis in found}) > 1
    with open_sherpa(exported.bundle, variant="ctc") as sherpa:
        for samples, hypothesis in zip(recordings, found, strict=True):
            assert sherpa.decode(samples).symbols == tuple(tokens.symbols[token] for token in hypothesis.tokens)


def test_sherpa_ends_segments_by_its_rules(exported: Exported, recordings: list[Floats]) -> None:
    # An untrained student hears no pause: the rule that ends long segments shows that endpoints are found.
    rules = {"rule3_min_utterance_length": 0.5}
    speech = padded_for_sherpa(recordings[0], 4)
    with open_sherpa(exported.bundle, variant="streaming") as sherpa:
        whole = sherpa.decode(speech)
    with open_sherpa(exported.bundle, variant="streaming", enable_endpoint_detection=True, **rules) as sherpa:
        cut = sherpa.decode(speech)
    assert whole.segments == (whole.text,)
    assert len([text for text in cut.segments if text]) > 1


@pytest.mark.parametrize("variant", ["offline", "streaming"])
def test_hotwords_do_to_sherpa_what_they_do_to_our_own_search(
    exported: Exported, recordings: list[Floats], tmp_path: Path, variant: Variant
) -> None:
    reference = exported.reference
    tokens = OnnxTransducer(exported.bundle).tokens
    samples = padded_for_sherpa(recordings[0], 4)
    hidden, frames = reference.hidden(
        *pad_features([log_mel(samples)[: -SHERPA_EXTRA_FRAMES if variant == "streaming" else None]])
    )
    encoded = reference.project(hidden)
    (plain,) = modified_beam_search(reference, encoded, frames)
    heard = [token for token in dict.fromkeys(plain.tokens) if token > 2]
    changed = 0
    for hotword in itertools.islice(itertools.permutations(heard, 2), 0, 40, 10):
        (found,) = modified_beam_search(reference, encoded, frames, hotwords=ContextGraph([Hotword(hotword, 6.0)]))
        changed += found.tokens != plain.tokens
        # sherpa-onnx takes letters that touch for one symbol.
        (tmp_path / "hotwords.txt").write_text(" ".join(tokens.symbols[token] for token in hotword) + "\n")
        with open_sherpa(
            exported.bundle,
            variant=variant,
            decoding_method="modified_beam_search",
            hotwords_file=str(tmp_path / "hotwords.txt"),
            hotwords_score=6.0,
            modeling_unit="cjkchar",
        ) as sherpa:
            assert sherpa.decode(samples).symbols == tuple(tokens.symbols[token] for token in found.tokens)
    assert changed > 1, "hotwords that change nothing test nothing"


@pytest.mark.parametrize("variant", ["offline", "streaming", "ctc"])
def test_sherpas_own_programs_start_with_the_option_file(
    exported: Exported, recordings: list[Floats], tmp_path: Path, variant: Variant
) -> None:
    import soundfile

    bundle = tmp_path / "bundle"
    shutil.copytree(exported.bundle, bundle)
    write_sherpa_options(bundle)
    soundfile.write(tmp_path / "speech.wav", recordings[0], 16_000, subtype="PCM_16")
    program = Path(sys.executable).with_name("sherpa-onnx" if variant == "streaming" else "sherpa-onnx-offline")
    result = subprocess.run(
        [program, f"--config={variant}.conf", tmp_path / "speech.wav"],
        capture_output=True,
        text=True,
        cwd=bundle,
        check=True,
    )
    answer = next(line for line in (result.stdout + result.stderr).splitlines() if '"text"' in line)
    assert len(json.loads(answer)["text"]) > 3


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
