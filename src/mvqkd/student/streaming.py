"""The encoder a chunk at a time, with what it must remember between chunks as tensors.

Chunk after chunk this gives what ``Encoder.forward`` gives for the whole utterance under the same chunks, because
nothing in the encoder looks behind its chunk or further back than its left context.

Shapes: N streams, L blocks, P student frames of left context, C student frames a chunk, K taps of the convolution,
T = 4 C + 3 feature frames, D encoder channels, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvqkd.frames import SUBSAMPLING_FACTOR, num_feature_frames_for
from mvqkd.student.encoder import ConformerBlock, Encoder, Past, rotary_table


class StreamingEncoder(nn.Module):
    """One chunk of N streams; the caller carries the caches.

    The attention cache is (L, 2 P, N, D): keys of the left context, then its values. Caches of zeros start a stream.

    Args:
        encoder: shared, not copied.
        chunk_frames: student frames a chunk, at least 1.
        left_context_chunks: chunks of left context, None: see ``Encoder.left_context_for``.
    """

    def __init__(self, encoder: Encoder, chunk_frames: int, left_context_chunks: int | None = None) -> None:
        super().__init__()
        if left_context_chunks is None:
            left_context_chunks = encoder.left_context_for(chunk_frames)
        self.encoder = encoder
        self.chunk_frames = chunk_frames
        self.left_context_frames = left_context_chunks * chunk_frames
        # A cache of no frames is refused by some runtimes: one that nothing sees takes its place.
        self.cached_frames = max(1, self.left_context_frames)
        self.feature_frames = num_feature_frames_for(chunk_frames)
        self.feature_shift = SUBSAMPLING_FACTOR * chunk_frames

    def start(self, num_streams: int) -> tuple[Tensor, Tensor, Tensor]:
        """Attention cache, convolution cache and processed feature frames of streams that have heard nothing."""
        layers = len(self.encoder.blocks)
        return (
            torch.zeros(layers, 2 * self.cached_frames, num_streams, self.encoder.encoder_dim),
            torch.zeros(layers, self.encoder.conv_kernel - 1, num_streams, self.encoder.encoder_dim),
            torch.zeros(num_streams, dtype=torch.int64),
        )

    def forward(
        self, features: Tensor, attention_cache: Tensor, convolution_cache: Tensor, processed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the next chunk of every stream.

        Args:
            features: float (N, T, 80) log-mel; each chunk begins ``feature_shift`` frames after the last one.
            attention_cache: (L, 2 P, N, D). convolution_cache: (L, K - 1, N, D).
            processed: int64 (N,), feature frames before this chunk.
        Returns:
            output (N, C, D) and both caches for the next chunk.
        """
        encoder = self.encoder
        x = encoder.embed(features)
        n, past_frames = x.size(0), self.cached_frames
        known = (processed // SUBSAMPLING_FACTOR).clamp(max=self.left_context_frames)
        frame = torch.arange(past_frames + self.chunk_frames, device=x.device)
        mask = (frame[None] >= past_frames - known[:, None])[:, None, None]  # (N, 1, 1, P + C)
        rotary = rotary_table(past_frames + self.chunk_frames, encoder.head_dim, x.device)
        heads = self.encoder.encoder_dim // encoder.head_dim
        attention, convolution = [], []
        for layer, block in enumerate(encoder.blocks):
            assert isinstance(block, ConformerBlock)
            # (2 P, N, D) -> keys and values (2, N, H, P, D / H)
            keys, values = (
                attention_cache[layer].view(2, past_frames, n, heads, encoder.head_dim).permute(0, 2, 3, 1, 4)
            )
            gated = convolution_cache[layer].permute(1, 2, 0)
            x, past = block.step(x, mask, rotary, Past(keys, values, gated))
            kept = torch.stack([past.keys, past.values])[:, :, :, -past_frames:]
            attention.append(kept.permute(0, 3, 1, 2, 4).reshape(2 * past_frames, n, self.encoder.encoder_dim))
            convolution.append(past.gated.permute(2, 0, 1))
        return encoder.norm(x), torch.stack(attention), torch.stack(convolution)
