"""The vectors that quantizers are compared on, synthetic and real: made once, kept in a cache, equal for all peers.

Every channel is normalised with mean and deviation of the vectors to fit on. A set's folder is named after a hash of
all that it was made from, so that another manifest, seed or size is another folder.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.artifacts import content_hash, file_sha256, write_json
from mvqkd.config import PrepareDataConfig
from mvqkd.data.audio import read_audio
from mvqkd.data.sources import Row, read_source
from mvqkd.errors import DataError
from mvqkd.frames import SAMPLE_RATE_HZ, expected_teacher_frames
from mvqkd.progress import track
from mvqkd.teacher.base import WHISPER_TINY_EN, Teacher, TeacherSpec, load_teacher
from mvqkd.teacher.sampling import sample_frames

Array = NDArray[np.float32]

# Raise it when the same recipe gives other vectors.
DATA_VERSION = 1
# Deviation of latent j is j ** -LATENT_DECAY: chosen so that 8 bytes leave about the error that they leave of real
# embeddings.
LATENT_DECAY = 0.65
BLOCK = 8192
TEACHER_LAYER = 3
HELD_OUT_SPEAKERS = 3


@dataclass(frozen=True)
class Recipe:
    """What a set is made from; ``manifest`` makes it a set of real embeddings."""

    name: str
    num_bytes: int
    num_fit: int
    num_held_out: int
    dim: int | None = None
    seed: int = 0
    manifest: Path | None = None


@dataclass(frozen=True)
class Vectors:
    """A set on disk. ``key`` identifies its content, ``facts`` describe it."""

    name: str
    num_bytes: int
    folder: Path
    facts: dict[str, Any] = field(hash=False, compare=False)

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def dim(self) -> int:
        return int(self.facts["dim"])

    def to_fit(self, count: int | None = None) -> Array:
        """float32 (B, D), the first ``count`` of the vectors to fit on."""
        return np.array(np.load(self.folder / "fit.npy", mmap_mode="r")[:count])

    def held_out(self) -> Array:
        """float32 (B, D), vectors that no quantizer was fitted on."""
        return np.load(self.folder / "held_out.npy")


def prepare(recipe: Recipe, cache: Path) -> Vectors:
    """Make a set, or find it in the cache."""
    if recipe.manifest is None:
        made_from: dict[str, Any] = {"dim": recipe.dim, "decay": LATENT_DECAY}
    else:
        teacher, rows = load_teacher(TeacherSpec(WHISPER_TINY_EN, TEACHER_LAYER, device="cpu")), _rows(recipe.manifest)
        audio = {row.id: file_sha256(row.path) for row in rows if row.path is not None}
        made_from = {"teacher": teacher.id, "layer": TEACHER_LAYER, "audio": audio, "speakers": HELD_OUT_SPEAKERS}
    made_from |= {"version": DATA_VERSION, "seed": recipe.seed, "counts": [recipe.num_fit, recipe.num_held_out]}
    folder = cache / "vectors" / f"{recipe.name}-{content_hash(made_from)[:16]}"
    if not (folder / "facts.json").is_file():
        if recipe.manifest is None:
            to_fit, held_out, facts = _synthetic(recipe)
        else:
            to_fit, held_out, facts = _real(recipe, teacher, rows)
        to_fit, held_out = _normalized(to_fit, held_out)
        facts |= {"dim": to_fit.shape[1], "fit_vectors": len(to_fit), "held_out_vectors": len(held_out)}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        np.save(folder / "fit.npy", to_fit)
        np.save(folder / "held_out.npy", held_out)
        # Last: its presence says that the others are whole.
        write_json(folder / "facts.json", facts | {"seed": recipe.seed})
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Vectors(recipe.name, recipe.num_bytes, folder, facts)


def _synthetic(recipe: Recipe) -> tuple[Array, Array, dict[str, Any]]:
    """Power-law latents through a network of two layers with a ReLU between them, of random weights."""
    dim, hidden = int(recipe.dim or 0), 2 * int(recipe.dim or 0)
    generator = np.random.default_rng(recipe.seed)

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape, dtype=np.float32)

    deviations = np.arange(1, dim + 1, dtype=np.float32) ** np.float32(-LATENT_DECAY)
    deviations /= np.linalg.norm(deviations)
    first, bias = normal(dim, hidden), normal(hidden) / 2
    second = normal(hidden, dim) / np.float32(np.sqrt(hidden))
    out = np.empty((recipe.num_fit + recipe.num_held_out, dim), dtype=np.float32)
    for start in range(0, len(out), BLOCK):
        block = out[start : start + BLOCK]
        block[:] = np.maximum((normal(len(block), dim) * deviations) @ first + bias, 0) @ second
    return out[: recipe.num_fit], out[recipe.num_fit :], {"kind": "synthetic", "latent_decay": LATENT_DECAY}


def _real(recipe: Recipe, teacher: Teacher, rows: list[Row]) -> tuple[Array, Array, dict[str, Any]]:
    """Embeddings of random frames; the speakers to fit on and those held out are different ones."""
    speakers = sorted({str(row.speaker) for row in rows}, key=lambda name: content_hash([recipe.seed, name]))
    held_out_speakers = set(speakers[:HELD_OUT_SPEAKERS])
    if len(speakers) <= HELD_OUT_SPEAKERS:
        raise DataError(
            f"manifest {recipe.manifest}",
            expected=f"more than {HELD_OUT_SPEAKERS} speakers",
            got=f"{len(speakers)}",
            next_step="give each line its speaker",
        )
    parts = []
    for count, held_out in ((recipe.num_fit, False), (recipe.num_held_out, True)):
        chosen = [row for row in rows if (str(row.speaker) in held_out_speakers) == held_out]
        parts.append(_embed(teacher, chosen, count, recipe.seed))
    facts = {
        "kind": "real",
        "teacher_id": teacher.id,
        "layer": teacher.layer,
        "speakers_to_fit_on": len(speakers) - HELD_OUT_SPEAKERS,
        "speakers_held_out": HELD_OUT_SPEAKERS,
    }
    return parts[0], parts[1], facts


def _embed(teacher: Teacher, rows: list[Row], count: int, seed: int) -> Array:
    # The audio stays in memory: an hour of it takes 230 MB, and decoding MP3 twice would cost more than the teacher.
    audio = {row.id: read_audio(row.path) for row in rows if row.path is not None}
    lengths = {key: max(1, expected_teacher_frames(len(samples), teacher.rate_hz)) for key, samples in audio.items()}
    sample = sample_frames(lengths, count, seed)
    out = np.empty((sum(len(chosen.places) for chosen in sample.values()), teacher.dim), dtype=np.float32)
    hours = sum(len(audio[key]) for key in sample) / SAMPLE_RATE_HZ / 3600
    for key, chosen in track(sample.items(), f"embeddings of {hours:.2f} h", total=len(sample), unit="recording"):
        out[chosen.places] = teacher.embed([audio[key]])[0][0].numpy()[chosen.frames]
    return out


def _rows(manifest: Path) -> list[Row]:
    return read_source(PrepareDataConfig(source="manifest", manifest=str(manifest))).rows


def _normalized(to_fit: Array, held_out: Array) -> tuple[Array, Array]:
    def blocks() -> Iterator[NDArray[np.float64]]:
        return (to_fit[start : start + BLOCK].astype(np.float64) for start in range(0, len(to_fit), BLOCK))

    mean = sum(block.sum(0) for block in blocks()) / len(to_fit)
    deviation = np.sqrt(sum(np.square(block - mean).sum(0) for block in blocks()) / len(to_fit))
    for vectors in (to_fit, held_out):
        vectors -= mean.astype(np.float32)
        vectors /= deviation.astype(np.float32)
    return to_fit, held_out


def log_facts(vectors: Vectors) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in vectors.facts.items())
    logging.getLogger("benchmark").info("data %s: %s", vectors.name, facts)
