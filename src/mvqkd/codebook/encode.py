"""The stage encode-ci: audio to codebook indexes in one pass; float embeddings are never stored.

The work is cut into shards of consecutive cuts. A shard is encoded from its own cuts alone, in batches that depend on
nothing else, so its bytes are the same in a resumed run and for any number of ranks. With ``world_size`` ranks, rank r
encodes the shards i with i % world_size == r into an artifact of its own; ``mvqkd.codebook.merge`` joins them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, file_sha256, load_artifact, write_json
from mvqkd.codebook.figures import store_figures
from mvqkd.codebook.packing import Bytes, pack, packed_width
from mvqkd.codebook.store import KIND, Shard, write_index
from mvqkd.config import EncodeCiConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.errors import ArtifactMismatchError, ConfigError, EmptyCutSetError
from mvqkd.frames import SAMPLE_RATE_HZ, as_rate, check_teacher_frames
from mvqkd.progress import track
from mvqkd.quantizer import Quantizer
from mvqkd.teacher.base import Teacher
from mvqkd.teacher.batching import length_sorted_batches

_LOG = logging.getLogger(__name__)
STAGE = "encode-ci"


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard, kept beside it until the artifact is committed.

    ``cuts`` are (cut id, frames) in order; the errors are sums of squares over its frames in the codec's own space.
    """

    cuts: list[list[Any]]
    sha256: str
    squared_error: float
    squared_norm: float
    encode_s: float


def encode_ci(
    config: EncodeCiConfig,
    *,
    data: Path,
    teacher_embeddings: Path,
    quantizer: Path,
    out: Path,
    rank: int = 0,
    world_size: int = 1,
) -> Artifact:
    """Encode the codebook indexes of a corpus with the teacher that the quantizer was fitted on.

    Args:
        data: a cut-manifest; its ``config.splits`` are encoded at all ``config.speeds``.
        teacher_embeddings: what the quantizer was fitted on; names the teacher.
        quantizer: fitted on those embeddings.
        rank, world_size: this process and how many there are. With several, the artifact goes to ``part_path``.
    Returns:
        The codebook-indexes artifact, or the part of this rank.
    Raises:
        ArtifactMismatchError: the quantizer belongs to other embeddings, another teacher or layer.
        FrameAlignmentError: the teacher gave a number of frames that does not fit a cut's duration.
        AudioError, EmptyCutSetError, ConfigError.
    """
    from mvqkd.teacher.extract import teacher_of

    embeddings = load_artifact(teacher_embeddings, "teacher-embeddings", verify="size")
    quantizer_artifact = load_artifact(quantizer, "quantizer")
    check_same_teacher(quantizer_artifact, embeddings)
    return encode_with_teacher(
        teacher_of(embeddings, config.device),
        config,
        data=load_artifact(data, "cut-manifest", verify="size"),
        teacher_embeddings=embeddings,
        quantizer=quantizer_artifact,
        out=out,
        rank=rank,
        world_size=world_size,
    )


