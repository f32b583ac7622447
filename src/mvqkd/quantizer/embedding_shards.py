"""The frames of a teacher-embeddings artifact, read shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mvqkd.artifacts import Artifact
from mvqkd.errors import ArtifactCorruptError, DataError
from mvqkd.quantizer.embedding_source import refuse_not_finite

CUTS_FILE = "cuts.json"
UNKNOWN_SPEAKER = "unknown"


class EmbeddingShards:
    """Reads the shards of an artifact in order; memory holds one of them at a time.

    Raises:
        ArtifactCorruptError: a shard does not hold what it should.
        DataError: there are no frames, or NaN or infinity among those that are read.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._names = sorted(name for name in artifact.files if name.endswith(".safetensors"))
        cut_indexes = list(self._read("cut_index"))
        self._num_rows = [len(cut_index) for cut_index in cut_indexes]
        self.cut_index = torch.cat([torch.empty(0, dtype=torch.long), *cut_indexes])
        if len(self.cut_index) == 0:
            raise DataError(
                self._subject(),
                expected="embeddings to fit on",
                got="none",
                next_step="re-run extract-teacher on a split with speech",
            )

    def __len__(self) -> int:
        return len(self.cut_index)

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """The chosen frames of each shard.

        Args:
            rows: bool (B,), of all frames.
        Returns:
            float16 (b, D) each.
        """
        start = 0
        for name, embeddings, num_rows in zip(self._names, self._read("embeddings"), self._num_rows, strict=True):
            if len(embeddings) != num_rows:
                raise self._corrupt(name, f"{num_rows} embeddings, as there are in cut_index", f"{len(embeddings)}")
            refuse_not_finite(embeddings, self._subject(name))
            yield embeddings[rows[start : start + num_rows]]
            start += num_rows

    def gather(self, rows: Tensor, limit: int | None = None) -> Tensor:
        """The chosen frames, the first ``limit`` of them, in memory: float16 (b, D)."""
        wanted = int(rows.sum()) if limit is None else min(limit, int(rows.sum()))
        gathered = torch.empty(0, 0)
        filled = 0
        for block in self.blocks(rows):
            if filled == 0:
                gathered = block.new_empty(wanted, block.shape[1])
            part = block[: wanted - filled]
            gathered[filled : filled + len(part)] = part
            filled += len(part)
            if filled == wanted:
                break
        return gathered

    def speakers(self, cut_index: Tensor) -> list[str] | None:
        """Speaker of the cut at each position, int64 (b,), of the list of cuts; None where nothing is known of any."""
        if CUTS_FILE not in self._artifact.files:
            return None
        names = json.loads((self._artifact.path / CUTS_FILE).read_text(encoding="utf-8"))["speakers"]
        if not any(names):
            return None
        return [names[position] or UNKNOWN_SPEAKER for position in cut_index.tolist()]

    def _read(self, tensor: str) -> Iterator[Tensor]:
        for name in self._names:
            try:
                with safe_open(self._artifact.path / name, "pt") as stream:
                    content = stream.get_tensor(tensor)
            except (SafetensorError, KeyError) as error:
                raise self._corrupt(name, "tensors embeddings and cut_index", str(error)) from error
            yield content

    def _corrupt(self, name: str, expected: str, got: str) -> ArtifactCorruptError:
        return ArtifactCorruptError(self._subject(name), expected=expected, got=got, next_step="re-run extract-teacher")

    def _subject(self, name: str = "") -> str:
        subject = f"{self._artifact.kind} {self._artifact.path} ({self._artifact.short_id})"
        return f"{subject}, file {name}" if name else subject
