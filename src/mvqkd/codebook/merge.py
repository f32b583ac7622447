"""Join the parts that several ranks of encode-ci wrote into the artifact that a single process would have written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, load_artifact
from mvqkd.codebook.figures import store_figures
from mvqkd.codebook.store import KIND, Shard, read_index, write_index
from mvqkd.errors import ArtifactMismatchError

_OF_A_RANK = ("rank", "world_size", "num_cuts", "num_frames", "frame_offsets")


def merge(parts: Sequence[Path], out: Path) -> Artifact:
    """Merge the parts of all ranks; equal in id and bytes to the artifact of one process.

    Args:
        parts: one directory a rank, in any order, as ``mvqkd.codebook.encode.part_path`` names them.
        out: the artifact to write.
    Raises:
        ArtifactMismatchError: the parts differ in quantizer, data, teacher or config, or ranks or shards are missing.
        ArtifactCorruptError: a part's bytes are not those that were written.
    """
    artifacts = [load_artifact(part, KIND) for part in parts]
    _check_same_origin(artifacts)
    _check_ranks(artifacts)
    first = artifacts[0]
    owners: dict[int, tuple[Artifact, Shard]] = {}
    for artifact in artifacts:
        for shard in read_index(artifact):
            owners[shard.number] = (artifact, shard)
    missing = sorted(set(range(int(first.facts["num_shards"]))) - set(owners))
    if missing:
        raise _mismatch(first, f"{first.facts['num_shards']} shards", f"none numbered {_some(missing)}")
    partial = PartialArtifact(out, KIND, stage=first.stage, config=first.config, parents=dict(first.parents))
    shards = [owners[number][1] for number in sorted(owners)]
    for number in sorted(owners):
        artifact, shard = owners[number]
        with (artifact.path / shard.file).open("rb") as source, atomic_open(partial.path / shard.file, "wb") as target:
            shutil.copyfileobj(source, target)
    write_index(partial.path, shards)
    facts = {name: value for name, value in first.facts.items() if name not in _OF_A_RANK}
    facts |= {
        "num_cuts": sum(len(shard.cuts) for shard in shards),
        "num_frames": sum(shard.num_frames for shard in shards),
        "frame_offsets": _joined_offsets([artifact.facts["frame_offsets"] for artifact in artifacts]),
    }
    figures = store_figures(
        partial.path,
        shards,
        facts,
        squared_error=sum(artifact.figures["squared_error"] for artifact in artifacts),
        squared_norm=sum(artifact.figures["squared_norm"] for artifact in artifacts),
        encode_s=sum(artifact.figures["encode_s"] for artifact in artifacts),
    )
    return partial.commit(facts=facts, figures=figures)


def _check_same_origin(artifacts: Sequence[Artifact]) -> None:
    if not artifacts:
        raise ArtifactMismatchError(
            "parts to merge", expected="one a rank", got="none", next_step="name the directories that encode-ci wrote"
        )
    first = artifacts[0]
    for other in artifacts[1:]:
        for kind in sorted({*first.parents, *other.parents}):
            ours, theirs = (str(a.parents.get(kind, "none"))[:12] for a in (first, other))
            if ours != theirs:
                raise _mismatch(other, f"{kind} {ours} as in {first.path}", f"{kind} {theirs}")
        if first.config_hash != other.config_hash:
            raise _mismatch(other, f"the encode-ci config of {first.path}", "another")
        for name in first.facts:
            if name not in _OF_A_RANK and first.facts[name] != other.facts.get(name):
                raise _mismatch(other, f"{name} {first.facts[name]} as in {first.path}", f"{other.facts.get(name)}")


def _joined_offsets(offsets: Sequence[Sequence[int]]) -> list[int]:
    return [max(lowest for lowest, _ in offsets), min(highest for _, highest in offsets)]


def _check_ranks(artifacts: Sequence[Artifact]) -> None:
    if len(artifacts) == 1 and "world_size" not in artifacts[0].facts:
        return  # what a run of one rank wrote is whole already
    for artifact in artifacts:
        if "world_size" not in artifact.facts:
            raise _mismatch(artifact, "the part of one rank", "indexes of all ranks")
    world_sizes = {int(artifact.facts["world_size"]) for artifact in artifacts}
    ranks = sorted(int(artifact.facts["rank"]) for artifact in artifacts)
    if len(world_sizes) != 1 or ranks != list(range(max(world_sizes))):
        expected = f"ranks 0 to {max(world_sizes) - 1}, once each"
        raise _mismatch(artifacts[0], expected, f"ranks {_some(ranks)} of world sizes {_some(sorted(world_sizes))}")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")


def _mismatch(artifact: Artifact, expected: str, got: str) -> ArtifactMismatchError:
    return ArtifactMismatchError(
        f"{KIND} {artifact.path} ({artifact.short_id})",
        expected=expected,
        got=got,
        next_step="merge the parts of all ranks of one run of encode-ci; re-run the ranks that are missing",
    )