def encode_with_teacher(
    teacher: Teacher,
    config: EncodeCiConfig,
    *,
    data: Artifact,
    teacher_embeddings: Artifact,
    quantizer: Artifact,
    out: Path,
    rank: int = 0,
    world_size: int = 1,
) -> Artifact:
    """``encode_ci`` with a teacher at hand and loaded artifacts."""
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"{STAGE} rank {rank} of {world_size}",
            expected="a rank from 0 to world_size - 1",
            got=str(rank),
            next_step="number the ranks from 0",
        )
    check_same_teacher(quantizer, teacher_embeddings)
    codec = Quantizer.load(quantizer.path, _codec_device(config.device))
    encoder = _ShardEncoder(teacher, codec, int(quantizer.facts["refine_iterations"]), config.batch_duration_s)
    plan = _plan(data, config)
    mine = [(number, cuts) for number, cuts in enumerate(plan) if number % world_size == rank]
    partial = PartialArtifact(
        out if world_size == 1 else part_path(out, rank, world_size),
        KIND,
        stage=STAGE,
        config=config.model_dump(mode="json"),
        parents=[data, teacher_embeddings, quantizer],
    )
    records = _encode_shards(encoder, mine, partial)
    shards = [Shard(number, [(cut_id, frames) for cut_id, frames in records[number].cuts]) for number, _ in mine]
    write_index(partial.path, shards)
    facts = {
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "bytes_per_frame": codec.bytes_per_frame,
        "dim": codec.dim,
        "rate_hz": teacher_embeddings.facts["rate_hz"],
        "teacher_id": teacher_embeddings.facts["teacher_id"],
        "layer": teacher_embeddings.facts["layer"],
        "quantizer_id": quantizer.id,
        "codec_id": codec.id,
        "data_id": data.id,
        "splits": list(config.splits),
        "speeds": list(config.speeds),
        "num_shards": len(plan),
        "num_cuts": sum(len(shard.cuts) for shard in shards),
        "num_frames": sum(shard.num_frames for shard in shards),
    }
    if world_size > 1:
        facts |= {"rank": rank, "world_size": world_size}
    figures = store_figures(
        partial.path,
        shards,
        facts,
        squared_error=sum(record.squared_error for record in records.values()),
        squared_norm=sum(record.squared_norm for record in records.values()),
        encode_s=sum(record.encode_s for record in records.values()),
    )
    return partial.commit(facts=facts, figures=figures)


def part_path(out: Path, rank: int, world_size: int) -> Path:
    """Where a rank of several writes its part: a sibling of ``out``."""
    return out.with_name(f"{out.name}-{rank}-of-{world_size}")


def check_same_teacher(quantizer: Artifact, embeddings: Artifact) -> None:
    """Refuse a quantizer that was not fitted on these embeddings.

    Raises:
        ArtifactMismatchError: naming teacher and layer where those differ, else both artifact ids.
    """
    theirs, ours = ((a.facts.get("teacher_id"), a.facts.get("layer")) for a in (quantizer, embeddings))
    if theirs != ours:
        raise ArtifactMismatchError(
            f"quantizer {quantizer.path} ({quantizer.short_id})",
            expected=f"one of teacher {ours[0]}, layer {ours[1]}",
            got=f"teacher {theirs[0]}, layer {theirs[1]}",
            next_step="re-run fit-quantizer on these embeddings, or pass those that it was fitted on",
        )
    quantizer.require_parent(embeddings)


def _plan(data: Artifact, config: EncodeCiConfig) -> list[list[Any]]:
    """All cuts to encode, as shards of consecutive ones; the same list on every rank."""
    cuts = [cut for split in config.splits for cut in load_cuts(data, split)]
    copies = list(speed_copies(cuts, config.speeds))
    if not copies:
        raise EmptyCutSetError(
            f"data {data.path} ({data.short_id}), splits {', '.join(config.splits)}",
            expected="cuts to encode",
            got="none",
            next_step="name other splits in encode-ci.splits",
        )
    return [copies[start : start + config.shard_cuts] for start in range(0, len(copies), config.shard_cuts)]


def _encode_shards(
    encoder: _ShardEncoder, shards: Sequence[tuple[int, list[Any]]], partial: PartialArtifact
) -> dict[int, ShardRecord]:
    """Encode what is not there yet; every finished shard is on disk with its record before the next begins."""
    records: dict[int, ShardRecord] = {}
    for number, cuts in shards:
        if (record := _finished(partial.path, number, cuts)) is not None:
            records[number] = record
    if records:
        _LOG.info("%s: going on after %d of %d shards", STAGE, len(records), len(shards))

    def work() -> Iterator[None]:
        for number, cuts in shards:
            if number not in records:
                records[number] = yield from encoder.encode(partial.path, number, cuts)
                partial.note_wall_time()

    total = sum(len(cuts) for _, cuts in shards)
    done = sum(len(cuts) for number, cuts in shards if number in records)
    for _ in track(work(), STAGE, total=total, unit="cut", initial=done):
        pass
    return {number: records[number] for number, _ in shards}


