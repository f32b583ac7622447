"""Streams in chunks: what they say does not depend on how audio arrives, on batch mates, or on where segments end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mvqkd.data.features import OnlineLogMel, log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.batching import pad_features
from mvqkd.decode.search import greedy_search
from mvqkd.decode.streaming import TAIL_FRAMES, AudioStream, StreamingRecognizer, StreamResult, padding_samples
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.errors import ArtifactNotFoundError, AudioError
from mvqkd.export.graphs import write_graphs
from mvqkd.frames import SAMPLE_RATE_HZ, num_feature_frames, num_student_frames
from mvqkd.student.model import Student
from mvqkd.testing.corpus import WORDS, synthesize
from mvqkd.testing.student import talkative_student

Floats = NDArray[np.float32]
CHUNK_FRAMES = 4


@pytest.fixture(scope="module")
def student() -> Student:
    return talkative_student(Tokens.train(["".join(WORDS)], "char", 0).vocab_size)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory, student: Student) -> Iterator[StreamingRecognizer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bundle = tmp_path_factory.mktemp("bundle")
    write_graphs(student, bundle, opset=18, chunk_frames=CHUNK_FRAMES, lineage={}, int8=False)
    Tokens.train(["".join(WORDS)], "char", 0).save(bundle)
    yield StreamingRecognizer(bundle)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recordings() -> list[Floats]:
    rng = np.random.default_rng(0)
    whole = [synthesize(list(WORDS[3 * i : 3 * i + 3]), speaker=i, rng=rng) for i in range(3)]
    return [whole[0], whole[1][:12_345], whole[2]]


def run_out(recognizer: StreamingRecognizer, *streams: AudioStream) -> None:
    while recognizer.decode(streams):
        pass


def test_a_stream_says_what_torch_finds_in_the_whole_utterance(
    recognizer: StreamingRecognizer, student: Student, recordings: list[Floats]
) -> None:
    reference = TorchTransducer(student)
    for samples in recordings:
        silence = np.zeros(padding_samples(len(samples), CHUNK_FRAMES), dtype=np.float32)
        features = pad_features([log_mel(np.concatenate([samples, silence]))])
        hidden, frames = reference.hidden(*features, chunk_frames=CHUNK_FRAMES)
        assert frames[0] % CHUNK_FRAMES == 0, "padding fills the last chunk"
        (expected,) = greedy_search(reference, reference.project(hidden), frames)
        result = recognizer.transcribe(samples)
        assert result.tokens == tuple(recognizer.tokens.symbols[token] for token in expected.tokens)
        assert result.times_s == tuple(frame / 25 for frame in expected.frames)
        assert result.text == recognizer.tokens.decode(expected.tokens) != ""


@pytest.mark.parametrize("block", [1, 777, 1_600, 50_000])
def test_blocks_of_any_size_say_the_same(recognizer: StreamingRecognizer, recordings: list[Floats], block: int) -> None:
    samples = recordings[1][:8_000] if block == 1 else recordings[0]
    stream = recognizer.open_stream()
    for start in range(0, len(samples), block):
        stream.accept(samples[start : start + block])
        run_out(recognizer, stream)
    stream.finish()
    run_out(recognizer, stream)
    assert stream.finished
    assert stream.result == recognizer.transcribe(samples)
    assert stream.duration_s == len(samples) / SAMPLE_RATE_HZ


def test_batch_mates_change_nothing(recognizer: StreamingRecognizer, recordings: list[Floats]) -> None:
    streams = [recognizer.open_stream() for _ in recordings]
    counts = []
    for turn in range(200):
        # Streams begin at different times and end at different ones.
        for row, (stream, samples) in enumerate(zip(streams, recordings, strict=True)):
            block = samples[1_600 * (turn - 3 * row) :][:1_600] if turn >= 3 * row else samples[:0]
            stream.accept(block) if not stream.finished and len(block) else None
            if turn - 3 * row > len(samples) // 1_600:
                stream.finish()
        counts.append(recognizer.decode(streams))
    run_out(recognizer, *streams)
    assert max(counts) == len(recordings)
    assert [stream.result for stream in streams] == [recognizer.transcribe(samples) for samples in recordings]


def test_partials_only_grow(recognizer: StreamingRecognizer, recordings: list[Floats]) -> None:
    stream = recognizer.open_stream()
    stream.accept(recordings[2])
    stream.finish()
    before = StreamResult()
    lengths = []
    while recognizer.decode([stream]):
        result = stream.result
        assert result.tokens[: len(before.tokens)] == before.tokens
        before = result
        lengths.append(len(result.tokens))
    assert lengths[0] < lengths[-1]


def test_the_first_chunk_needs_just_the_stated_audio(recognizer: StreamingRecognizer, recordings: list[Floats]) -> None:
    stream = recognizer.open_stream()
    needed = round(recognizer.latency_s * SAMPLE_RATE_HZ)
    stream.accept(recordings[0][: needed - 1])
    assert not stream.ready
    stream.accept(recordings[0][needed - 1 : needed])
    assert stream.ready
    assert recognizer.chunk_s == 0.16


def test_a_segment_ends_where_asked_and_times_go_on(recognizer: StreamingRecognizer, recordings: list[Floats]) -> None:
    silence = np.zeros(2 * SAMPLE_RATE_HZ, dtype=np.float32)
    stream = recognizer.open_stream()
    stream.accept(np.concatenate([recordings[0], silence]))
    run_out(recognizer, stream)
    # Everything is silence since the last token, or since the segment began.
    decoded_s = stream.num_chunks * recognizer.chunk_s
    assert stream.decoded_s == decoded_s > stream.result.times_s[-1]
    assert stream.trailing_silence_s == pytest.approx(decoded_s - stream.result.times_s[-1] - 0.04)
    first = stream.reset()
    assert first.text != ""
    assert stream.result == StreamResult()
    assert stream.trailing_silence_s == 0
    stream.accept(recordings[2])
    stream.finish()
    run_out(recognizer, stream)
    assert stream.result.times_s[0] >= decoded_s
    assert stream.result.text != ""
    # The encoder heard no break: the frames are those of the whole.
    assert stream.num_chunks == _num_chunks(2 * SAMPLE_RATE_HZ + len(recordings[0]) + len(recordings[2]))


def _num_chunks(num_samples: int) -> int:
    frames = num_student_frames(num_feature_frames(num_samples)) + TAIL_FRAMES
    return -(-frames // CHUNK_FRAMES)


@pytest.mark.parametrize("num_samples", [0, 1, 500, 1_119, 1_120, 16_000, 16_001])
def test_padding_makes_whole_chunks_and_no_more(num_samples: int) -> None:
    for chunk in (1, 4, 32):
        padding = padding_samples(num_samples, chunk)
        assert padding >= 0
        frames = num_student_frames(num_feature_frames(num_samples + padding))
        real = num_student_frames(num_feature_frames(num_samples))
        assert frames % chunk == 0
        assert real + TAIL_FRAMES <= frames < real + TAIL_FRAMES + chunk


def test_nothing_and_next_to_nothing_end_well(recognizer: StreamingRecognizer) -> None:
    for num_samples in (0, 1, 500):
        stream = recognizer.open_stream()
        stream.accept(np.zeros(num_samples, dtype=np.float32))
        stream.finish()
        run_out(recognizer, stream)
        assert stream.finished
        assert stream.duration_s == num_samples / SAMPLE_RATE_HZ


def test_what_is_no_audio_is_refused(recognizer: StreamingRecognizer) -> None:
    stream = recognizer.open_stream()
    for bad in (np.zeros((2, 100), dtype=np.float32), np.full(100, np.nan, dtype=np.float32)):
        with pytest.raises(AudioError, match="finite samples"):
            stream.accept(bad)
    stream.finish()
    with pytest.raises(AudioError, match=r"samples after finish\(\)"):
        stream.accept(np.zeros(100, dtype=np.float32))


def test_a_bundle_without_streaming_graphs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError, match=r"streaming/encoder\.onnx.*re-run export-onnx"):
        StreamingRecognizer(tmp_path)


def test_online_features_are_those_of_the_whole(recordings: list[Floats]) -> None:
    expected = log_mel(recordings[0])
    online = OnlineLogMel()
    got = []
    for start in range(0, len(recordings[0]), 999):
        online.accept(recordings[0][start : start + 999])
        if start + 999 >= len(recordings[0]):
            online.finish()
        if online.num_ready > len(got):
            got.extend(online.frames(len(got), online.num_ready))
        if start == 0:
            # What is forgotten must not move the others.
            online.forget(5)
    np.testing.assert_array_equal(np.stack(got), expected)
