"""The streaming graphs of a bundle in onnxruntime: words while they are spoken, many streams at once.

Needs onnxruntime, numpy, kaldi-native-fbank and the bundle's own files.

Shapes: N streams, T feature frames a chunk, C student frames a chunk, J joiner channels, V vocabulary; caches as in
``mvqkd.student.streaming``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import OnlineLogMel
from mvqkd.decode.onnx_graphs import STREAMING, TransducerGraphs
from mvqkd.decode.search import greedy_search, start_context
from mvqkd.errors import AudioError
from mvqkd.frames import (
    FEATURE_HOP_SAMPLES,
    FEATURE_RATE_HZ,
    SAMPLE_RATE_HZ,
    STUDENT_RATE_HZ,
    SUBSAMPLING_FACTOR,
    num_feature_frames,
    num_feature_frames_for,
    num_student_frames,
)

Floats = NDArray[np.float32]
# Attention and convolution cache of one stream, (L, 2 P, 1, D) and (L, K - 1, 1, D).
Caches = tuple[Floats, Floats]

# A transducer that streams may say a word a little after it was spoken; the end of the audio must not cut that off.
TAIL_FRAMES = 10
# A feature frame sees 12.5 ms on both sides of the middle of its hop.
_FRAME_REACH_SAMPLES = FEATURE_HOP_SAMPLES // 2 + 200


@dataclass(frozen=True)
class StreamResult:
    """What a stream has said: text, symbols as in tokens.txt, and the second at which each was emitted."""

    text: str = ""
    tokens: tuple[str, ...] = ()
    times_s: tuple[float, ...] = ()


def padding_samples(num_samples: int, chunk_frames: int) -> int:
    """Silence after ``num_samples`` of audio with which whole chunks hold all its frames and the tail."""
    wanted = num_student_frames(num_feature_frames(num_samples)) + TAIL_FRAMES
    whole = -(-wanted // chunk_frames) * chunk_frames
    return num_feature_frames_for(whole) * FEATURE_HOP_SAMPLES - num_samples


class AudioStream:
    """One speaker: audio in, text out; made by ``StreamingRecognizer.open_stream``."""

    def __init__(self, recognizer: StreamingRecognizer) -> None:
        self._recognizer = recognizer
        self._features = OnlineLogMel()
        self._num_samples = 0
        self._ended = False
        self._tokens: list[int] = []
        self._frames: list[int] = []
        self._segment_start = 0
        # Read and written by the recogniser.
        self.context = start_context(recognizer.context_size)
        self.num_chunks = 0
        self.caches = recognizer.empty_caches()

    def accept(self, samples: Floats) -> None:
        """Take the next audio, float32 (n,), 16 kHz mono in [-1, 1]; n may be 0.

        Raises:
            AudioError: after ``finish``, another shape, or a value that is not finite.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if self._ended or samples.ndim != 1 or not np.isfinite(samples).all():
            raise AudioError(
                "audio stream",
                expected="finite samples (n,), before finish()",
                got="samples after finish()" if self._ended else f"shape {samples.shape}, or NaN or infinity in it",
                next_step="open a new stream, or mend the source",
            )
        self._features.accept(samples)
        self._num_samples += len(samples)

    def finish(self) -> None:
        """No more audio follows: pad, so that the last word comes out."""
        if self._ended:
            return
        padding = padding_samples(self._num_samples, self._recognizer.chunk_frames)
        self._features.accept(np.zeros(padding, dtype=np.float32))
        self._features.finish()
        self._ended = True

    @property
    def ready(self) -> bool:
        """Whether a whole chunk is waiting."""
        recognizer = self._recognizer
        return self._features.num_ready >= self.num_chunks * recognizer.feature_shift + recognizer.feature_frames

    @property
    def finished(self) -> bool:
        """Whether ``finish`` was called and everything is decoded."""
        return self._ended and not self.ready

    @property
    def duration_s(self) -> float:
        """Audio taken so far."""
        return self._num_samples / SAMPLE_RATE_HZ

    @property
    def decoded_s(self) -> float:
        """Audio decoded so far, in whole chunks: after the end, more than ``duration_s``."""
        return self.num_chunks * self._recognizer.chunk_s

    @property
    def trailing_silence_s(self) -> float:
        """Decoded audio since the last token, or since the segment began when it has none."""
        decoded = self.num_chunks * self._recognizer.chunk_frames
        last = self._frames[-1] + 1 if self._frames else self._segment_start
        return float((decoded - last) / STUDENT_RATE_HZ)

    @property
    def result(self) -> StreamResult:
        """What was recognised since the start, or the last ``reset``."""
        tokens = self._recognizer.tokens
        return StreamResult(
            text=tokens.decode(self._tokens),
            tokens=tuple(tokens.symbols[token] for token in self._tokens),
            times_s=tuple(float(frame / STUDENT_RATE_HZ) for frame in self._frames),
        )

    def reset(self) -> StreamResult:
        """Close the segment: its result. What follows is a new one; the encoder remembers, times go on."""
        result = self.result
        self._tokens, self._frames = [], []
        self._segment_start = self.num_chunks * self._recognizer.chunk_frames
        self.context = start_context(self._recognizer.context_size)
        return result

    def next_features(self) -> Floats:
        """Features (T, 80) of the chunk that is ready."""
        # The feature extractor counts from the first frame of all, whatever was forgotten.
        first = self.num_chunks * self._recognizer.feature_shift
        return self._features.frames(first, first + self._recognizer.feature_frames)

    def advance(self, tokens: Sequence[int], frames: Sequence[int]) -> None:
        """Take what the search found in a chunk: symbols, and their student frames within it."""
        recognizer = self._recognizer
        first = self.num_chunks * recognizer.chunk_frames
        self._tokens.extend(tokens)
        self._frames.extend(first + frame for frame in frames)
        self.context = (*self.context, *tokens)[-recognizer.context_size :]
        self.num_chunks += 1
        self._features.forget(recognizer.feature_shift)


