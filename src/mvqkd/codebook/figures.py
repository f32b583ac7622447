"""Measured numbers of a CI store: how much of the teacher it keeps, how many bytes it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvqkd.codebook.packing import unpack
from mvqkd.codebook.store import Shard
from mvqkd.quantizer.report_usage import entropy_bits

FLOAT32_BYTES = 4


def store_figures(
    directory: Path,
    shards: Sequence[Shard],
    facts: Mapping[str, Any],
    *,
    squared_error: float,
    squared_norm: float,
    encode_s: float,
) -> dict[str, Any]:
    """Figures of the shards below ``directory``.

    Args:
        facts: those of the artifact: num_codebooks, codebook_size, bytes_per_frame, dim, num_frames.
        squared_error, squared_norm: sums over all frames, in the codec's own space.
        encode_s: seconds that teacher and codec took, over all runs and ranks.
    """
    num_frames = int(facts["num_frames"])
    entropy = _code_entropy_bits(directory, shards, int(facts["num_codebooks"]), int(facts["codebook_size"]))
    return {
        "relative_error": squared_error / squared_norm if squared_norm > 0 else 0.0,
        "squared_error": squared_error,
        "squared_norm": squared_norm,
        "entropy_bits": [round(bits, 4) for bits in entropy],
        "mean_entropy_bits": round(sum(entropy) / len(entropy), 4),
        "bytes": num_frames * int(facts["bytes_per_frame"]),
        "compression_ratio": FLOAT32_BYTES * int(facts["dim"]) / int(facts["bytes_per_frame"]),
        "encode_s": round(encode_s, 3),
        "frames_per_s": round(num_frames / encode_s, 1) if encode_s > 0 else 0.0,
    }


def _code_entropy_bits(directory: Path, shards: Sequence[Shard], num_codebooks: int, codebook_size: int) -> list[float]:
    """Entropy of the indexes of every codebook, in bits; at most log2(codebook_size)."""
    counts = np.zeros((num_codebooks, codebook_size), dtype=np.int64)
    for shard in shards:
        if shard.num_frames:
            packed = np.load(directory / shard.file, mmap_mode="r", allow_pickle=False)
            indexes = unpack(packed, num_codebooks, codebook_size)
            for codebook in range(num_codebooks):
                counts[codebook] += np.bincount(indexes[:, codebook], minlength=codebook_size)
    return entropy_bits(torch.from_numpy(counts))
