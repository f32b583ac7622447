"""Teacher and codec in one pass over the cuts of a shard; what a killed run left is used again if it is intact."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvqkd.artifacts import atomic_open, file_sha256, write_json
from mvqkd.codebook.packing import Bytes, pack, packed_width
from mvqkd.codebook.store import Shard
from mvqkd.data.audio import load_audio
from mvqkd.frames import SAMPLE_RATE_HZ, as_rate, check_teacher_frames
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.search import SearchMode
from mvqkd.teacher.base import Teacher
from mvqkd.teacher.batching import length_sorted_batches

_LOG = logging.getLogger(__name__)


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


class ShardEncoder:
    """Teacher and codec in one pass over the cuts of a shard."""

    def __init__(
        self, teacher: Teacher, codec: Quantizer, mode: SearchMode, iterations: int, batch_duration_s: float
    ) -> None:
        self.teacher = teacher
        self.codec = codec
        self.mode = mode
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
        indexes = self.codec.encode(embeddings, self.mode, self.iterations)
        normalized = self.codec.normalize(embeddings.to(indexes.device))
        error = (normalized - self.codec.normalize(self.codec.decode(indexes))).double().square().sum()
        return indexes.cpu().numpy(), float(error), float(normalized.double().square().sum())


def _record_path(directory: Path, number: int) -> Path:
    return directory / f".shard-{number:05d}.json"


def finished_record(directory: Path, number: int, cuts: Sequence[Any]) -> ShardRecord | None:
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
    _LOG.warning("encode-ci: %s of the interrupted run is damaged and will be encoded again", shard_path.name)
    return None
