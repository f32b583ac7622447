"""Stage extract-teacher: a random sample of a teacher layer's embeddings, to fit a quantizer on.

Payload: ``embeddings-00000.safetensors`` ... with ``embeddings`` float16 (n, D) and ``cut_index`` int64 (n,), rows
in random order over all shards; ``cuts.json`` with the cut ids and speakers that ``cut_index`` counts through.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, load_artifact, write_json
from mvqkd.config import ExtractTeacherConfig
from mvqkd.data.audio import load_audio, num_samples
from mvqkd.data.cuts import load_cuts
from mvqkd.data.splits import is_test
from mvqkd.errors import ArtifactMismatchError, ConfigError, EmptyCutSetError, TeacherError
from mvqkd.frames import SAMPLE_RATE_HZ, check_teacher_frames, expected_teacher_frames
from mvqkd.progress import track
from mvqkd.teacher.base import CT2_PREFIX, LICENCES, TRANSFORMERS_PREFIX, Teacher, TeacherSpec, load_teacher
from mvqkd.teacher.batching import length_sorted_batches
from mvqkd.teacher.sampling import FrameSample, sample_frames

KIND = "teacher-embeddings"
CUTS_FILE = "cuts.json"
SHARD_FRAMES = 16_384

_LOG = logging.getLogger("mvqkd.teacher")


def extract_teacher(config: ExtractTeacherConfig, *, data: Path, out: Path) -> Artifact:
    """Sample frames of a split, compute their embeddings and write them.

    Args:
        data: a cut-manifest artifact.
        out: where the teacher-embeddings artifact goes.
    Raises:
        ConfigError: the split is a test split, or the device is not there.
        TeacherError: unknown teacher, missing weights, no such layer, or embeddings that float16 cannot hold.
        EmptyCutSetError: no such split.
        AudioError: a recording cannot be read.
        FrameAlignmentError: the teacher's frames do not fit a recording's duration.
    """
    _refuse_test_split(config.split)
    manifest = load_artifact(data, "cut-manifest", verify="size")
    teacher = load_teacher(_spec(config.model_dump(), config.device))
    return extract_with_teacher(teacher, config, data=manifest, out=out)


def extract_with_teacher(teacher: Teacher, config: ExtractTeacherConfig, *, data: Artifact, out: Path) -> Artifact:
    """``extract_teacher`` with a teacher at hand and loaded data."""
    _refuse_test_split(config.split)
    cuts = {cut.id: cut for cut in load_cuts(data, config.split)}
    sample = sample_frames(
        {key: max(1, expected_teacher_frames(num_samples(cut), teacher.rate_hz)) for key, cut in cuts.items()},
        config.num_frames,
        config.seed,
    )
    chosen = [cuts[key] for key in sample]
    if not chosen:
        raise EmptyCutSetError(
            f"data {data.path} ({data.short_id}), split {config.split}",
            expected="at least one teacher frame",
            got="none",
            next_step="choose a split with recordings",
        )
    partial = PartialArtifact(out, KIND, stage=config.section, config=config.model_dump(mode="json"), parents=[data])
    embeddings, cut_index = _embed(teacher, chosen, sample, config.batch_duration_s)
    _write_shards(partial.path, embeddings, cut_index)
    write_json(
        partial.path / CUTS_FILE,
        {"cut_ids": [cut.id for cut in chosen], "speakers": [_speaker(cut) for cut in chosen]},
    )
    artifact = partial.commit(
        facts={
            "teacher": {"name": _portable_name(config.teacher)},
            "teacher_licence": LICENCES.get(config.teacher, "not stated"),
            "teacher_id": teacher.id,
            "layer": teacher.layer,
            "dim": teacher.dim,
            "rate_hz": f"{teacher.rate_hz.numerator}/{teacher.rate_hz.denominator}",
            "num_frames": len(embeddings),
        },
        figures={
            "cuts": len(chosen),
            "audio_s": round(float(sum(cut.duration for cut in chosen)), 1),
            "embedding_std": round(float(embeddings.astype(np.float32).std()), 4),
            "embedding_max_abs": round(float(np.abs(embeddings).max()), 3),
        },
    )
    _LOG.info(
        "extract-teacher: %d frames of %d channels from %d cuts, teacher %s layer %d, %.1f s",
        *(len(embeddings), teacher.dim, len(chosen), teacher.id, teacher.layer, artifact.wall_s),
    )
    return artifact


def teacher_of(embeddings: Artifact, device: str, *, checkpoint_dir: Path | None = None) -> Teacher:
    """Rebuild the teacher that embeddings were made with.

    Args:
        embeddings: a teacher-embeddings artifact.
        device: where it shall run.
        checkpoint_dir: where its checkpoint lies now; None: where it lay then.
    Raises:
        ArtifactMismatchError: what is built here is another teacher (other weights, layer, size or rate).
        TeacherError: its weights are missing.
    """
    spec = _spec(embeddings.config, device, checkpoint_dir)
    teacher = load_teacher(spec)
    facts = embeddings.facts
    recorded = (facts["teacher_id"], facts["layer"], facts["dim"], Fraction(facts["rate_hz"]))
    found = (teacher.id, teacher.layer, teacher.dim, teacher.rate_hz)
    if recorded != found:
        describe = "teacher {}, layer {}, {} channels at {} Hz"
        raise ArtifactMismatchError(
            f"{embeddings.kind} {embeddings.path} ({embeddings.short_id})",
            expected=describe.format(*recorded),
            got=describe.format(*found),
            next_step="restore the teacher's weights, or re-run extract-teacher and everything after it",
        )
    return teacher


def _spec(config: Any, device: str, checkpoint_dir: Path | None = None) -> TeacherSpec:
    return TeacherSpec(
        name=config["teacher"],
        layer=config["layer"],
        checkpoint_dir=checkpoint_dir or config["checkpoint_dir"],
        device=device,
    )


def _refuse_test_split(split: str) -> None:
    if is_test(split):
        raise ConfigError(
            f"extract-teacher.split {split}",
            expected="a split that nothing is judged on",
            got="a test split: a quantizer must not be fitted on it",
            next_step="pass --split train",
        )


def _embed(
    teacher: Teacher, cuts: list[Any], sample: dict[str, FrameSample], batch_duration_s: float
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Compute the chosen frames: float16 (n, D) and int64 (n,) positions in ``cuts``, both in sample order."""
    total = sum(len(frames.places) for frames in sample.values())
    embeddings = np.zeros((total, teacher.dim), dtype=np.float16)
    cut_index = np.full(total, -1, dtype=np.int64)
    batches = length_sorted_batches(
        [num_samples(cut) for cut in cuts], max_padded_length=int(batch_duration_s * SAMPLE_RATE_HZ)
    )
    positions = [position for batch in batches for position in batch]
    computed = _embed_cuts(teacher, ([cuts[position] for position in batch] for batch in batches))
    pairs = zip(positions, computed, strict=True)
    for position, rows in track(pairs, "extract-teacher", total=len(cuts), unit="cut"):
        chosen = sample[cuts[position].id]
        # A teacher may give a frame less than the duration announces; that frame is left out.
        exists = chosen.frames < len(rows)
        places = chosen.places[exists]
        embeddings[places] = _as_float16(teacher, rows[chosen.frames[exists]])
        cut_index[places] = position
    filled = cut_index >= 0
    return embeddings[filled], cut_index[filled]


