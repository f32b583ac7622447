"""What streaming and batching rest on: no future, no batch mates, no padding in any output; chunks of any size."""

from __future__ import annotations

import math

import pytest
import torch

from mvqkd.config import ModelConfig
from mvqkd.frames import num_feature_frames_for, num_student_frames
from mvqkd.student.encoder import Encoder, attention_mask
from mvqkd.student.streaming import StreamingEncoder

SMALL = ModelConfig(
    encoder_dim=32, num_heads=2, num_encoder_layers=3, feedforward_dim=64, conv_kernel=5, chunk_frames=4,
    left_context_chunks=2, decoder_dim=32, joiner_dim=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(SMALL).eval()


def encode(encoder: Encoder, features: torch.Tensor, *lengths: int) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(features, torch.tensor(lengths or [features.size(1)] * features.size(0)))[0]


@pytest.mark.parametrize("feature_frames", [7, 8, 10, 11, 63, 200])
def test_output_length_is_what_frames_says(encoder: Encoder, feature_frames: int) -> None:
    output = encode(encoder, torch.randn(1, feature_frames, 80))
    assert output.size(1) == num_student_frames(feature_frames)


def test_a_frame_depends_on_nothing_behind_its_chunk(encoder: Encoder) -> None:
    features = torch.randn(1, num_feature_frames_for(12), 80)
    changed = features.clone()
    changed[:, num_feature_frames_for(8) :] += 5.0
    before, after = encode(encoder, features), encode(encoder, changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_attention_sees_the_end_of_its_own_chunk(encoder: Encoder) -> None:
    features = torch.randn(1, num_feature_frames_for(8), 80)
    changed = features.clone()
    changed[:, num_feature_frames_for(7) :] += 5.0
    assert not torch.allclose(encode(encoder, features)[:, 4], encode(encoder, changed)[:, 4])


def test_padding_and_batch_mates_change_nothing(encoder: Encoder) -> None:
    short, long = torch.randn(1, 41, 80), torch.randn(1, 90, 80)
    batch = torch.full((2, 90, 80), 7.0)
    batch[0, :41], batch[1] = short[0], long[0]
    together = encode(encoder, batch, 41, 90)
    frames = num_student_frames(41)
    torch.testing.assert_close(together[0, :frames], encode(encoder, short)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[1], encode(encoder, long)[0], rtol=1e-5, atol=1e-5)


def test_mask_of_chunks_and_left_context() -> None:
    mask = attention_mask(6, torch.tensor([5]), chunk_frames=2, left_context_chunks=1)[0, 0]
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 1, 1, 1, 1],  # frame 5 is padding: it sees itself
        ]
    ).bool()
    assert torch.equal(mask, expected)


def test_chunk_0_sees_the_whole_utterance() -> None:
    mask = attention_mask(3, torch.tensor([3]), chunk_frames=0, left_context_chunks=0)
    assert mask.all()


def chunked(encoder: Encoder, features: torch.Tensor, chunk_frames: int | None) -> torch.Tensor:
    with torch.inference_mode():
        output: torch.Tensor = encoder(features, torch.tensor([features.size(1)]), chunk_frames=chunk_frames)[0]
    return output


@torch.inference_mode()
def streamed(
    encoder: Encoder, features: torch.Tensor, chunk_frames: int, left_context_chunks: int | None = None
) -> torch.Tensor:
    """Output of an encoder that is fed whole chunks, one after the other."""
    streaming = StreamingEncoder(encoder, chunk_frames, left_context_chunks)
    attention, convolution, processed = streaming.start(features.size(0))
    outputs = []
    for start in range(0, features.size(1) - streaming.feature_frames + 1, streaming.feature_shift):
        chunk = features[:, start : start + streaming.feature_frames]
        output, attention, convolution = streaming(chunk, attention, convolution, processed)
        processed = processed + streaming.feature_shift
        outputs.append(output)
    return torch.cat(outputs, dim=1)


# Configured are chunks of 4 and 8 frames of left context: others round them up to whole chunks.
@pytest.mark.parametrize(("chunk_frames", "left_frames"), [(1, 8), (3, 9), (4, 8), (6, 12), (16, 16), (50, 50)])
@torch.inference_mode()
def test_streaming_in_chunks_of_any_size_equals_the_masked_whole(
    encoder: Encoder, chunk_frames: int, left_frames: int
) -> None:
    features = torch.randn(2, num_feature_frames_for(chunk_frames * math.ceil(37 / chunk_frames)), 80)
    assert encoder.left_context_for(chunk_frames) * chunk_frames == left_frames
    stream = streamed(encoder, features, chunk_frames)
    torch.testing.assert_close(stream, chunked(encoder, features, chunk_frames), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_streams_of_a_batch_may_have_begun_at_different_times(encoder: Encoder) -> None:
    streaming = StreamingEncoder(encoder, 4)
    chunks = torch.randn(4, streaming.feature_frames, 80)
    old, new = streaming.start(1), streaming.start(1)
    for chunk in chunks[:3]:
        old = (*streaming(chunk[None], *old)[1:], old[2] + streaming.feature_shift)
    alone = [streaming(chunks[3:], *state) for state in (old, new)]
    together = streaming(
        chunks[3:].repeat(2, 1, 1), *(torch.cat(pair, dim=2) for pair in zip(old[:2], new[:2], strict=True)),
        torch.cat([old[2], new[2]]),
    )  # fmt: skip
    assert not torch.allclose(alone[0][0], alone[1][0])
    for row, expected in enumerate(alone):
        torch.testing.assert_close(together[0][row], expected[0][0], rtol=1e-5, atol=1e-5)
        for cache in (1, 2):
            torch.testing.assert_close(together[cache][:, :, row], expected[cache][:, :, 0], rtol=1e-5, atol=1e-5)


def test_chunk_sizes_differ_and_none_is_the_configured_one(encoder: Encoder) -> None:
    features = torch.randn(1, num_feature_frames_for(30), 80)
    configured = encode(encoder, features)
    assert torch.equal(chunked(encoder, features, None), configured)
    assert torch.equal(chunked(encoder, features, SMALL.chunk_frames), configured)
    assert not torch.allclose(chunked(encoder, features, 8), configured)
    # One chunk that holds everything is the whole utterance.
    assert torch.equal(chunked(encoder, features, 0), chunked(encoder, features, 30))


@torch.inference_mode()
def test_left_context_can_be_given(encoder: Encoder) -> None:
    features = torch.randn(1, num_feature_frames_for(12), 80)
    lengths = torch.tensor([features.size(1)])
    without = encoder(features, lengths, chunk_frames=6, left_context_chunks=0)[0]
    torch.testing.assert_close(without, streamed(encoder, features, 6, 0), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(without, chunked(encoder, features, 6))


def test_a_model_of_whole_utterances_takes_as_many_chunks_of_left_context_as_configured() -> None:
    whole = Encoder(SMALL.model_copy(update={"chunk_frames": 0, "left_context_chunks": 3}))
    assert [whole.left_context_for(chunk) for chunk in (0, 1, 16)] == [3, 3, 3]


def gradients(features: torch.Tensor, *, checkpoint: bool) -> list[torch.Tensor]:
    """Gradients of every parameter of an encoder in training, dropout on, from equal random states."""
    torch.manual_seed(5)
    encoder = Encoder(SMALL.model_copy(update={"dropout": 0.3})).train()
    encoder.checkpoint_activations = checkpoint
    output, _, layers = encoder(features, torch.tensor([features.size(1)] * 2), chunk_frames=3)
    # A middle layer, too: distillation reads one.
    (output.square().mean() + layers[1].mean()).backward()
    # What is drawn after the encoder must not move, either.
    return [*(parameter.grad for parameter in encoder.parameters()), torch.rand(3)]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_checkpointed_activations_give_the_same_gradients(dtype: torch.dtype | None) -> None:
    features = torch.randn(2, 90, 80)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        kept, computed_again = (gradients(features, checkpoint=choice) for choice in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(kept, computed_again, strict=True))


@pytest.mark.parametrize(("training", "checkpoint", "runs"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_a_block_is_computed_again_where_training_asks_for_it(training: bool, checkpoint: bool, runs: int) -> None:
    encoder = Encoder(SMALL).train(training)
    encoder.checkpoint_activations = checkpoint
    calls: list[int] = []
    encoder.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    encoder(torch.randn(1, 40, 80), torch.tensor([40]))[0].sum().backward()
    assert len(calls) == runs
