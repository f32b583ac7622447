"""Where the frames of a fit come from: a tensor in memory, or a stream of blocks that is opened anew for each epoch.

Both give their batches in an order that follows from a seed alone, so that a fit can go on at any step without a
record of the batches before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from mvqkd.errors import DataError

# Frames whose statistics are taken together: 40 MB in float64 at 1280 channels.
STATISTICS_BLOCK = 4096
# A channel that varies less than this share of its magnitude is rounding noise around a constant.
CONSTANT_CHANNEL = 1e-5
SUBJECT = "teacher embeddings"


class EmbeddingStream:
    """Embeddings that are read in blocks, anew for each epoch, and shuffled in a buffer.

    Memory holds the buffer, one block and one batch, however many blocks there are.

    Args:
        open_blocks: gives the blocks from the first one on, float (b, D) each, b at least 0; the same ones each
            time it is called. All have one dtype, which the buffer keeps.
        buffer_frames: frames among which the order is random; at least a batch is held.
    """

    def __init__(self, open_blocks: Callable[[], Iterable[Tensor]], *, buffer_frames: int) -> None:
        if buffer_frames < 1:
            raise ValueError(f"buffer_frames must be at least 1, got {buffer_frames}")
        self._open_blocks = open_blocks
        self._buffer_frames = buffer_frames

    def blocks(self) -> Iterator[Tensor]:
        """One pass over the stream; empty blocks are left out.

        Raises:
            DataError: a block is not float (b, D), or differs from the first one in D or dtype.
        """
        first: Tensor | None = None
        for number, block in enumerate(self._open_blocks()):
            _check_block(block, first, f"{SUBJECT}, block {number}")
            first = block[:0].clone() if first is None else first
            if len(block):
                yield block

    def epoch(self, size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Batches of one epoch: every frame at most once, the last short batch dropped.

        Half of the buffer, chosen at random, is given out and replaced by what follows in the stream, until the stream
        ends and all of the buffer goes. A stream that fits the buffer is shuffled as a tensor in memory is.
        """
        frames = _Frames(self.blocks())
        buffer = frames.empty(min(max(self._buffer_frames, size), count))
        slots = torch.arange(len(buffer))
        slots = slots[: frames.take_into(buffer, slots)]
        while len(slots) >= size:
            slots = slots[torch.randperm(len(slots), generator=generator)]
            share = len(slots) if frames.exhausted else max(size, len(slots) // 2)
            given = share // size * size
            for start in range(0, given, size):
                yield buffer[slots[start : start + size]]
            refilled = frames.take_into(buffer, slots[:given])
            slots = torch.cat([slots[given:], slots[:refilled]])


class TensorSource:
    """Embeddings in memory, float (B, D)."""

    def __init__(self, embeddings: Tensor) -> None:
        _check_block(embeddings, None, SUBJECT)
        self._embeddings = embeddings

    def blocks(self) -> Iterator[Tensor]:
        """All of them."""
        yield self._embeddings

    def epoch(self, size: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Batches of one epoch: a random permutation, the last short batch dropped."""
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield self._embeddings[order[start : start + size]]


EmbeddingSource = TensorSource | EmbeddingStream


@dataclass(frozen=True)
class SourceStatistics:
    """What one pass over a source tells.

    Attributes:
        count: frames.
        mean: float32 (D,), of every channel.
        std: float32 (D,); exactly 0 for a constant channel.
        digest: sha256 (hex) of the frames; empty unless asked for.
    """

    count: int
    mean: Tensor
    std: Tensor
    digest: str = ""


def channel_statistics(source: EmbeddingSource, *, digest: bool = False) -> SourceStatistics:
    """Mean and standard deviation of every channel in one pass, accumulated in float64.

    Args:
        digest: also hash the frames, to know them again.
    Raises:
        DataError: no frames, a frame with NaN or infinity, or blocks that do not fit together.

    Source: Chan, Golub, LeVeque 1979 (merging the moments of two samples).
    """
    count, mean, squares, hashed = 0, torch.zeros(()).double(), torch.zeros(()).double(), sha256()
    for block in source.blocks():
        if digest:
            hashed.update(block.cpu().contiguous().view(torch.uint8).numpy().data)
        for part in torch.split(block, STATISTICS_BLOCK):
            part = part.cpu().float().double()  # float32 first: what it cannot hold shall show
            part_mean = part.mean(0)
            if not bool(part_mean.isfinite().all()):  # cheaper than to look at every number
                refuse_not_finite(part, SUBJECT, count)
            shift = part_mean - mean
            total = count + len(part)
            squares = squares + (part - part_mean).square().sum(0) + shift.square() * (count * len(part) / total)
            mean = mean + shift * (len(part) / total)
            count = total
    if count == 0:
        raise DataError(
            SUBJECT,
            expected="frames to fit on",
            got="none",
            next_step="re-run extract-teacher on a split with speech",
        )
    std = (squares / count).sqrt()
    std = std.masked_fill(std <= CONSTANT_CHANNEL * mean.abs(), 0.0)
    return SourceStatistics(count, mean.float(), std.float(), hashed.hexdigest() if digest else "")


def batches(source: EmbeddingSource, count: int, size: int, seed: Sequence[int], start: int = 0) -> Iterator[Tensor]:
    """Batches without end, epoch after epoch, each epoch in an order of its own.

    Args:
        count: frames of the source; all of them are one batch where there are fewer than ``size``.
        size: frames a batch.
        seed: numbers that the order follows from.
        start: batches to leave out at the beginning.
    Returns:
        float (size, D) each, in the dtype of the source.
    Raises:
        DataError: the source gives fewer frames than it did before.
    """
    size = min(size, count)
    per_epoch = count // size
    for epoch in itertools.count(start // per_epoch):
        generator = torch.Generator().manual_seed(_mixed([*seed, epoch]))
        given = 0
        for batch in source.epoch(size, count, generator):
            given += 1
            if (epoch * per_epoch + given) > start:
                yield batch
        if given < per_epoch:
            raise DataError(
                SUBJECT,
                expected=f"{count} frames in every pass over the stream",
                got=f"fewer than {(given + 1) * size} when it was opened again",
                next_step="pass a function that opens the stream from its beginning each time",
            )


class _Frames:
    """The frames of consecutive blocks, taken in whatever number is wanted."""

    def __init__(self, blocks: Iterator[Tensor]) -> None:
        self._blocks = blocks
        self._left = next(blocks, None)

    @property
    def exhausted(self) -> bool:
        return self._left is None

    def empty(self, rows: int) -> Tensor:
        """An uninitialised tensor of so many rows of this dtype and width."""
        return torch.empty(0, 0) if self._left is None else self._left.new_empty(rows, self._left.shape[1])

    def take_into(self, buffer: Tensor, slots: Tensor) -> int:
        """Put the next frames into the given rows of a buffer; how many there were."""
        taken = 0
        while self._left is not None and taken < len(slots):
            part = self._left[: len(slots) - taken]
            buffer[slots[taken : taken + len(part)]] = part
            taken += len(part)
            self._left = self._left[len(part) :] if len(part) < len(self._left) else next(self._blocks, None)
        return taken


def _mixed(numbers: Sequence[int]) -> int:
    """One seed of 63 bits from several numbers; neighbours give unrelated ones."""
    return int.from_bytes(sha256(repr(list(numbers)).encode()).digest()[:8], "big") >> 1


def _check_block(block: Any, first: Tensor | None, subject: str) -> None:
    fits = isinstance(block, Tensor) and block.dim() == 2 and block.is_floating_point()
    if fits and (first is None or (block.shape[1], block.dtype) == (first.shape[1], first.dtype)):
        return
    expected = "float embeddings of shape (B, D)"
    if fits and first is not None:
        expected = f"{first.dtype} with {first.shape[1]} channels, as in the first block"
    raise DataError(
        subject,
        expected=expected,
        got=f"{block.dtype} {tuple(block.shape)}" if isinstance(block, Tensor) else type(block).__name__,
        next_step="re-run extract-teacher",
    )


def refuse_not_finite(embeddings: Tensor, subject: str, first_row: int = 0) -> None:
    """Name the first row with NaN or infinity.

    Args:
        embeddings: float (B, D).
        subject: what holds them.
        first_row: what the first of these rows is called.
    Raises:
        DataError: there is one.
    """
    finite = embeddings.isfinite().all(1)
    if bool(finite.all()):
        return
    row = int((~finite).nonzero()[0])
    raise DataError(
        f"{subject}, frame {first_row + row}",
        expected="finite numbers",
        got="NaN" if bool(embeddings[row].isnan().any()) else "infinity (float16 holds no more than 65504)",
        next_step="check the teacher and the audio, then re-run extract-teacher",
    )
