"""What every graph of a bundle, and unmodified sherpa-onnx, makes of the split of record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.audio import load_audio
from mvqkd.data.features import log_mel
from mvqkd.data.text import normalize_text
from mvqkd.data.tokens import Tokens
from mvqkd.decode.batching import pad_features
from mvqkd.decode.onnx_ctc import OnnxCtc
from mvqkd.decode.onnx_graphs import CTC, OFFLINE, STREAMING, VARIANTS, Variant
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.report import CTC_GREEDY, GREEDY, Runtime
from mvqkd.decode.scored_split import ScoredSplit
from mvqkd.decode.search import Hypothesis, ctc_greedy_search, greedy_search
from mvqkd.decode.streaming import StreamingRecognizer
from mvqkd.decode.torch_runtime import TorchTransducer
from mvqkd.export.sherpa import SHERPA_EXTRA_FRAMES, SherpaDecoder, open_sherpa, padded_for_sherpa
from mvqkd.frames import num_feature_frames, num_student_frames
from mvqkd.progress import track

Floats = NDArray[np.float32]
# Decoder and runtime: what tells a row of the report from the others.
RowKey = tuple[str, Runtime]
RECORD: RowKey = (GREEDY, "onnxruntime")


@dataclass(frozen=True)
class Recognizers:
    """The opened variants of a bundle at one precision."""

    offline: OnnxTransducer
    streaming: StreamingRecognizer
    ctc: OnnxCtc

    @classmethod
    def open(cls, directory: Path, *, int8: bool = False) -> Recognizers:
        """Open all three, one thread each."""
        return cls(
            OnnxTransducer(directory, int8=int8),
            StreamingRecognizer(directory, int8=int8),
            OnnxCtc(directory, int8=int8),
        )

    def rows(self, *, int8: bool) -> dict[RowKey, Callable[[Floats], str]]:
        """Row of the report -> samples to text."""
        runtime: Runtime = "onnxruntime-int8" if int8 else "onnxruntime"
        streaming: Runtime = "onnxruntime-streaming-int8" if int8 else "onnxruntime-streaming"
        return {
            (GREEDY, runtime): lambda samples: self.offline.transcribe([samples])[0],
            (GREEDY, streaming): lambda samples: self.streaming.transcribe(samples).text,
            (CTC_GREEDY, runtime): self.ctc.transcribe,
        }


@dataclass
class Agreement:
    """On how many utterances sherpa-onnx found torch's greedy tokens with one variant."""

    num_compared: int = 0
    disagreements: list[dict[str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return 1 - len(self.disagreements) / self.num_compared if self.num_compared else 0.0


@dataclass
class Decoded:
    """Normalised texts of every row in the order of the cuts, seconds spent on each row, and sherpa-onnx's verdict."""

    texts: dict[RowKey, list[str]]
    seconds: dict[RowKey, float]
    agreement: dict[Variant, Agreement]
    sherpa_version: str = ""


def decode_split(
    reference: TorchTransducer,
    tokens: Tokens,
    recognizers: Mapping[bool, Recognizers],
    scored: ScoredSplit,
    directory: Path,
) -> Decoded:
    """Decode every utterance with each graph, torch and sherpa-onnx, one at a time.

    Args:
        recognizers: by whether they are the int8 ones; float32 must be there.
    """
    rows = {key: decode for int8, opened in recognizers.items() for key, decode in opened.rows(int8=int8).items()}
    chunk_frames = recognizers[False].streaming.chunk_frames
    decoded = Decoded(
        {row: [] for row in rows}, dict.fromkeys(rows, 0.0), {variant: Agreement() for variant in VARIANTS}
    )
    with contextlib.ExitStack() as stack:
        judges = {variant: stack.enter_context(open_sherpa(directory, variant=variant)) for variant in VARIANTS}
        # How the quantised graphs score is onnxruntime's rows; here they must only load and run.
        others = [
            stack.enter_context(open_sherpa(directory, variant=v, int8=True)) for v in VARIANTS if True in recognizers
        ]
        decoded.sherpa_version = judges[OFFLINE].version
        for cut in track(scored.cuts, "export-onnx", total=len(scored.cuts), unit="cut"):
            samples = load_audio(cut)
            for row, decode in rows.items():
                started = time.perf_counter()
                text = decode(samples)
                decoded.seconds[row] += time.perf_counter() - started
                decoded.texts[row].append(normalize_text(text, scored.text_normalizer))
            if num_student_frames(num_feature_frames(len(samples))) == 0:
                continue
            for variant, heard, wanted in _references(reference, samples, chunk_frames):
                _compare(decoded.agreement[variant], str(cut.id), tokens, wanted, judges[variant], heard)
            while others:
                others.pop().decode(padded_for_sherpa(samples, chunk_frames))
    return decoded


def _references(
    reference: TorchTransducer, samples: Floats, chunk_frames: int
) -> Iterator[tuple[Variant, Floats, Hypothesis]]:
    """For each variant: the audio that sherpa-onnx gets, and what torch finds in it."""
    hidden, frames = reference.hidden(*pad_features([log_mel(samples)]))
    yield OFFLINE, samples, greedy_search(reference, reference.project(hidden), frames)[0]
    yield CTC, samples, ctc_greedy_search(reference.ctc_log_probs(hidden), frames)[0]
    padded = padded_for_sherpa(samples, chunk_frames)
    features = log_mel(padded)[:-SHERPA_EXTRA_FRAMES]
    hidden, frames = reference.hidden(*pad_features([features]), chunk_frames=chunk_frames)
    yield STREAMING, padded, greedy_search(reference, reference.project(hidden), frames)[0]


def _compare(
    agreement: Agreement, cut_id: str, tokens: Tokens, wanted: Hypothesis, judge: SherpaDecoder, samples: Floats
) -> None:
    agreement.num_compared += 1
    got = judge.decode(samples)
    if got.symbols != tuple(tokens.symbols[token] for token in wanted.tokens):
        texts = {"torch": tokens.decode(wanted.tokens), "sherpa": got.text}
        agreement.disagreements.append({"id": cut_id, **texts})