class StreamingRecognizer(TransducerGraphs):
    """The streaming transducer of a bundle; implements ``mvqkd.decode.search.Transducer``.

    Streams are advanced a chunk at a time, several in one batch. Not thread-safe: one caller at a time.

    Args:
        bundle_dir: a directory with ``streaming/*.onnx`` and tokens.txt. Its digests are the caller's business
            (``mvqkd.artifacts.load_artifact``).
        num_threads: threads of onnxruntime.
        int8: take the quantised graphs.
    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: a graph is missing, or onnxruntime refuses it.
    """

    def __init__(self, bundle_dir: Path | str, *, num_threads: int = 1, int8: bool = False) -> None:
        super().__init__(bundle_dir, STREAMING, num_threads=num_threads, int8=int8)
        self.feature_frames = self.metadata("encoder", "T")
        self.feature_shift = self.metadata("encoder", "decode_chunk_len")
        self.chunk_frames = self.feature_shift // SUBSAMPLING_FACTOR
        layers, dim = self.metadata("encoder", "num_encoder_layers"), self.metadata("encoder", "encoder_dim")
        self._cache_shapes = (
            (layers, self.metadata("encoder", "left_context"), 1, dim),
            (layers, self.metadata("encoder", "cnn_module_kernel") - 1, 1, dim),
        )

    @property
    def chunk_s(self) -> float:
        """Seconds of audio by which a chunk advances."""
        return float(self.feature_shift / FEATURE_RATE_HZ)

    @property
    def latency_s(self) -> float:
        """Seconds of audio that must have arrived before the first chunk can be decoded."""
        return ((self.feature_frames - 1) * FEATURE_HOP_SAMPLES + _FRAME_REACH_SAMPLES) / SAMPLE_RATE_HZ

    def open_stream(self) -> AudioStream:
        """A stream that has heard nothing."""
        return AudioStream(self)

    def decode(self, streams: Sequence[AudioStream]) -> int:
        """Advance every ready stream by one chunk, all in one batch.

        Returns:
            How many were ready.
        """
        ready = [stream for stream in streams if stream.ready]
        if not ready:
            return 0
        encoded, caches = self.encode_chunk(
            np.stack([stream.next_features() for stream in ready]),
            [stream.caches for stream in ready],
            [stream.num_chunks for stream in ready],
        )
        frames = np.full(len(ready), self.chunk_frames, dtype=np.int64)
        found = greedy_search(self, encoded, frames, [stream.context for stream in ready])
        for stream, after, hypothesis in zip(ready, caches, found, strict=True):
            stream.caches = after
            stream.advance(hypothesis.tokens, hypothesis.frames)
        return len(ready)

    def encode_chunk(
        self, features: Floats, caches: Sequence[Caches], num_chunks: Sequence[int]
    ) -> tuple[Floats, list[Caches]]:
        """Encode a chunk of each stream.

        Args:
            features: float32 (N, T, 80). caches: of each stream. num_chunks: those that each stream has behind it.
        Returns:
            projected encoder output (N, C, J); the caches of each stream for its next chunk.
        """
        encoded, *after = self.run(
            "encoder",
            features,
            *(np.concatenate(parts, axis=2) for parts in zip(*caches, strict=True)),
            np.array(num_chunks, dtype=np.int64) * self.feature_shift,
        )
        if len(caches) == 1:
            return encoded, [(after[0], after[1])]
        # Copies: a view would keep the caches of the whole batch alive as long as any of its streams.
        rows = range(len(caches))
        attention, convolution = ([np.ascontiguousarray(cache[:, :, row : row + 1]) for row in rows] for cache in after)
        return encoded, list(zip(attention, convolution, strict=True))

    def transcribe(self, samples: Floats) -> StreamResult:
        """Stream a whole recording, float32 (num_samples,), through chunk after chunk; of any length."""
        stream = self.open_stream()
        stream.accept(samples)
        stream.finish()
        while self.decode([stream]):
            pass
        return stream.result

    def empty_caches(self) -> Caches:
        """Caches of a stream that has heard nothing."""
        attention, convolution = (np.zeros(shape, dtype=np.float32) for shape in self._cache_shapes)
        return attention, convolution
