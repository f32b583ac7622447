"""torchaudio's pretrained HuBERT, WavLM and wav2vec 2.0 models as teachers, from local checkpoints only."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mvqkd.artifacts import file_sha256
from mvqkd.errors import TeacherError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.teacher.base import check_audio, check_layer, full_precision
from mvqkd.teacher.batching import length_sorted_batches
from mvqkd.torchaudio_compat import import_torchaudio

_FAMILIES = ("HUBERT_", "WAVLM_", "WAV2VEC2_")
# On a CPU batches gain nothing, and a recording computed alone is equal to the bit whatever the batch.
_BATCH_FRAMES = {"cpu": 0}
_ACCELERATOR_BATCH_FRAMES = 12_000


class BundleTeacher:
    """A torchaudio bundle cut off behind ``layer``; see ``mvqkd.teacher.base.Teacher``.

    The front end runs on each recording alone, because its group norm and the normalisation of the waveform
    take statistics over time, padding included; only the Transformer, which has a mask, sees padded batches.
    Layers are those of torchaudio's ``extract_features``: the residual stream behind each Transformer layer.
    """

    def __init__(
        self,
        name: str,
        weights_sha256: str,
        model: Any,
        layer: int,
        device: str,
        *,
        normalize_waveform: bool,
        takes_mask: bool = True,
        labels: Sequence[str] | None = None,
        batch_frames: int | None = None,
    ) -> None:
        """Cut ``model`` off behind ``layer``.

        Args:
            normalize_waveform: bring each recording to mean 0 and variance 1 first.
            takes_mask: whether the Transformer can be told what is padding; torchaudio's WavLM cannot.
            labels: a CTC head's symbols, the first one blank; without them there is no transcription.
            batch_frames: bounds a padded batch; None takes what suits the device, 0 means one by one.
        """
        self.id = f"{name}-{weights_sha256[:12]}"
        self.layer = layer
        self.num_layers = len(model.encoder.transformer.layers)
        check_layer(name, layer, self.num_layers)
        convolutions = [(block.kernel_size, block.stride) for block in model.feature_extractor.conv_layers]
        self.dim = int(model.encoder.transformer.layer_norm.normalized_shape[0])
        self.rate_hz = Fraction(SAMPLE_RATE_HZ, _total_stride(convolutions))
        self._min_samples = _receptive_field(convolutions)
        self._name = name
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._normalize_waveform = normalize_waveform
        self._max_padding_share = 0.1 if takes_mask else 0.0
        self._labels = labels
        self._batch_frames = (
            _BATCH_FRAMES.get(self._device.type, _ACCELERATOR_BATCH_FRAMES) if batch_frames is None else batch_frames
        )

    @full_precision()
    @torch.inference_mode()
    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """See ``Teacher.embed``."""
        check_audio(self._name, audio)
        features = [self._front_end(samples) for samples in audio]
        lengths = torch.tensor([len(rows) for rows in features], dtype=torch.int64)
        embeddings = torch.zeros(len(audio), max(lengths.tolist(), default=0), self.dim)
        batches = length_sorted_batches(
            lengths.tolist(), max_padded_length=self._batch_frames, max_padding_share=self._max_padding_share
        )
        for batch in batches:
            padded = nn.utils.rnn.pad_sequence([features[position] for position in batch], batch_first=True)
            # Without padding no mask: torchaudio's mask is a dense (N, 1, T, T).
            even = len({len(features[position]) for position in batch}) == 1
            batch_lengths = None if even else lengths[batch].to(self._device)
            encoded = self._model.encoder.extract_features(padded, batch_lengths, self.layer)[-1].float().cpu()
            for row, position in zip(encoded, batch, strict=True):
                embeddings[position, : lengths[position]] = row[: lengths[position]]
        return embeddings, lengths

    @torch.inference_mode()
    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[str] | None:
        """Transcribe by the best path of the CTC head; None for a bundle without one."""
        if self._labels is None:
            return None
        check_audio(self._name, audio)
        texts = []
        for samples in audio:
            encoded = self._model.encoder(self._front_end(samples)[None])
            path = self._model.aux(encoded)[0].argmax(dim=-1).unique_consecutive().tolist()
            symbols = "".join(self._labels[token] for token in path if token != 0)
            texts.append(" ".join(symbols.replace("|", " ").split()))
        return texts

    def _front_end(self, samples: NDArray[np.float32]) -> Tensor:
        waveform = torch.from_numpy(samples).to(self._device)
        waveform = functional.pad(waveform, (0, max(0, self._min_samples - waveform.numel())))
        if self._normalize_waveform:
            waveform = functional.layer_norm(waveform, waveform.shape)
        features: Tensor = self._model.feature_extractor(waveform[None], None)[0][0]
        return features


def bundle_names() -> list[str]:
    """Names of torchaudio's bundles that can teach."""
    pipelines = import_torchaudio().pipelines
    return sorted(name for name in pipelines.__all__ if name.startswith(_FAMILIES))