def _record_path(directory: Path, number: int) -> Path:
    return directory / f".shard-{number:05d}.json"


def _finished(directory: Path, number: int, cuts: Sequence[Any]) -> ShardRecord | None:
    """The record of a shard that an earlier run finished, if its bytes are still those that were written."""
    path = _record_path(directory, number)
    if not path.is_file():
        return None
    shard_path = directory / Shard(number, []).file
    try:
        record = ShardRecord(**json.loads(path.read_text(encoding="utf-8")))
        intact = file_sha256(shard_path) == record.sha256
    except (OSError, ValueError, TypeError):
        intact = False
    if intact and [cut_id for cut_id, _ in record.cuts] == [cut.id for cut in cuts]:
        return record
    _LOG.warning("%s: %s of the interrupted run is damaged and will be encoded again", STAGE, shard_path.name)
    return None


class _ShardEncoder:
    """Teacher and codec in one pass over the cuts of a shard."""

    def __init__(self, teacher: Teacher, codec: Quantizer, iterations: int, batch_duration_s: float) -> None:
        self.teacher = teacher
        self.codec = codec
        self.iterations = iterations
        self.max_batch_samples = int(batch_duration_s * SAMPLE_RATE_HZ)
        self.rate_hz: Fraction = as_rate(teacher.rate_hz)

    def encode(self, directory: Path, number: int, cuts: Sequence[Any]) -> Generator[None, None, ShardRecord]:
        """Write a shard and its record below ``directory``. Yields once a cut done; returns the record."""
        started = time.monotonic()
        squared_error = squared_norm = 0.0
        indexes: list[Bytes | None] = [None] * len(cuts)
        batches = length_sorted_batches([cut.num_samples for cut in cuts], max_padded_length=self.max_batch_samples)
        for batch in batches:
            embeddings = self._embed([cuts[position] for position in batch])
            encoded, error, norm = self._quantize(torch.cat(embeddings))
            squared_error += error
            squared_norm += norm
            ends = np.cumsum([len(rows) for rows in embeddings])[:-1]
            for position, rows in zip(batch, np.split(encoded, ends), strict=True):
                indexes[position] = rows
                yield
        parts = [rows for rows in indexes if rows is not None]
        shard = Shard(number, [(cut.id, len(rows)) for cut, rows in zip(cuts, parts, strict=True)])
        packed = pack(np.concatenate(parts), self.codec.codebook_size)
        assert packed.shape == (shard.num_frames, packed_width(self.codec.num_codebooks, self.codec.codebook_size))
        with atomic_open(directory / shard.file, "wb") as stream:
            np.save(stream, packed, allow_pickle=False)
        record = ShardRecord(
            cuts=[list(cut) for cut in shard.cuts],
            sha256=file_sha256(directory / shard.file),
            squared_error=squared_error,
            squared_norm=squared_norm,
            encode_s=time.monotonic() - started,
        )
        write_json(_record_path(directory, number), asdict(record))
        return record

    def _embed(self, cuts: Sequence[Any]) -> list[Tensor]:
        audio = [load_audio(cut) for cut in cuts]
        embeddings, lengths = self.teacher.embed(audio)
        for cut, samples, num_frames in zip(cuts, audio, lengths.tolist(), strict=True):
            check_teacher_frames(f"cut {cut.id}", num_frames, len(samples), self.rate_hz)
        return [rows[:num_frames] for rows, num_frames in zip(embeddings, lengths.tolist(), strict=True)]

    def _quantize(self, embeddings: Tensor) -> tuple[Bytes, float, float]:
        """Indexes uint8 (B, N) of embeddings (B, D), with squared error and squared norm, both normalised."""
        indexes = self.codec.encode(embeddings, self.iterations)
        normalized = self.codec.normalize(embeddings.to(indexes.device))
        error = (normalized - self.codec.normalize(self.codec.decode(indexes))).double().square().sum()
        return indexes.cpu().numpy(), float(error), float(normalized.double().square().sum())


def _codec_device(name: str) -> str:
    from mvqkd.teacher.base import resolve_device

    return resolve_device(name)