def _embed_cuts(teacher: Teacher, batches: Iterator[list[Any]]) -> Iterator[NDArray[np.float32]]:
    for batch in batches:
        audio = [load_audio(cut) for cut in batch]
        embeddings, lengths = teacher.embed(audio)
        for cut, samples, rows, length in zip(batch, audio, embeddings.numpy(), lengths.tolist(), strict=True):
            check_teacher_frames(f"cut {cut.id}", length, len(samples), teacher.rate_hz)
            yield rows[:length]


def _as_float16(teacher: Teacher, rows: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = float(np.abs(rows).max(initial=0.0))
    if not largest <= float(np.finfo(np.float16).max):
        raise TeacherError(
            f"teacher {teacher.id}, layer {teacher.layer}",
            expected=f"embeddings within +-{np.finfo(np.float16).max:g}, the range of float16",
            got=f"a value of {largest:g}",
            next_step="choose another layer",
        )
    return rows.astype(np.float16)


def _write_shards(folder: Path, embeddings: NDArray[np.float16], cut_index: NDArray[np.int64]) -> None:
    from safetensors.torch import save

    for number, start in enumerate(range(0, len(embeddings), SHARD_FRAMES)):
        stop = start + SHARD_FRAMES
        shard = {
            "embeddings": torch.from_numpy(embeddings[start:stop]),
            "cut_index": torch.from_numpy(cut_index[start:stop]),
        }
        # Not save_file: it leaves the file readable by its owner only, and a next stage may be another user.
        with atomic_open(folder / f"embeddings-{number:05d}.safetensors", "wb") as stream:
            stream.write(save(shard))


def _speaker(cut: Any) -> str | None:
    speaker = next((segment.speaker for segment in cut.supervisions), None)
    return None if speaker is None else str(speaker)


def _portable_name(name: str) -> str:
    # Facts enter the artifact's id, which must not depend on where a model lies.
    for prefix in (TRANSFORMERS_PREFIX, CT2_PREFIX):
        if name.startswith(prefix):
            return prefix + Path(name.removeprefix(prefix)).resolve().name
    return name
