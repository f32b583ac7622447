"""Real speech through every variant of a bundle: unmodified sherpa-onnx finds what this project finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.data.asterisk import load_prompts
from mvqkd.data.audio import read_audio
from mvqkd.data.features import log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_graphs import VARIANTS, Variant
from mvqkd.decode.search import Hypothesis, ctc_greedy_search, greedy_search, modified_beam_search
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.errors import MvqkdError
from mvqkd.export.graphs import write_graphs
from mvqkd.export.scoring import Recognizers
from mvqkd.export.sherpa import SHERPA_EXTRA_FRAMES, open_sherpa, padded_for_sherpa
from mvqkd.student.model import Student
from mvqkd.testing.student import talkative_student

Floats = NDArray[np.float32]
CHUNK_FRAMES = 4
# Names of prompts: words of half a second, a sentence of a line, one of several.
PROMPTS = ("activated", "agent-alreadyon", "conf-adminmenu-162", "demo-thanks", "digits/10", "vm-goodbye")


@pytest.fixture(scope="module")
def recordings() -> list[Floats]:
    """The prompts, with silence after each that fills the last chunk, as a stream needs it."""
    try:
        prompts = {prompt.name: prompt.path for prompt in load_prompts()}
    except MvqkdError as error:
        pytest.skip(f"no real speech on this machine: {error}")
    audio = [read_audio(prompts[name]) for name in PROMPTS if name in prompts]
    assert len(audio) >= 4
    return [padded_for_sherpa(samples, CHUNK_FRAMES) for samples in audio]


@pytest.fixture(scope="module")
def student() -> Student:
    return talkative_student(Tokens.train(["ABCDEFGHIJKLMNOPQRSTUVWXYZ '"], "char", 0).vocab_size)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("real") / "bundle"
    write_graphs(student, folder, opset=18, chunk_frames=CHUNK_FRAMES, lineage={}, int8=True)
    Tokens.train(["ABCDEFGHIJKLMNOPQRSTUVWXYZ '"], "char", 0).save(folder)
    yield folder
    torch.set_num_threads(threads)


def by_torch(student: Student, variant: Variant, method: str, samples: Floats) -> Hypothesis:
    reference = TorchTransducer(student)
    features = log_mel(samples)[: -SHERPA_EXTRA_FRAMES if variant == "streaming" else None]
    hidden, frames = reference.hidden(*pad_features([features]), chunk_frames=CHUNK_FRAMES)
    if variant == "ctc":
        return ctc_greedy_search(reference.ctc_log_probs(hidden), frames)[0]
    search = greedy_search if method == "greedy_search" else modified_beam_search
    return search(reference, reference.project(hidden), frames)[0]


@pytest.mark.parametrize("method", ["greedy_search", "modified_beam_search"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_gives_torchs_tokens(
    bundle: Path, student: Student, recordings: list[Floats], variant: Variant, method: str
) -> None:
    if variant == "ctc" and method != "greedy_search":
        pytest.skip("sherpa-onnx searches CTC greedily, or with a graph of words")
    symbols = Tokens.load(bundle).symbols
    with open_sherpa(bundle, variant=variant, decoding_method=method) as sherpa:
        for samples in recordings:
            expected = by_torch(student, variant, method, samples)
            assert len(expected.tokens) > 2
            assert sherpa.decode(samples).symbols == tuple(symbols[token] for token in expected.tokens)


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_gives_what_onnxruntime_makes_of_it(bundle: Path, recordings: list[Floats], variant: Variant) -> None:
    opened = Recognizers.open(bundle, int8=True)
    with open_sherpa(bundle, variant=variant, int8=True) as sherpa:
        for samples in recordings:
            got = sherpa.decode(samples).text
            if variant == "streaming":
                # Ours adds a tail of its own behind what sherpa-onnx got.
                assert opened.streaming.transcribe(samples).text.startswith(got)
            elif variant == "ctc":
                assert got == opened.ctc.transcribe(samples)
            else:
                assert got == opened.offline.transcribe([samples])[0]
            assert len(got) > 2
