"""Stateless predictor and joiner of the transducer.

Shapes: N batch, U symbols, V vocabulary, C context symbols, J joiner channels.
Source: Ghodsi et al. 2020 (stateless predictor), in the form that sherpa-onnx deploys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvqkd.config import ModelConfig
from mvqkd.data.tokens import BLANK_ID


class Decoder(nn.Module):
    """Predictor over the last C symbols: an embedding and one convolution."""

    def __init__(self, vocab_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.context_size = config.context_size
        self.embedding = nn.Embedding(vocab_size, config.decoder_dim)
        self.conv = nn.Conv1d(
            config.decoder_dim, config.decoder_dim, config.context_size, groups=config.decoder_dim // 4, bias=False
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, context: Tensor) -> Tensor:
        """Embed windows of symbols.

        Args:
            context: int64 (N, L + C - 1); negative ids stand for "before the start" and embed to zero.
        Returns:
            float (N, L, decoder_dim).
        """
        embedded = self.embedding(context.clamp(min=0)) * (context >= 0).unsqueeze(-1)
        return F.relu(self.conv(self.dropout(embedded).transpose(1, 2)).transpose(1, 2))

    def contexts(self, symbols: Tensor) -> Tensor:
        """Left-pad symbols (N, U) with the start context [-1, ..., blank]: (N, U + C)."""
        start = torch.full((symbols.size(0), self.context_size), -1, dtype=symbols.dtype, device=symbols.device)
        start[:, -1] = BLANK_ID
        return torch.cat([start, symbols], dim=1)


class Joiner(nn.Module):
    """tanh of the sum of both projections, then the vocabulary."""

    def __init__(self, vocab_size: int, config: ModelConfig) -> None:
        super().__init__()
        self.encoder_proj = nn.Linear(config.encoder_dim, config.joiner_dim)
        self.decoder_proj = nn.Linear(config.decoder_dim, config.joiner_dim)
        self.output = nn.Linear(config.joiner_dim, vocab_size)

    def forward(self, encoder_projected: Tensor, decoder_projected: Tensor) -> Tensor:
        """Add two broadcastable (..., J) tensors and give (..., V) logits."""
        logits: Tensor = self.output(torch.tanh(encoder_projected + decoder_projected))
        return logits
