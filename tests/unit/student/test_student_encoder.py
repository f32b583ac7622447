"""What streaming and batching rest on: no future, no batch mates, no padding in any output."""

from __future__ import annotations

import pytest
import torch

from mvqkd.config import ModelConfig
from mvqkd.frames import num_feature_frames_for, num_student_frames
from mvqkd.student.encoder import Encoder, attention_mask

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
