"""What a teacher is, and how one is found by its name.

A teacher turns 16 kHz audio into embeddings of one of its layers, at a fixed frame rate. What it gives for a
recording depends on that recording only: never on batch mates, padding or the order of the batch. Everything
downstream (codebook indexes computed once, looked up for months) stands on that.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mvqkd.errors import AudioError, TeacherError

if TYPE_CHECKING:
    import torch

WHISPER_TINY_EN = "whisper-tiny.en"
# Where the weights come with the package their licence is known; of others their publisher must be asked.
LICENCES = {WHISPER_TINY_EN: "MIT"}
TRANSFORMERS_PREFIX = "hf:"
CT2_PREFIX = "ct2:"
_BUNDLE_NAME = re.compile(r"(HUBERT|WAVLM|WAV2VEC2)_[A-Z0-9_]+")


class Teacher(Protocol):
    """A frozen speech model, cut off behind one of its layers.

    Attributes:
        id: name and the first 12 hex digits of the weights' sha256; equal ids give equal embeddings.
        layer: 1-based layer whose output ``embed`` returns.
        num_layers: layers that the model has.
        dim: channels of an embedding.
        rate_hz: embeddings a second.
    """

    id: str
    layer: int
    num_layers: int
    dim: int
    rate_hz: Fraction

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the embeddings of a batch of recordings.

        Shapes: N recordings, T teacher frames of the longest, D = dim.
        Args:
            audio: float32 (num_samples,) each, 16 kHz mono, in any order and of any lengths.
        Returns:
            float32 (N, T, D), zero at and past each length; int64 (N,) lengths. Both on the CPU, in the
            order of ``audio``; neither depends on which recordings share the batch (within 1e-4 of the
            embeddings' own scale).
        Raises:
            AudioError: a recording is empty, of another type or not finite.
        """
        ...

    def transcribe(self, audio: Sequence[NDArray[np.float32]]) -> list[str] | None:
        """Transcribe recordings; None when this teacher has no decoder."""
        ...


@dataclass(frozen=True)
class TeacherSpec:
    """Which teacher, which layer, from where, on what device.

    ``name`` is ``whisper-tiny.en``, a torchaudio bundle such as ``HUBERT_BASE``, ``hf:DIRECTORY`` (transformers) or
    ``ct2:DIRECTORY`` (a Whisper of CTranslate2, as faster-whisper uses).
    ``checkpoint_dir`` is where torchaudio checkpoints lie (None: the torch hub cache).
    """

    name: str
    layer: int
    checkpoint_dir: Path | str | None = None
    device: str = "auto"


def load_teacher(spec: TeacherSpec) -> Teacher:
    """Build the teacher that ``spec`` names, from local files only.

    Raises:
        TeacherError: unknown name, missing or altered weights, or a layer the model does not have.
        MissingDependencyError: the package that reads this kind of teacher is not installed.
        ConfigError: the device is not there.
    """
    # Imported here: naming a teacher needs no torch, and each kind brings libraries that the others do not need.
    from mvqkd.device import resolve_device

    device = resolve_device(spec.device)
    if spec.name == WHISPER_TINY_EN:
        from mvqkd.teacher.whisper import load_embedded_whisper

        return load_embedded_whisper(spec.layer, device)
    if spec.name.startswith(TRANSFORMERS_PREFIX):
        from mvqkd.teacher.transformers_dir import load_transformers_teacher

        return load_transformers_teacher(Path(spec.name.removeprefix(TRANSFORMERS_PREFIX)), spec.layer, device)
    if spec.name.startswith(CT2_PREFIX):
        from mvqkd.teacher.whisper import load_ct2_whisper

        return load_ct2_whisper(Path(spec.name.removeprefix(CT2_PREFIX)), spec.layer, device)
    if _BUNDLE_NAME.fullmatch(spec.name):
        from mvqkd.teacher.torchaudio_bundle import bundle_names, load_bundle_teacher

        if spec.name in bundle_names():
            return load_bundle_teacher(spec.name, spec.layer, spec.checkpoint_dir, device)
    raise _unknown_teacher(spec.name)


def teacher_names() -> list[str]:
    """Every name that ``load_teacher`` knows, besides ``hf:DIRECTORY`` and ``ct2:DIRECTORY``."""
    from mvqkd.teacher.torchaudio_bundle import bundle_names

    return [WHISPER_TINY_EN, *bundle_names()]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute convolutions in float32 on CUDA, too.

    torch's default there is TF32, 10 bits of mantissa: enough of an error that the kernel chosen for a batch's
    shape shows in the embeddings, which must not depend on the batch.
    """
    import torch

    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield


def check_layer(name: str, layer: int, num_layers: int) -> None:
    """Refuse a layer that the model does not have (layers are 1-based).

    Raises:
        TeacherError: naming the range.
    """
    if not 1 <= layer <= num_layers:
        raise TeacherError(
            f"teacher {name}, layer {layer}",
            expected=f"a layer from 1 to {num_layers} (1-based)",
            got=str(layer),
            next_step=f"pass --layer with a number from 1 to {num_layers}",
        )


def check_audio(name: str, audio: Sequence[NDArray[np.float32]]) -> None:
    """Refuse recordings that no teacher can embed.

    Raises:
        AudioError: naming the position in the batch.
    """
    for index, samples in enumerate(audio):
        if samples.dtype != np.float32 or samples.ndim != 1:
            got = f"{samples.dtype} of shape {samples.shape}"
        elif samples.size == 0:
            got = "no samples"
        elif not np.isfinite(samples).all():
            got = "samples that are not finite"
        else:
            continue
        raise AudioError(
            f"teacher {name}, recording {index} of the batch",
            expected="finite float32 samples, mono, 16 kHz",
            got=got,
            next_step="remove the recording or mend it, then re-run prepare-data",
        )


def _unknown_teacher(name: str) -> TeacherError:
    known = teacher_names()
    folded = {candidate.casefold(): candidate for candidate in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.4)]
    if Path(name).is_dir():
        near = [f"{CT2_PREFIX if (Path(name) / 'model.bin').is_file() else TRANSFORMERS_PREFIX}{name}"]
    return TeacherError(
        f"teacher {name}",
        expected=f"{WHISPER_TINY_EN}, a torchaudio bundle (HUBERT_BASE, ...), hf:DIRECTORY or ct2:DIRECTORY",
        got="an unknown name",
        next_step=f"did you mean {near[0]}?" if near else "pass --teacher with one of these",
    )