def load_bundle_teacher(name: str, layer: int, checkpoint_dir: Path | str | None, device: str) -> BundleTeacher:
    """Build a bundle's model and load its checkpoint from ``checkpoint_dir`` or the torch hub cache.

    Raises:
        TeacherError: the checkpoint is missing or is another model's, or there is no such layer.
    """
    bundle = getattr(import_torchaudio().pipelines, name)
    file_name = bundle._path.rsplit("/", 1)[-1]
    checkpoint = find_checkpoint(name, file_name, checkpoint_dir)
    model = _empty_model(bundle)
    check_layer(name, layer, len(model.encoder.transformer.layers))
    labels = bundle.get_labels() if hasattr(bundle, "get_labels") else None
    _load_state(name, model, checkpoint, getattr(bundle, "_remove_aux_axis", ()) if labels else ())
    return BundleTeacher(
        name,
        file_sha256(checkpoint),
        model,
        layer,
        device,
        normalize_waveform=bundle._normalize_waveform,
        takes_mask=bundle._model_type != "WavLM",
        labels=labels,
    )


def find_checkpoint(name: str, file_name: str, checkpoint_dir: Path | str | None) -> Path:
    """Path of a bundle's checkpoint file; never downloads.

    Raises:
        TeacherError: naming the file, the folder and how to get it.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints" if checkpoint_dir is None else Path(checkpoint_dir)
    checkpoint = folder / file_name
    if not checkpoint.is_file():
        raise TeacherError(
            f"teacher {name}",
            expected=f"its checkpoint {file_name} in {folder}",
            got="no such file",
            next_step=f"fetch it with torchaudio.pipelines.{name}.get_model() where there is a network and copy it "
            "there, or pass --checkpoint-dir",
        )
    return checkpoint


def _empty_model(bundle: Any) -> Any:
    models = import_torchaudio().models
    build = {"Wav2Vec2": models.wav2vec2_model, "WavLM": models.wavlm_model}[bundle._model_type]
    # On the meta device no time goes into weights that the checkpoint replaces.
    with torch.device("meta"):
        return build(**bundle._params)


def _load_state(name: str, model: Any, checkpoint: Path, removed_outputs: Sequence[int]) -> None:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for key in ("aux.weight", "aux.bias") if removed_outputs else ():
            # The published CTC heads keep outputs that no symbol belongs to.
            kept = [row for row in range(len(state[key])) if row not in removed_outputs]
            state[key] = state[key][kept]
        model.load_state_dict(state, assign=True)
    except Exception as error:
        raise TeacherError(
            f"teacher {name}, checkpoint {checkpoint}",
            expected="the state dict that torchaudio publishes for this bundle",
            got=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step=f"fetch it again with torchaudio.pipelines.{name}.get_model() where there is a network",
        ) from error


def _total_stride(convolutions: Sequence[tuple[int, int]]) -> int:
    stride = 1
    for _, own in convolutions:
        stride *= own
    return stride


def _receptive_field(convolutions: Sequence[tuple[int, int]]) -> int:
    samples = 1
    for kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples
