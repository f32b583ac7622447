"""Proof that the exported graphs compute what the student computes: torch against onnxruntime, part by part.

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_ctc import OnnxCtc
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.streaming import StreamingRecognizer
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.errors import ExportParityError
from mvqkd.frames import (
    SAMPLE_RATE_HZ,
    SUBSAMPLING_CONTEXT_FRAMES,
    num_feature_frames_for,
    num_student_frames,
)

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_SEED = 0
_NEXT_STEP = "report the student's sizes and the versions of torch, onnxscript and onnxruntime"


@dataclass(frozen=True)
class ParityCase:
    """One comparison. ``difference`` is the largest absolute one over all real frames; inf where one side has NaN."""

    part: str
    input: str
    shape: tuple[int, ...]
    difference: float


def check_parity(
    reference: TorchTransducer,
    offline: OnnxTransducer,
    streaming: StreamingRecognizer,
    ctc: OnnxCtc,
    features: Sequence[Floats],
    max_difference: float,
) -> list[ParityCase]:
    """Compare every graph on real audio, odd lengths, an unequal batch, silence, a 100 ms clip and random contexts.

    The streaming encoder is compared, chunk by chunk, with torch's whole utterance in the same chunks.

    Args:
        features: float32 (T, 80) of real utterances, at least one.
        max_difference: bound on the absolute difference.
    Returns:
        Every comparison, all within the bound.
    Raises:
        ExportParityError: naming part, input and difference of the worst comparison, or frame counts that differ.
    """
    cases = list(_compare_encoders(reference, offline, ctc, features))
    cases += _compare_streaming(reference, streaming, features)
    cases += _compare_decoders(reference, offline)
    cases += _compare_joiners(reference, offline, features)
    worst = max(cases, key=lambda case: case.difference)
    if not worst.difference <= max_difference:
        raise ExportParityError(
            f"{worst.part}, input {worst.input} {list(worst.shape)}",
            expected=f"torch and onnxruntime to differ by at most {max_difference:g}",
            got=f"{worst.difference:.3g}",
            next_step=_NEXT_STEP,
        )
    return cases


def encoder_inputs(features: Sequence[Floats]) -> dict[str, list[Floats]]:
    """Named batches of features that the encoder must agree on."""
    by_length = sorted(features, key=len)
    shortest, middle, longest = by_length[0], by_length[len(by_length) // 2], by_length[-1]
    inputs = {
        "shortest utterance": [shortest],
        "middle utterance": [middle],
        "longest utterance": [longest],
        "batch of unequal lengths": [middle, longest, shortest],
        "one second of silence": [log_mel(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32))],
        "clip of 100 ms": [longest[:10]],
    }
    # Around the fewest frames that give output, and every remainder of the subsampling.
    for length in (SUBSAMPLING_CONTEXT_FRAMES, 8, 9, 11, 12, 13, 14, 101):
        if length <= len(longest):
            inputs[f"first {length} frames"] = [longest[:length]]
    return inputs


def _compare_encoders(
    reference: TorchTransducer, offline: OnnxTransducer, ctc: OnnxCtc, features: Sequence[Floats]
) -> Iterator[ParityCase]:
    for name, batch in encoder_inputs(features).items():
        padded, lengths = pad_features(batch)
        hidden, frames = reference.hidden(padded, lengths)
        for part, expected, (got, got_frames) in (
            ("encoder", reference.project(hidden), offline.encode(padded, lengths)),
            ("ctc model", reference.ctc_log_probs(hidden), ctc.log_probs(padded, lengths)),
        ):
            if not np.array_equal(frames, got_frames) or expected.shape != got.shape:
                raise ExportParityError(
                    f"{part}, input {name} {list(padded.shape)}",
                    expected=f"{frames.tolist()} student frames in {list(expected.shape)}",
                    got=f"{got_frames.tolist()} in {list(got.shape)}",
                    next_step=_NEXT_STEP,
                )
            difference = max(
                _difference(e[:count], g[:count]) for e, g, count in zip(expected, got, frames.tolist(), strict=True)
            )
            yield ParityCase(part, name, padded.shape, difference)


def _compare_streaming(
    reference: TorchTransducer, streaming: StreamingRecognizer, features: Sequence[Floats]
) -> Iterator[ParityCase]:
    silence = log_mel(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32))
    by_length = sorted(features, key=len)
    shortest, longest = (_whole_chunks(item, streaming, silence) for item in (by_length[0], by_length[-1]))
    inputs = {
        "shortest utterance": [shortest],
        "longest utterance": [longest],
        "one second of silence": [_whole_chunks(silence, streaming, silence)],
        # Chunks that belong to other places of their streams meet in one batch.
        "two streams, one a chunk ahead": [longest, longest[streaming.feature_shift :]],
    }
    for name, streams in inputs.items():
        expected = [_whole_utterance(reference, item, streaming.chunk_frames) for item in streams]
        got = _chunk_by_chunk(streaming, streams)
        difference = max(_difference(e, g) for e, g in zip(expected, got, strict=True))
        yield ParityCase("streaming encoder", name, (len(streams), *streams[0].shape), difference)


def _whole_chunks(features: Floats, streaming: StreamingRecognizer, silence: Floats) -> Floats:
    """Features of at least three chunks, silence at their end where they do not fill the last one."""
    chunks = max(3, math.ceil(num_student_frames(len(features)) / streaming.chunk_frames))
    wanted = num_feature_frames_for(chunks * streaming.chunk_frames)
    padding = np.resize(silence[len(silence) // 2], (max(0, wanted - len(features)), features.shape[1]))
    return np.concatenate([features, padding])[:wanted]


def _whole_utterance(reference: TorchTransducer, features: Floats, chunk_frames: int) -> Floats:
    hidden, _ = reference.hidden(*pad_features([features]), chunk_frames=chunk_frames)
    whole: Floats = reference.project(hidden)[0]
    return whole


def _chunk_by_chunk(streaming: StreamingRecognizer, streams: Sequence[Floats]) -> list[Floats]:
    """Output of each stream, the first of which gets its first chunk before the others begin."""
    caches = [streaming.empty_caches() for _ in streams]
    done = [0] * len(streams)
    outputs: list[list[Floats]] = [[] for _ in streams]
    shift, width = streaming.feature_shift, streaming.feature_frames

    def advance(rows: Sequence[int]) -> None:
        output, new = streaming.encode_chunk(
            np.stack([streams[row][done[row] * shift :][:width] for row in rows]),
            [caches[row] for row in rows],
            [done[row] for row in rows],
        )
        for position, row in enumerate(rows):
            outputs[row].append(output[position])
            caches[row] = new[position]
            done[row] += 1

    advance([0])
    while running := [row for row, item in enumerate(streams) if done[row] * shift + width <= len(item)]:
        advance(running)
    return [np.concatenate(parts) for parts in outputs]


def _compare_decoders(reference: TorchTransducer, exported: OnnxTransducer) -> Iterator[ParityCase]:
    size = reference.context_size
    start = np.array([[-1] * (size - 1) + [0]], dtype=np.int64)
    rng = np.random.default_rng(_SEED)
    contexts = rng.integers(-1, reference.student.vocab_size, size=(17, size))
    for name, context in {"start context": start, "random contexts": contexts}.items():
        yield ParityCase(
            "decoder", name, context.shape, _difference(reference.predict(context), exported.predict(context))
        )


def _compare_joiners(
    reference: TorchTransducer, exported: OnnxTransducer, features: Sequence[Floats]
) -> Iterator[ParityCase]:
    longest = max(features, key=len)
    encoded, frames = reference.encode(*pad_features([longest]))
    rows = encoded[0, : int(frames[0])]
    rng = np.random.default_rng(_SEED)
    contexts = rng.integers(0, reference.student.vocab_size, size=(len(rows), reference.context_size))
    predicted = reference.predict(contexts)
    for name, count in {"one frame": 1, "every frame of the longest utterance": len(rows)}.items():
        expected = reference.join(rows[:count], predicted[:count])
        got = exported.join(rows[:count], predicted[:count])
        yield ParityCase("joiner", name, rows[:count].shape, _difference(expected, got))


def _difference(expected: Floats, got: Floats) -> float:
    if expected.shape != got.shape or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return float("inf")
    return float(np.abs(expected - got).max(initial=0.0))
