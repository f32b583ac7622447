"""The CI store: memory-mapped uint8 shards, found by cut id.

A codebook-indexes artifact holds ``shard-00000.npy`` ..., each uint8 (frames, bytes a frame) of consecutive cuts, and
``index.json``: for every shard its number, file name and the (cut id, number of frames) of its cuts in order.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.artifacts import Artifact, atomic_open, canonical_json, file_sha256, load_artifact
from mvqkd.codebook.packing import Bytes, packed_width, unpack
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError

KIND = "codebook-indexes"
INDEX_FILE = "index.json"
# An open memory map costs a file descriptor; far more shards than this are rarely in use at once.
MAX_OPEN_SHARDS = 256


@dataclass(frozen=True)
class Shard:
    """One file of the store: its number in the whole store, and its cuts in the order of their frames."""

    number: int
    cuts: Sequence[tuple[str, int]]

    @property
    def file(self) -> str:
        return f"shard-{self.number:05d}.npy"

    @property
    def num_frames(self) -> int:
        return sum(num_frames for _, num_frames in self.cuts)

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number, "file": self.file, "cuts": [list(cut) for cut in self.cuts]}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Shard:
        return cls(int(entry["number"]), [(str(cut_id), int(frames)) for cut_id, frames in entry["cuts"]])


def write_index(directory: Path, shards: Sequence[Shard]) -> None:
    """Write index.json; the shards' digests are in artifact.json."""
    # One line a shard: of short cuts, indented JSON would take as many bytes as their indexes.
    lines = ",\n".join(canonical_json(shard.to_json()) for shard in shards)
    with atomic_open(directory / INDEX_FILE) as stream:
        stream.write(f'{{"shards": [\n{lines}\n]}}\n')


