from __future__ import annotations

import numpy as np
import pytest

from mvqkd.codebook.packing import pack, packed_width, unpack


@pytest.mark.parametrize(
    ("num_codebooks", "size", "width"), [(8, 256, 8), (8, 32, 8), (8, 16, 4), (1, 16, 1), (3, 4, 2)]
)
def test_round_trip(num_codebooks: int, size: int, width: int) -> None:
    indexes = np.random.default_rng(0).integers(0, size, (20, num_codebooks), dtype=np.uint8)
    packed = pack(indexes, size)
    assert packed.dtype == np.uint8
    assert packed.shape == (20, width)
    assert packed_width(num_codebooks, size) == width
    np.testing.assert_array_equal(unpack(packed, num_codebooks, size), indexes)


def test_the_even_codebook_is_the_low_half() -> None:
    assert pack(np.array([[0x3, 0xA, 0x7]], dtype=np.uint8), 16).tolist() == [[0xA3, 0x07]]


def test_packing_does_not_change_its_input() -> None:
    indexes = np.full((2, 4), 9, dtype=np.uint8)
    pack(indexes, 16)
    assert (indexes == 9).all()
