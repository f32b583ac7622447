from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mvqkd.errors import DataError
from mvqkd.quantizer.embedding_source import EmbeddingStream, TensorSource, batches, channel_statistics


def numbered(count: int, dim: int = 3) -> Tensor:
    """Frames that can be told apart: frame i is (i, i, ...)."""
    return torch.arange(count, dtype=torch.float32).unsqueeze(1).expand(count, dim).contiguous()


def stream_of(x: Tensor, block: int, buffer_frames: int) -> EmbeddingStream:
    return EmbeddingStream(lambda: iter(torch.split(x, block)), buffer_frames=buffer_frames)


def take(source: TensorSource | EmbeddingStream, count: int, size: int, number: int, **options: int) -> list[Tensor]:
    return list(itertools.islice(batches(source, count, size, (7, 1), **options), number))


@pytest.mark.parametrize("block", [1, 13, 4096, 10_000])
def test_statistics_of_a_stream_are_those_of_the_tensor(block: int) -> None:
    x = torch.randn(6000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 1e3, 1, 1]) + 100
    x[:, 3] = 7.25
    in_memory, streamed = channel_statistics(TensorSource(x)), channel_statistics(stream_of(x, block, 100))
    assert in_memory.count == streamed.count == 6000
    torch.testing.assert_close(streamed.mean, in_memory.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(streamed.std, in_memory.std, rtol=1e-6, atol=0)
    torch.testing.assert_close(in_memory.mean, x.double().mean(0).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(in_memory.std[[0, 1, 2, 4]], x.double().std(0, correction=0).float()[[0, 1, 2, 4]])
    assert in_memory.std[3] == streamed.std[3] == 0


def test_statistics_far_from_zero() -> None:
    # Sums of squares would lose all digits here.
    x = (torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double() + 3e4).float()
    torch.testing.assert_close(
        channel_statistics(stream_of(x, 777, 10)).std, x.double().std(0, correction=0).float(), rtol=1e-5, atol=0
    )


def test_the_digest_tells_frames_apart_but_not_blocks() -> None:
    x = numbered(50).half()
    one, other = (channel_statistics(stream_of(x, block, 9), digest=True).digest for block in (7, 50))
    assert one == other == channel_statistics(TensorSource(x), digest=True).digest
    assert channel_statistics(TensorSource(x.flip(0)), digest=True).digest != one
    assert channel_statistics(TensorSource(x)).digest == ""


@pytest.mark.parametrize(
    ("block", "buffer_frames", "size"), [(10, 30, 8), (7, 16, 16), (100, 20, 3), (1, 5, 4), (6, 1, 5)]
)
def test_an_epoch_of_a_stream_gives_every_frame_at_most_once(block: int, buffer_frames: int, size: int) -> None:
    x = numbered(100)
    given = take(stream_of(x, block, buffer_frames), 100, size, 3 * (100 // size))
    per_epoch = 100 // size
    for epoch in range(3):
        rows = torch.cat(given[epoch * per_epoch : (epoch + 1) * per_epoch])[:, 0]
        assert len(rows.unique()) == len(rows) == per_epoch * size
    assert len(torch.cat(given).unique(dim=0)) > 90


def test_a_stream_is_shuffled_and_each_epoch_anew() -> None:
    x = numbered(1000)
    given = take(stream_of(x, 50, 200), 1000, 100, 20)
    first, second = torch.cat(given[:10])[:, 0], torch.cat(given[10:])[:, 0]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(1000))
    assert not torch.equal(first, second)
    # Frames wander: some leave the buffer at once, others stay for rounds. Never before they have come in.
    drift = first - torch.arange(1000)
    assert drift.max() < 200
    assert drift.min() < -200
    assert drift.abs().median() > 30


def test_a_stream_that_fits_its_buffer_is_shuffled_as_a_tensor_is() -> None:
    x = numbered(90)
    streamed = take(stream_of(x, 8, 90), 90, 16, 12)
    in_memory = take(TensorSource(x), 90, 16, 12)
    assert all(torch.equal(one, other) for one, other in zip(streamed, in_memory, strict=True))


@pytest.mark.parametrize("buffer_frames", [20, 64])
@pytest.mark.parametrize("start", [0, 1, 5, 6, 17])
def test_batches_from_any_step_on(start: int, buffer_frames: int) -> None:
    x = numbered(50)
    for source in (stream_of(x, 9, buffer_frames), TensorSource(x)):
        whole, rest = take(source, 50, 8, 20), take(source, 50, 8, 20 - start, start=start)
        assert all(torch.equal(one, other) for one, other in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize(("count", "size", "expected"), [(10, 4, 4), (3, 8, 3)])
def test_batches_go_through_all_rows_before_any_comes_again(count: int, size: int, expected: int) -> None:
    given = take(TensorSource(numbered(count)), count, size, 6)
    assert [len(batch) for batch in given] == [expected] * 6
    epoch = torch.cat(given[: count // expected])[:, 0]
    assert len(epoch.unique()) == len(epoch)
    assert len(torch.cat(given)[:, 0].unique()) == count


def test_a_stream_that_opens_only_once_is_found_out() -> None:
    blocks = iter(torch.split(numbered(40), 10))
    source = EmbeddingStream(lambda: blocks, buffer_frames=100)
    assert channel_statistics(source).count == 40
    with pytest.raises(DataError, match="opens the stream from its beginning"):
        take(source, 40, 8, 1)


def test_a_row_that_is_not_finite_is_named() -> None:
    x = numbered(5000)
    x[4321, 1] = float("nan")
    with pytest.raises(DataError, match="frame 4321: expected finite numbers, got NaN"):
        channel_statistics(stream_of(x, 600, 10))
    too_large = torch.full((20, 3), 1e5)
    with pytest.raises(DataError, match="frame 0: expected finite numbers, got infinity"):
        channel_statistics(stream_of(too_large.half(), 6, 10))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            torch.zeros(4, 5),
            "block 1: expected torch.float32 with 3 channels, as in the first block, got torch.float32 .4, 5.",
        ),
        (torch.zeros(4, 3, dtype=torch.float16), "torch.float16"),
        (torch.zeros(4), r"\(B, D\)"),
        (torch.zeros(4, 3, dtype=torch.int64), r"\(B, D\)"),
        ([1.0], "got list"),
    ],
)
def test_blocks_that_do_not_fit_together(second: Tensor, message: str) -> None:
    source = EmbeddingStream(lambda: iter([torch.zeros(4, 3), second]), buffer_frames=10)
    with pytest.raises(DataError, match=message):
        channel_statistics(source)


def test_empty_blocks_do_no_harm_and_empty_streams_are_refused() -> None:
    x = numbered(20)
    gaps = EmbeddingStream(lambda: iter([x[:0], x[:9], x[:0], x[9:], x[:0]]), buffer_frames=100)
    assert channel_statistics(gaps).count == 20
    assert len(torch.cat(take(gaps, 20, 5, 4)).unique(dim=0)) == 20
    for blocks in ([], [x[:0]]):
        with pytest.raises(DataError, match="frames to fit on"):
            channel_statistics(EmbeddingStream(lambda blocks=blocks: iter(blocks), buffer_frames=10))
    with pytest.raises(ValueError, match="buffer_frames"):
        EmbeddingStream(lambda: iter([x]), buffer_frames=0)


PEAK_MEMORY = """
import resource
import torch
from mvqkd.quantizer.embedding_source import EmbeddingStream, batches, channel_statistics

def blocks(number):
    for index in range(number):
        yield torch.full((1000, 256), float(index))  # 1 MB

def one_pass(number):
    source = EmbeddingStream(lambda: blocks(number), buffer_frames=10_000)
    count = channel_statistics(source, digest=True).count
    given = batches(source, count, 512, (0,))
    assert sum(len(next(given)) for _ in range(count // 512)) > count - 512
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

print(one_pass(20), one_pass(120))
"""


def test_peak_memory_does_not_grow_with_the_stream() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY], capture_output=True, text=True, check=True)
    short_mb, long_mb = map(int, done.stdout.split())
    # The difference of the streams is 100 MB.
    assert long_mb - short_mb < 20
