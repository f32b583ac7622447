"""A directory in the transformers layout as a teacher: Whisper, HuBERT, WavLM or wav2vec 2.0.

Local files only, weights from safetensors only (a pickle can run code when it is loaded), and no code of the
directory is ever run. Whisper goes through this project's own encoder, which has the mask that the one of
transformers lacks; the others through transformers itself (extra ``teacher``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mvqkd.artifacts import content_hash, file_sha256
from mvqkd.errors import MissingDependencyError, TeacherError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.teacher.base import TRANSFORMERS_PREFIX, Teacher, check_audio, check_layer, full_precision
from mvqkd.teacher.whisper import WhisperTeacher
from mvqkd.teacher.whisper_safetensors import encoder_of_safetensors
from mvqkd.torchaudio_compat import import_torchaudio

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
_WAVEFORM_MODELS = ("hubert", "wav2vec2", "wavlm")
# Only used in pre-training; published fine-tuned models lack it.
_UNUSED_WEIGHTS = {"masked_spec_embed"}


def load_transformers_teacher(directory: Path, layer: int, device: str) -> Teacher:
    """Build the teacher that a transformers directory holds.

    Raises:
        TeacherError: a file is missing, the weights are pickled, the model is of another kind, or there is no
            such layer.
        MissingDependencyError: transformers is not installed (HuBERT, WavLM, wav2vec 2.0).
    """
    config = _read_json(directory, CONFIG_FILE)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        raise TeacherError(
            f"teacher {directory}",
            expected="weights in *.safetensors",
            got=f"only pickled weights ({pickled[0]}), which can run code when loaded" if pickled else "none",
            next_step="save the model with safe_serialization=True, or fetch its safetensors file",
        )
    name = f"{TRANSFORMERS_PREFIX}{directory.resolve().name}"
    digest = _digest(directory, weights)
    kind = config.get("model_type")
    if kind == "whisper":
        encoder = encoder_of_safetensors(name, config, weights, layer)
        return WhisperTeacher(name, digest, encoder, layer, device)
    if kind in _WAVEFORM_MODELS:
        _read_json(directory, PREPROCESSOR_FILE)
        return WaveformTeacher(name, digest, directory, layer, device)
    raise TeacherError(
        f"teacher {directory}",
        expected=f"model_type whisper, {', '.join(_WAVEFORM_MODELS)}",
        got=f"model_type {kind}",
        next_step="use a directory of one of these models",
    )


class WaveformTeacher:
    """HuBERT, WavLM or wav2vec 2.0 of transformers, cut off behind ``layer``; see ``mvqkd.teacher.base.Teacher``.

    Recordings are computed one by one: the group norm of the base models' front end takes statistics over time,
    padding included. A layer's output is the residual stream behind that Transformer layer, as with the
    torchaudio bundles; a norm behind the last layer is left out.
    """

    def __init__(self, name: str, digest: str, directory: Path, layer: int, device: str) -> None:
        self._extractor, model = _load_with_transformers(_import_transformers(name), directory)
        num_layers = len(model.encoder.layers)
        check_layer(name, layer, num_layers)
        # Taken at the layer itself: what ``hidden_states`` says of the last layer differs between versions.
        model.encoder.layers = model.encoder.layers[:layer]
        model.encoder.layers[-1].register_forward_hook(self._keep_output)
        self._output: Tensor | None = None
        self.id = f"{name}-{digest[:12]}"
        self.layer = layer
        self.num_layers = num_layers
        self.dim = int(model.config.hidden_size)
        self.rate_hz = Fraction(SAMPLE_RATE_HZ, int(np.prod(model.config.conv_stride)))
        self._name = name
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._min_samples = _receptive_field(model.config.conv_kernel, model.config.conv_stride)

    @full_precision()
    @torch.inference_mode()
    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """See ``Teacher.embed``."""
        check_audio(self._name, audio)
        outputs = [self._embed_one(samples) for samples in audio]
        lengths = torch.tensor([len(rows) for rows in outputs], dtype=torch.int64)
        embeddings = torch.zeros(len(audio), max(lengths.tolist(), default=0), self.dim)
        for row, output in zip(embeddings, outputs, strict=True):
            row[: len(output)] = output
        return embeddings, lengths

    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[str] | None:
        """No decoder: None."""
        return None

    def _embed_one(self, samples: NDArray[np.float32]) -> Tensor:
        features = self._extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")["input_values"]
        features = functional.pad(features, (0, max(0, self._min_samples - features.shape[1])))
        self._model(features.to(self._device))
        assert self._output is not None
        embedding, self._output = self._output[0].float().cpu(), None
        return embedding

    def _keep_output(self, _layer: Any, _inputs: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, tuple) else output


def _load_with_transformers(transformers: Any, directory: Path) -> tuple[Any, Any]:
    next_step = "save the model and its feature extractor there with save_pretrained"
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(directory, local_files_only=True)
        # trust_remote_code is off: a directory must not bring code of its own.
        model, report = transformers.AutoModel.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        # Any of a dozen types, according to which file is broken in which way.
        raise TeacherError(
            f"teacher {directory}",
            expected="a directory that transformers loads",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            next_step=next_step,
        ) from error
    # transformers fills what it does not find with random numbers and goes on.
    random = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])} - _UNUSED_WEIGHTS)
    if random:
        raise TeacherError(
            f"teacher {directory}",
            expected="every weight of the model that its config.json describes",
            got=f"{len(random)} missing or of another shape ({random[0]}, ...)",
            next_step=next_step,
        )
    return extractor, model


def _import_transformers(name: str) -> Any:
    # transformers imports torchaudio where it is installed, and fails with it where its extension does not load.
    import_torchaudio()
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"teacher {name}",
            expected="the package transformers",
            got=str(error),
            next_step="pip install 'mvqkd[teacher]'",
        ) from error
    return transformers


def _read_json(directory: Path, file_name: str) -> dict[str, Any]:
    try:
        value = json.loads((directory / file_name).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a JSON {type(value).__name__}")
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"teacher {directory}",
            expected=f"a directory with {file_name}, as save_pretrained writes it",
            got=getattr(error, "strerror", None) or str(error),
            next_step="pass hf:DIRECTORY with the path of a saved model",
        ) from error
    return value


def _digest(directory: Path, weights: Sequence[Path]) -> str:
    # The two JSON files are part of what decides an embedding (sizes, normalisation).
    files = [*weights, directory / CONFIG_FILE, directory / PREPROCESSOR_FILE]
    return content_hash({path.name: file_sha256(path) for path in files if path.is_file()})


def _receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
