"""The stage encode-ci: audio to codebook indexes in one pass; float embeddings are never stored.

The work is cut into shards of consecutive cuts. A shard is encoded from its own cuts alone, in batches that depend on
nothing else, so its bytes are the same in a resumed run and for any number of ranks. With ``world_size`` ranks, rank r
encodes the shards i with i % world_size == r into an artifact of its own; ``mvqkd.codebook.merge`` joins them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.codebook.figures import store_figures
from mvqkd.codebook.shard_encoder import ShardEncoder, ShardRecord, finished_record
from mvqkd.codebook.store import KIND, Shard, write_index
from mvqkd.config import EncodeCiConfig
from mvqkd.data.cuts import load_cuts, speed_copy
from mvqkd.device import resolve_device
from mvqkd.errors import ArtifactMismatchError, ConfigError, EmptyCutSetError
from mvqkd.frames import frame_offsets
from mvqkd.progress import track
from mvqkd.quantizer import Quantizer
from mvqkd.teacher.base import Teacher

_LOG = logging.getLogger(__name__)
STAGE = "encode-ci"

# A shard's number and its cuts.
PlannedShard = tuple[int, list[Any]]


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
        out: the artifact, or with several ranks this rank's part; ``part_path`` gives each a name of its own.
        rank, world_size: this process and how many there are.
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
    codec = Quantizer.load(quantizer.path, resolve_device(config.device))
    iterations = int(quantizer.facts["refine_iterations"])
    encoder = ShardEncoder(teacher, codec, config.mode, iterations, config.batch_duration_s)
    mine, num_shards = _plan(data, config, rank, world_size)
    partial = PartialArtifact(
        out,
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
        "teacher_licence": teacher_embeddings.facts.get("teacher_licence", "not stated"),
        "layer": teacher_embeddings.facts["layer"],
        "quantizer_id": quantizer.id,
        "codec_id": codec.id,
        "data_id": data.id,
        "splits": list(config.splits),
        "speeds": list(config.speeds),
        "num_shards": num_shards,
        "num_cuts": sum(len(shard.cuts) for shard in shards),
        "num_frames": sum(shard.num_frames for shard in shards),
        "frame_offsets": list(_frame_offsets(mine, shards, encoder.rate_hz)),
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
    """Where a rank of several writes its part on a shared disk: a sibling of ``out``; ``out`` itself for one rank."""
    return out if world_size == 1 else out.with_name(f"{out.name}-{rank}-of-{world_size}")


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


def _plan(data: Artifact, config: EncodeCiConfig, rank: int, world_size: int) -> tuple[list[PlannedShard], int]:
    """This rank's shards with their cuts, and how many shards there are on all ranks together.

    All copies stand in one row, grouped by speed; a shard is a piece of it. Only cuts of this rank's shards are loaded,
    so that a corpus of any size fits into memory when enough ranks share it.
    """
    counts = [int(data.facts["splits"].get(split, 0)) for split in config.splits]
    num_cuts, num_copies = sum(counts), sum(counts) * len(config.speeds)
    num_shards = -(-num_copies // config.shard_cuts)
    pieces = {
        number: range(number * config.shard_cuts, min((number + 1) * config.shard_cuts, num_copies))
        for number in range(rank, num_shards, world_size)
    }
    wanted = {copy % num_cuts for piece in pieces.values() for copy in piece}
    cuts: dict[int, Any] = {}
    first = 0
    for split, count in zip(config.splits, counts, strict=True):
        positions = sorted(number - first for number in wanted if first <= number < first + count)
        loaded = load_cuts(data, split, frozenset(positions))
        cuts |= {first + position: cut for position, cut in zip(positions, loaded, strict=True)}
        first += count
    if not num_copies:
        raise EmptyCutSetError(
            f"data {data.path} ({data.short_id}), splits {', '.join(config.splits)}",
            expected="cuts to encode",
            got="none",
            next_step="name other splits in encode-ci.splits",
        )
    shards = [
        (number, [speed_copy(cuts[copy % num_cuts], config.speeds[copy // num_cuts]) for copy in piece])
        for number, piece in pieces.items()
    ]
    return shards, num_shards


def _frame_offsets(planned: Sequence[PlannedShard], shards: Sequence[Shard], rate_hz: Fraction) -> tuple[int, int]:
    """How the teacher rounds: whoever reads the indexes can then tell that a cut has not exactly its own frames."""
    return frame_offsets(
        (
            (cut.num_samples, frames)
            for (_, cuts), shard in zip(planned, shards, strict=True)
            for cut, (_, frames) in zip(cuts, shard.cuts, strict=True)
        ),
        rate_hz,
    )


def _encode_shards(
    encoder: ShardEncoder, shards: Sequence[PlannedShard], partial: PartialArtifact
) -> dict[int, ShardRecord]:
    """Encode what is not there yet; every finished shard is on disk with its record before the next begins."""
    records: dict[int, ShardRecord] = {}
    for number, cuts in shards:
        if (record := finished_record(partial.path, number, cuts)) is not None:
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
