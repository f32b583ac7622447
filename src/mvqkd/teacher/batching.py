"""Put recordings of like length together, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence


def length_sorted_batches(
    lengths: Sequence[int], *, max_padded_length: int, max_padding_share: float = 0.1
) -> list[list[int]]:
    """Split positions 0 .. N-1 into batches of similar length.

    Args:
        lengths: frames (or samples) of each item.
        max_padded_length: bound on items x longest item of a batch; a longer single item is a batch of its own.
        max_padding_share: bound on the share of a batch that is padding.
    Returns:
        Every position exactly once; longest first, so that memory runs out at once or not at all.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    batches: list[list[int]] = []
    real = 0
    for position in order:
        length = lengths[position]
        if batches:
            padded = (len(batches[-1]) + 1) * lengths[batches[-1][0]]
            if padded <= max_padded_length and padded - real - length <= max_padding_share * padded:
                batches[-1].append(position)
                real += length
                continue
        batches.append([position])
        real = length
    return batches
