"""Codebook indexes as stored bytes: one a byte, or two where an index has no more than 4 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def packed_width(num_codebooks: int, codebook_size: int) -> int:
    """Bytes of a stored frame."""
    return (num_codebooks + 1) // 2 if codebook_size <= 16 else num_codebooks


def pack(indexes: Bytes, codebook_size: int) -> Bytes:
    """Pack indexes for storage.

    Args:
        indexes: uint8 (T, N), values in [0, codebook_size).
    Returns:
        uint8 (T, packed_width). Two indexes a byte: the even codebook's in the low half.
    """
    if codebook_size > 16:
        return indexes
    even, odd = indexes[:, 0::2], indexes[:, 1::2]
    packed = even.copy()
    packed[:, : odd.shape[1]] |= odd << 4
    return packed


def unpack(packed: Bytes, num_codebooks: int, codebook_size: int) -> Bytes:
    """Inverse of ``pack``: uint8 (T, N); without copying where an index fills a byte."""
    if codebook_size > 16:
        return packed
    indexes = np.empty((len(packed), 2 * packed.shape[1]), dtype=np.uint8)
    indexes[:, 0::2] = packed & 0x0F
    indexes[:, 1::2] = packed >> 4
    return indexes[:, :num_codebooks]
