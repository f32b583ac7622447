"""Causal-chunk Conformer: convolutions see the past only, attention sees its chunk and a bounded past.

Streaming in chunks and decoding a whole utterance under the same chunk mask give the same output, because the
depthwise convolutions are causal, the subsampling is unpadded, normalisation is per frame (LayerNorm) and
positions are relative (rotary). Source of the block: Gulati et al. 2020, arXiv 2005.08100; rotary positions:
Su et al. 2021, arXiv 2104.09864.

Shapes: N batch, T feature frames (100 Hz), S student frames (25 Hz), D encoder channels, H heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mvqkd.config import ModelConfig
from mvqkd.data.features import NUM_MELS

SUBSAMPLING_CHANNELS = 32
RESIDUAL_INIT_GAIN = 0.1


class Subsampling(nn.Module):
    """Two unpadded stride-2 convolutions, then a projection: (N, T, 80) -> (N, S, D)."""

    def __init__(self, encoder_dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, SUBSAMPLING_CHANNELS, kernel_size=3, stride=2),
            nn.SiLU(),
            nn.Conv2d(SUBSAMPLING_CHANNELS, SUBSAMPLING_CHANNELS, kernel_size=3, stride=2),
            nn.SiLU(),
        )
        mels_left = ((NUM_MELS - 1) // 2 - 1) // 2
        self.project = nn.Linear(SUBSAMPLING_CHANNELS * mels_left, encoder_dim)
        self.norm = nn.LayerNorm(encoder_dim)

    def forward(self, features: Tensor) -> Tensor:
        # Channels last: the second convolution is twice as fast on CPUs.
        x = self.conv(features.unsqueeze(1).contiguous(memory_format=torch.channels_last))  # (N, C, S, mels)
        x = x.permute(0, 2, 1, 3).flatten(2)  # (N, S, C * mels)
        out: Tensor = self.norm(self.project(x))
        return out


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions under a boolean mask."""

    def __init__(self, encoder_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = encoder_dim // num_heads
        self.qkv = nn.Linear(encoder_dim, 3 * encoder_dim)
        self.output = nn.Linear(encoder_dim, encoder_dim)

    def forward(
        self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend.

        Args:
            x: (N, S, D).
            mask: boolean, broadcastable to (N, H, S, P + S), True where query i may see key j.
            rotary: positions 0 .. P + S - 1; only differences of positions count.
            past: keys and values of the P frames before x, (N, H, P, D / H); None: there are none.
        Returns:
            (N, S, D); keys and values of past and x, (N, H, P + S, D / H), the keys not yet rotated: they stay
            true for whatever positions the next chunk gives them.
        """
        n, s, d = x.shape
        query, keys, values = self.qkv(x).view(n, s, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        own = (rotary[0][-s:], rotary[1][-s:])
        # Written out: the fused kernel's backward pass in bfloat16 is 10 times slower on short utterances (CPU).
        scores = (rotate(query, own) @ rotate(keys, rotary).transpose(-1, -2)) * self.head_dim**-0.5
        weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
        y = weights.to(values.dtype) @ values
        out: Tensor = self.output(y.transpose(1, 2).reshape(n, s, d))
        return out, (keys, values)


class CausalConvolution(nn.Module):
    """Pointwise GLU, causal depthwise convolution, LayerNorm, SiLU, pointwise."""

    def __init__(self, encoder_dim: int, kernel: int) -> None:
        super().__init__()
        self.left = kernel - 1
        self.gate = nn.Linear(encoder_dim, 2 * encoder_dim)
        self.depthwise = nn.Conv1d(encoder_dim, encoder_dim, kernel, groups=encoder_dim)
        self.norm = nn.LayerNorm(encoder_dim)
        self.output = nn.Linear(encoder_dim, encoder_dim)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            x: (N, S, D).
            past: gated input of the K - 1 frames before x, (N, D, K - 1); None: silence.
        Returns:
            (N, S, D); gated input of the last K - 1 frames, (N, D, K - 1).
        """
        y = F.glu(self.gate(x), dim=-1).transpose(1, 2)
        y = F.pad(y, (self.left, 0)) if past is None else torch.cat([past, y], dim=2)
        out: Tensor = self.output(F.silu(self.norm(self.depthwise(y).transpose(1, 2))))
        return out, y[:, :, -self.left :]


class FeedForward(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, encoder_dim: int, inner_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(encoder_dim, inner_dim)
        self.output = nn.Linear(inner_dim, encoder_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(F.silu(self.inner(x)))
        return out


class Past(NamedTuple):
    """What a block keeps of the frames before a chunk: keys and values (N, H, P, D / H), gated input (N, D, K - 1)."""

    keys: Tensor
    values: Tensor
    gated: Tensor


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward; each a pre-norm residual branch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(4)])
        self.feedforward_in = FeedForward(dim, config.feedforward_dim)
        self.attention = Attention(dim, config.num_heads)
        self.convolution = CausalConvolution(dim, config.conv_kernel)
        self.feedforward_out = FeedForward(dim, config.feedforward_dim)
        self.dropout = nn.Dropout(config.dropout)
        # Blocks start near the identity, so that a deep stack learns as fast as a shallow one from the first step.
        for branch in (
            self.feedforward_in.output,
            self.attention.output,
            self.convolution.output,
            self.feedforward_out.output,
        ):
            nn.init.xavier_uniform_(branch.weight, gain=RESIDUAL_INIT_GAIN)
            nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """(N, S, D) of whole utterances -> (N, S, D)."""
        return self.step(x, mask, rotary, None)[0]

    def step(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], past: Past | None) -> tuple[Tensor, Past]:
        """One chunk (N, S, D) after ``past`` -> (N, S, D), and the past with this chunk at its end."""
        x = x + 0.5 * self.dropout(self.feedforward_in(self.norms[0](x)))
        y, (keys, values) = self.attention(self.norms[1](x), mask, rotary, past[:2] if past else None)
        x = x + self.dropout(y)
        y, gated = self.convolution(self.norms[2](x), past.gated if past else None)
        x = x + self.dropout(y)
        return x + 0.5 * self.dropout(self.feedforward_out(self.norms[3](x))), Past(keys, values, gated)


class Encoder(nn.Module):
    """Features to student frames.

    The mean and standard deviation of every mel channel over the training data are buffers of the encoder, so
    that a deployed graph takes plain log-mel features and no side file can get lost.

    ``checkpoint_activations`` makes training keep the input of every block alone and compute the rest of it again in
    the backward pass: the same gradients from less memory, in more time.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chunk_frames = config.chunk_frames
        self.left_context_chunks = config.left_context_chunks
        self.checkpoint_activations = False
        self.encoder_dim = config.encoder_dim
        self.head_dim = config.encoder_dim // config.num_heads
        self.conv_kernel = config.conv_kernel
        self.register_buffer("feature_mean", torch.zeros(NUM_MELS))
        self.register_buffer("feature_std", torch.ones(NUM_MELS))
        self.subsampling = Subsampling(config.encoder_dim)
        self.blocks = nn.ModuleList([ConformerBlock(config) for _ in range(config.num_encoder_layers)])
        self.norm = nn.LayerNorm(config.encoder_dim)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        chunk_frames: int | None = None,
        left_context_chunks: int | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode a padded batch.

        Args:
            features: float (N, T, 80) log-mel; frames at or past lengths[n] are ignored.
            lengths: int64 (N,), feature frames; each at least 7.
            chunk_frames: student frames a chunk of attention, 0: the whole utterance, None: the model's own.
            left_context_chunks: chunks of left context, None: see ``left_context_for``.
        Returns:
            output (N, S, D); student frames int64 (N,); the residual stream behind every block, first to last.
        """
        if chunk_frames is None:
            chunk_frames = self.chunk_frames
        if left_context_chunks is None:
            left_context_chunks = self.left_context_for(chunk_frames)
        x = self.embed(features)
        lengths = ((lengths - 1) // 2 - 1) // 2
        mask = attention_mask(x.size(1), lengths, chunk_frames, left_context_chunks)
        rotary = rotary_table(x.size(1), self.head_dim, x.device)
        layers: list[Tensor] = []
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, mask, rotary, use_reentrant=False)
            else:
                x = block(x, mask, rotary)
            layers.append(x)
        return self.norm(x), lengths, layers

    def embed(self, features: Tensor) -> Tensor:
        """Log-mel (N, T, 80) -> input of the first block (N, S, D)."""
        embedded: Tensor = self.subsampling((features - self.feature_mean) / self.feature_std)
        return embedded

    def left_context_for(self, chunk_frames: int) -> int:
        """Chunks of ``chunk_frames`` that hold the configured left context, counted in frames, rounded up.

        A model of whole utterances has no frames to count: it takes ``left_context_chunks`` chunks of any size.
        """
        if not (self.chunk_frames and chunk_frames):
            return self.left_context_chunks
        return math.ceil(self.chunk_frames * self.left_context_chunks / chunk_frames)


def attention_mask(num_frames: int, lengths: Tensor, chunk_frames: int, left_context_chunks: int) -> Tensor:
    """Boolean (N, 1, S, S): True where query i may see key j.

    A key must be a real frame within the query's chunk or the chunks of its left context. Padding queries see
    themselves, so that no row of the softmax is empty.
    """
    frame = torch.arange(num_frames, device=lengths.device)
    visible = (frame[None, :] < lengths[:, None])[:, None, :]  # (N, 1, S)
    if chunk_frames:
        chunk = frame // chunk_frames
        behind = chunk[:, None] - chunk[None, :]  # (S, S): chunks from key to query
        visible = visible & ((behind >= 0) & (behind <= left_context_chunks))[None]
    itself = frame[:, None] == frame[None, :]
    return (visible | itself[None])[:, None]


def rotary_table(num_frames: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (S, head_dim / 2) of the rotary positions."""
    half = head_dim // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    angle = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * frequency[None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate channel pairs of (N, H, S, head_dim) by their positions."""
    cos, sin = (table.to(x.dtype) for table in rotary)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