def read_index(artifact: Artifact) -> list[Shard]:
    """Read index.json after checking its digest.

    Raises:
        ArtifactCorruptError: the file is not the one that was written.
    """
    _check_digest(artifact, INDEX_FILE)
    try:
        document = json.loads((artifact.path / INDEX_FILE).read_text(encoding="utf-8"))
        return [Shard.from_json(entry) for entry in document["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(artifact, INDEX_FILE, "an index of shards", str(error)) from error


class CodebookIndexStore:
    """Random access to the codebook indexes of cuts.

    A shard's digest is checked when it is first opened; shards are mapped, not read, after that. Safe to use
    after a fork (maps are opened when first needed).

    Args:
        artifact: of kind codebook-indexes; ``open`` loads one without hashing every shard.
    Raises:
        ArtifactMismatchError: another kind, or the part of a single rank that was never merged.
        ArtifactCorruptError: the index is damaged.
    """

    def __init__(self, artifact: Artifact) -> None:
        if artifact.kind != KIND:
            raise ArtifactMismatchError(
                f"artifact {artifact.path}",
                expected=f"kind {KIND}",
                got=f"kind {artifact.kind}",
                next_step="pass the artifact of encode-ci",
            )
        if "world_size" in artifact.facts:
            raise ArtifactMismatchError(
                f"{KIND} {artifact.path} ({artifact.short_id})",
                expected="the indexes of all ranks",
                got=f"those of rank {artifact.facts['rank']} of {artifact.facts['world_size']}",
                next_step="merge the parts of all ranks with mvqkd.codebook.merge",
            )
        self.artifact = artifact
        self.num_codebooks = int(artifact.facts["num_codebooks"])
        self.codebook_size = int(artifact.facts["codebook_size"])
        self._width = packed_width(self.num_codebooks, self.codebook_size)
        self._shards = read_index(artifact)
        self._places: dict[str, tuple[int, int, int]] = {}
        for position, shard in enumerate(self._shards):
            offset = 0
            for cut_id, num_frames in shard.cuts:
                self._places[cut_id] = (position, offset, num_frames)
                offset += num_frames
        self._open_shards: OrderedDict[int, Bytes] = OrderedDict()
        self._verified: set[int] = set()

    @classmethod
    def open(cls, path: Path | str) -> CodebookIndexStore:
        """Open the store at ``path``; shards are verified as they are first read."""
        return cls(load_artifact(path, KIND, verify="size"))

    def __getstate__(self) -> dict[str, Any]:
        # Maps stay behind: another process opens its own.
        return {**self.__dict__, "_open_shards": OrderedDict()}

    def __contains__(self, cut_id: object) -> bool:
        return cut_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def cut_ids(self) -> list[str]:
        """Ids of all cuts, in the order they are stored."""
        return list(self._places)

    @property
    def frame_offsets(self) -> tuple[int, int]:
        """How the teacher rounds a duration to frames, see ``mvqkd.frames.frame_offsets``."""
        lowest, highest = self.artifact.facts["frame_offsets"]
        return int(lowest), int(highest)

    def num_frames(self, cut_id: str) -> int:
        """Teacher frames of a cut."""
        return self._place(cut_id)[2]

    def read(self, cut_id: str) -> Bytes:
        """Codebook indexes of a cut.

        Returns:
            uint8 (T, N), T teacher frames, N codebooks, values in [0, codebook_size); the caller's own copy.
        Raises:
            ArtifactMismatchError: the store has no such cut.
            ArtifactCorruptError: the shard is damaged; its file is named.
        """
        position, offset, num_frames = self._place(cut_id)
        packed = self._shard(position)[offset : offset + num_frames]
        # A copy: some kB, and torch accepts it without a warning that it is read-only.
        return unpack(np.array(packed), self.num_codebooks, self.codebook_size)

    def verify(self) -> None:
        """Check the digest and shape of every shard.

        Raises:
            ArtifactCorruptError: naming the first damaged file.
        """
        self._verified.clear()
        self._open_shards.clear()
        for position in range(len(self._shards)):
            self._shard(position)

    def _place(self, cut_id: str) -> tuple[int, int, int]:
        try:
            return self._places[cut_id]
        except KeyError:
            raise ArtifactMismatchError(
                f"cut {cut_id}",
                expected=f"a cut with codebook indexes in {self.artifact.path} ({self.artifact.short_id})",
                got=f"none among its {len(self)} cuts",
                next_step="re-run encode-ci on this data, with all splits and speeds that training uses",
            ) from None

    def _shard(self, position: int) -> Bytes:
        if position in self._open_shards:
            self._open_shards.move_to_end(position)
            return self._open_shards[position]
        shard = self._shards[position]
        if position not in self._verified:
            _check_digest(self.artifact, shard.file)
        array = _map(self.artifact, shard, self._width)
        self._verified.add(position)
        self._open_shards[position] = array
        if len(self._open_shards) > MAX_OPEN_SHARDS:
            self._open_shards.popitem(last=False)
        return array


def _map(artifact: Artifact, shard: Shard, width: int) -> Bytes:
    path = artifact.path / shard.file
    try:
        # An empty file cannot be mapped; a shard of cuts too short for a frame is one.
        array: Bytes = np.load(path, mmap_mode="r" if shard.num_frames else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _corrupt(artifact, shard.file, "a .npy array", str(error)) from error
    if array.dtype != np.uint8 or array.shape != (shard.num_frames, width):
        expected = f"uint8 ({shard.num_frames}, {width})"
        raise _corrupt(artifact, shard.file, expected, f"{array.dtype} {array.shape}")
    return array


def _check_digest(artifact: Artifact, name: str) -> None:
    entry = artifact.files.get(name)
    path = artifact.path / name
    if entry is None or not path.is_file():
        raise _corrupt(artifact, name, "a file listed in artifact.json", "no such file")
    if (digest := file_sha256(path)) != entry["sha256"]:
        raise _corrupt(artifact, name, f"sha256 {entry['sha256'][:16]}", f"sha256 {digest[:16]}")


def _corrupt(artifact: Artifact, name: str, expected: str, got: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"{KIND} {artifact.path} ({artifact.short_id}), file {name}",
        expected=expected,
        got=got,
        next_step="re-run encode-ci or restore the directory from its remote",
    )
