from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.codebook import store as store_module
from mvqkd.codebook.packing import Bytes, pack
from mvqkd.codebook.store import KIND, CodebookIndexStore, Shard, write_index
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError


def indexes_of(cut: int, num_frames: int, codebooks: int, size: int) -> Bytes:
    return np.random.default_rng(cut).integers(0, size, (num_frames, codebooks), dtype=np.uint8)


LENGTHS = [3, 7, 0, 5, 11, 2]


def write_store(out: Path, *, codebooks: int = 4, size: int = 256, **facts: int) -> Artifact:
    """Six cuts in shards of two."""
    partial = PartialArtifact(out, KIND, stage="encode-ci", config={})
    shards = []
    for number in range(3):
        cuts = [2 * number, 2 * number + 1]
        rows = np.concatenate([indexes_of(cut, LENGTHS[cut], codebooks, size) for cut in cuts])
        shard = Shard(number, [(f"cut-{cut}", LENGTHS[cut]) for cut in cuts])
        np.save(partial.path / shard.file, pack(rows, size))
        shards.append(shard)
    write_index(partial.path, shards)
    return partial.commit(facts={"num_codebooks": codebooks, "codebook_size": size, "rate_hz": "50/1", **facts})


@pytest.mark.parametrize(("codebooks", "size"), [(4, 256), (4, 16), (1, 16)])
def test_random_access_by_cut_id(tmp_path: Path, codebooks: int, size: int) -> None:
    store = CodebookIndexStore(write_store(tmp_path / "ci", codebooks=codebooks, size=size))
    assert store.cut_ids == [f"cut-{cut}" for cut in range(6)]
    assert len(store) == 6
    for cut in (4, 0, 5, 2, 1, 3, 4, 0):
        read = store.read(f"cut-{cut}")
        assert read.dtype == np.uint8
        assert store.num_frames(f"cut-{cut}") == LENGTHS[cut] == len(read)
        np.testing.assert_array_equal(read, indexes_of(cut, LENGTHS[cut], codebooks, size))
        read[...] = 0  # the caller's own copy


def test_a_cut_that_was_not_encoded(tmp_path: Path) -> None:
    store = CodebookIndexStore(write_store(tmp_path / "ci"))
    assert "cut-9" not in store
    with pytest.raises(ArtifactMismatchError, match=r"cut cut-9.*none among its 6 cuts; re-run encode-ci"):
        store.read("cut-9")


def test_shards_are_opened_when_first_needed_and_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_OPEN_SHARDS", 2)
    store = CodebookIndexStore(write_store(tmp_path / "ci"))
    assert list(store._open_shards) == []
    for cut in (0, 2, 4, 0):
        store.read(f"cut-{cut}")
    assert list(store._open_shards) == [2, 0]
    np.testing.assert_array_equal(store.read("cut-3"), indexes_of(3, 5, 4, 256))


def test_another_process_opens_its_own_maps(tmp_path: Path) -> None:
    store = CodebookIndexStore(write_store(tmp_path / "ci"))
    store.read("cut-1")
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  # our own bytes
    assert copy._open_shards == {}
    np.testing.assert_array_equal(copy.read("cut-1"), store.read("cut-1"))


def test_a_flipped_byte_is_found_when_its_shard_is_opened_and_not_before(tmp_path: Path) -> None:
    artifact = write_store(tmp_path / "ci")
    shard = artifact.path / "shard-00001.npy"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    store = CodebookIndexStore.open(artifact.path)
    store.read("cut-0")
    with pytest.raises(ArtifactCorruptError, match=r"file shard-00001.npy: expected sha256"):
        store.read("cut-2")
    with pytest.raises(ArtifactCorruptError, match=r"shard-00001.npy"):
        store.verify()


def test_damage_after_the_first_read_is_found_by_verify(tmp_path: Path) -> None:
    store = CodebookIndexStore(write_store(tmp_path / "ci"))
    store.verify()
    shard = store.artifact.path / "shard-00002.npy"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ArtifactCorruptError, match=r"shard-00002.npy"):
        store.verify()


@pytest.mark.parametrize("name", ["shard-00002.npy", "index.json"])
def test_a_truncated_file_is_found_at_once(tmp_path: Path, name: str) -> None:
    artifact = write_store(tmp_path / "ci")
    path = artifact.path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactCorruptError, match=f"file {name}: expected .* bytes"):
        CodebookIndexStore.open(artifact.path)


def test_a_missing_shard_is_found_at_once(tmp_path: Path) -> None:
    artifact = write_store(tmp_path / "ci")
    (artifact.path / "shard-00000.npy").unlink()
    with pytest.raises(ArtifactCorruptError, match=r"shard-00000.npy: .* got no such file"):
        CodebookIndexStore.open(artifact.path)
    with pytest.raises(ArtifactCorruptError, match=r"shard-00000.npy: .* got no such file"):
        CodebookIndexStore(artifact).read("cut-0")


def test_an_index_of_equal_size_but_other_content(tmp_path: Path) -> None:
    artifact = write_store(tmp_path / "ci")
    index = artifact.path / "index.json"
    index.write_text(index.read_text().replace("cut-0", "cut-8"))
    with pytest.raises(ArtifactCorruptError, match=r"index.json: expected sha256"):
        CodebookIndexStore.open(artifact.path)


def test_a_shard_that_does_not_fit_the_index(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "ci", KIND, stage="encode-ci", config={})
    shard = Shard(0, [("a", 5)])
    np.save(partial.path / shard.file, np.zeros((4, 4), dtype=np.uint8))
    write_index(partial.path, [shard])
    store = CodebookIndexStore(partial.commit(facts={"num_codebooks": 4, "codebook_size": 256}))
    with pytest.raises(ArtifactCorruptError, match=r"expected uint8 \(5, 4\), got uint8 \(4, 4\)"):
        store.read("a")


def test_an_index_without_shards(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "ci", KIND, stage="encode-ci", config={})
    (partial.path / "index.json").write_text("{}")
    artifact = partial.commit(facts={"num_codebooks": 4, "codebook_size": 256})
    with pytest.raises(ArtifactCorruptError, match="an index of shards"):
        CodebookIndexStore(artifact)


def test_the_part_of_one_rank_is_no_store(tmp_path: Path) -> None:
    artifact = write_store(tmp_path / "ci", rank=1, world_size=4)
    with pytest.raises(ArtifactMismatchError, match="rank 1 of 4; merge"):
        CodebookIndexStore(artifact)


def test_another_kind_is_no_store(tmp_path: Path) -> None:
    artifact = PartialArtifact(tmp_path / "q", "quantizer", stage="fit-quantizer", config={}).commit()
    with pytest.raises(ArtifactMismatchError, match="kind quantizer"):
        CodebookIndexStore(artifact)
