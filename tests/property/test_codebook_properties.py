from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.artifacts import PartialArtifact
from mvqkd.codebook.packing import pack, packed_width, unpack
from mvqkd.codebook.store import KIND, CodebookIndexStore, Shard, write_index


@settings(max_examples=50, deadline=None)
@given(
    frames=st.integers(0, 20),
    codebooks=st.integers(1, 17),
    bits=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_what_is_packed_is_unpacked(frames: int, codebooks: int, bits: int, seed: int) -> None:
    size = 2**bits
    indexes = np.random.default_rng(seed).integers(0, size, (frames, codebooks), dtype=np.uint8)
    packed = pack(indexes, size)
    assert packed.shape == (frames, packed_width(codebooks, size))
    np.testing.assert_array_equal(unpack(packed, codebooks, size), indexes)


@settings(max_examples=20, deadline=None)
@given(
    shards=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=4),
    size=st.sampled_from([16, 256]),
    codebooks=st.sampled_from([1, 4, 8]),
)
def test_the_store_gives_back_what_was_written(shards: list[list[int]], size: int, codebooks: int) -> None:
    rng = np.random.default_rng(0)
    written = {}
    with tempfile.TemporaryDirectory() as folder:
        partial = PartialArtifact(Path(folder) / "ci", KIND, stage="encode-ci", config={})
        index = []
        for number, lengths in enumerate(shards):
            parts = [rng.integers(0, size, (frames, codebooks), dtype=np.uint8) for frames in lengths]
            ids = [f"cut {number}/{position} é" for position in range(len(lengths))]
            written.update(zip(ids, parts, strict=True))
            shard = Shard(number, list(zip(ids, lengths, strict=True)))
            np.save(partial.path / shard.file, pack(np.concatenate(parts), size))
            index.append(shard)
        write_index(partial.path, index)
        store = CodebookIndexStore(partial.commit(facts={"num_codebooks": codebooks, "codebook_size": size}))
        store.verify()
        assert store.cut_ids == list(written)
        for cut_id, indexes in written.items():
            np.testing.assert_array_equal(store.read(cut_id), indexes)
