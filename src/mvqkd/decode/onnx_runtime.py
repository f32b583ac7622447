"""A bundle in onnxruntime: what a deployment needs, without torch.

Needs onnxruntime, numpy, kaldi-native-fbank and the bundle's own files.

Shapes: N batch, T feature frames, S student frames, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.features import log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.decode.batching import by_length, pad_features
from mvqkd.decode.search import Hypothesis, greedy_search, modified_beam_search
from mvqkd.decode.segment import split_at_pauses
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError
from mvqkd.frames import SAMPLE_RATE_HZ

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Part = Literal["encoder", "decoder", "joiner"]

Variant = Literal["offline", "streaming", "ctc"]

PARTS: tuple[Part, ...] = ("encoder", "decoder", "joiner")
OFFLINE, STREAMING, CTC = "offline", "streaming", "ctc"


def graph_file(part: Part | Literal["model"], *, int8: bool = False, variant: Variant = "offline") -> str:
    """Path of a graph, relative to the bundle; the variant ctc has one graph, ``model``."""
    return f"{variant}/{part}{'.int8' if int8 else ''}.onnx"


class OnnxTransducer:
    """The offline transducer of a bundle; implements ``mvqkd.decode.search.Transducer``.

    Args:
        bundle_dir: a directory with ``offline/*.onnx`` and tokens.txt. Its digests are the caller's business
            (``mvqkd.artifacts.load_artifact``).
        num_threads: threads of onnxruntime.
        int8: take the quantised graph of each part that has one.
    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: a graph is missing or onnxruntime refuses it.
    """

    def __init__(self, bundle_dir: Path | str, num_threads: int = 1, int8: bool = False) -> None:
        self.bundle_dir = Path(bundle_dir)
        self.tokens = Tokens.load(self.bundle_dir)
        if int8 and not (self.bundle_dir / graph_file("encoder", int8=True)).is_file():
            raise ArtifactNotFoundError(
                f"bundle {self.bundle_dir}",
                expected=graph_file("encoder", int8=True),
                got="no such file",
                next_step="leave --int8 out, or re-run export-onnx with --int8 true",
            )
        self._sessions = {part: self._open(part, num_threads, int8) for part in PARTS}
        # Tensors are matched by order, as sherpa-onnx does: names are for people.
        self._inputs = {part: [item.name for item in session.get_inputs()] for part, session in self._sessions.items()}
        self._context_size = self._read_context_size()

    @property
    def context_size(self) -> int:
        return self._context_size

    def transcribe(
        self,
        audio: Sequence[Floats],
        *,
        decoder: Literal["greedy", "modified_beam_search"] = "greedy",
        beam_size: int = 4,
        batch_duration_s: float = 0.0,
        max_window_s: float = 60.0,
    ) -> list[str]:
        """Transcribe recordings.

        Args:
            audio: float32 (num_samples,) each, 16 kHz mono in [-1, 1]; of any length.
            batch_duration_s: padded seconds computed at once; 0: one by one, best on a CPU.
            max_window_s: longer recordings are cut at pauses, because memory grows with the square of a window.
        Returns:
            One text each, in order.
        """
        windows = [split_at_pauses(samples, round(max_window_s * SAMPLE_RATE_HZ)) for samples in audio]
        flat = [window for parts in windows for window in parts]
        texts = [""] * len(flat)
        for batch in by_length([len(window) / SAMPLE_RATE_HZ for window in flat], max_padded=batch_duration_s):
            features = [log_mel(flat[position]) for position in batch]
            for position, found in zip(batch, self.decode(features, decoder=decoder, beam_size=beam_size), strict=True):
                texts[position] = self.tokens.decode(found.tokens)
        remaining = iter(texts)
        return [" ".join(filter(None, (next(remaining) for _ in parts))) for parts in windows]

    def decode(
        self,
        features: Sequence[Floats],
        *,
        decoder: Literal["greedy", "modified_beam_search"] = "greedy",
        beam_size: int = 4,
    ) -> list[Hypothesis]:
        """Decode log-mel features (T, 80) of several utterances as one batch."""
        if not features:
            return []
        encoded, frames = self.encode(*pad_features(features))
        if decoder == "greedy":
            return greedy_search(self, encoded, frames)
        return modified_beam_search(self, encoded, frames, beam_size=beam_size)

    def encode(self, features: Floats, lengths: Ids) -> tuple[Floats, Ids]:
        """(N, T, 80), (N,) -> projected encoder output (N, S, J), student frames (N,), 0 for a length below 7."""
        encoded, frames = self._run("encoder", features, lengths)
        return encoded, np.maximum(frames, 0)

    def predict(self, contexts: Ids) -> Floats:
        """See ``Transducer.predict``."""
        predicted: Floats = self._run("decoder", contexts)[0]
        return predicted

    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        """See ``Transducer.join``."""
        logits: Floats = self._run("joiner", encoded, predicted)[0]
        return logits

    def _run(self, part: Part, *inputs: NDArray[Any]) -> list[Any]:
        outputs: list[Any] = self._sessions[part].run(None, dict(zip(self._inputs[part], inputs, strict=True)))
        return outputs

    def _open(self, part: Part, num_threads: int, int8: bool) -> Any:
        path = self.bundle_dir / graph_file(part, int8=int8)
        if int8 and not path.is_file():
            path = self.bundle_dir / graph_file(part)
        return open_session(path, num_threads)

    def _read_context_size(self) -> int:
        metadata = self._sessions["decoder"].get_modelmeta().custom_metadata_map
        try:
            return int(metadata["context_size"])
        except (KeyError, ValueError) as error:
            raise ArtifactCorruptError(
                f"graph {self.bundle_dir / graph_file('decoder')}",
                expected="metadata context_size",
                got=str(metadata.get("context_size", "none")),
                next_step="re-run export-onnx",
            ) from error


def open_session(path: Path, num_threads: int = 1) -> Any:
    """Open a graph on the CPU.

    Raises:
        ArtifactNotFoundError, ArtifactCorruptError: no such file, or onnxruntime refuses it.
    """
    import onnxruntime

    if not path.is_file():
        raise ArtifactNotFoundError(
            f"graph {path}", expected="an ONNX file", got="no such file", next_step="pass a bundle of export-onnx"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Its warnings concern its own optimiser; what is wrong with a graph it raises.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors share no public base class.
        raise ArtifactCorruptError(
            f"graph {path}",
            expected="a graph that onnxruntime can run",
            got=str(error).splitlines()[0][:300],
            next_step="re-run export-onnx",
        ) from error
