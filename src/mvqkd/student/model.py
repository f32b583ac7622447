"""The student: encoder, stateless predictor, joiner and a CTC head, with its transducer loss.

Shapes: N batch, T feature frames, S student frames, U symbols, V vocabulary, D encoder channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvqkd.config import ModelConfig
from mvqkd.data.tokens import BLANK_ID, UNKNOWN_ID
from mvqkd.student.encoder import Encoder
from mvqkd.student.rnnt_loss import (
    IMPOSSIBLE,
    lattice_log_likelihood,
    prune_starts,
    pruned_arcs,
    simple_arcs,
)
from mvqkd.student.transducer import Decoder, Joiner

# Below the best log-probability of any frame, and no further: float32 is coarse far from 0.
NEVER = -100.0


@dataclass(frozen=True)
class AsrLosses:
    """Sums over the batch's usable items, in nats; ``usable`` marks items whose symbols fit into their frames."""

    simple: Tensor
    pruned: Tensor
    ctc: Tensor
    usable: Tensor


class Student(nn.Module):
    """Streaming-capable transducer with a CTC head on the same encoder."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.encoder = Encoder(config)
        self.decoder = Decoder(vocab_size, config)
        self.joiner = Joiner(vocab_size, config)
        self.ctc_head = nn.Linear(config.encoder_dim, vocab_size)
        self.simple_encoder = nn.Linear(config.encoder_dim, vocab_size)
        self.simple_decoder = nn.Linear(config.decoder_dim, vocab_size)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        chunk_frames: int | None = None,
        left_context_chunks: int | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode: see ``Encoder.forward``."""
        result: tuple[Tensor, Tensor, list[Tensor]] = self.encoder(
            features, lengths, chunk_frames=chunk_frames, left_context_chunks=left_context_chunks
        )
        return result

    def ctc_log_probs(self, encoded: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, V) log-probabilities of the CTC head."""
        return F.log_softmax(self.ctc_head(encoded).float(), dim=-1)

    def ctc_scores(self, encoded: Tensor) -> Tensor:
        """``ctc_log_probs`` for decoding: <unk> is never said, which sherpa-onnx would print."""
        unknown = F.one_hot(torch.tensor(UNKNOWN_ID), self.vocab_size).to(encoded.device)
        return self.ctc_log_probs(encoded) + NEVER * unknown

    def asr_losses(
        self,
        encoded: Tensor,
        num_frames: Tensor,
        symbols: Tensor,
        num_symbols: Tensor,
        prune_range: int,
        transcribed: Tensor | None = None,
    ) -> AsrLosses:
        """Transducer (bound and pruned) and CTC losses.

        Args:
            encoded: (N, S, D). num_frames, num_symbols: int64 (N,). symbols: int64 (N, U), padded with blank.
            transcribed: bool (N,); items without a transcript cost nothing. None: all have one.
        """
        if transcribed is not None and not bool(transcribed.all()):
            return self._losses_of_some(encoded, num_frames, symbols, num_symbols, prune_range, transcribed)
        predicted = self.decoder(self.decoder.contexts(symbols))  # (N, U + 1, decoder_dim)
        with torch.autocast(encoded.device.type, enabled=False):
            symbol, blank = simple_arcs(
                self.simple_encoder(encoded.float()), self.simple_decoder(predicted.float()), symbols
            )
            simple, symbol_occupancy, blank_occupancy = lattice_log_likelihood(symbol, blank, num_frames, num_symbols)
            starts = prune_starts(symbol_occupancy, blank_occupancy, num_frames, num_symbols, prune_range)
        logits = self._joiner_band(encoded, predicted, starts, prune_range)
        with torch.autocast(encoded.device.type, enabled=False):
            symbol, blank = pruned_arcs(logits.float(), symbols, starts)
            pruned, _, _ = lattice_log_likelihood(symbol, blank, num_frames, num_symbols)
            ctc = F.ctc_loss(
                self.ctc_log_probs(encoded.float()).transpose(0, 1),
                symbols,
                num_frames,
                num_symbols,
                blank=BLANK_ID,
                reduction="none",
                zero_infinity=True,
            )
        usable = (simple > IMPOSSIBLE) & (pruned > IMPOSSIBLE)
        zero = simple.new_zeros(())
        return AsrLosses(
            simple=-torch.where(usable, simple, zero).sum(),
            pruned=-torch.where(usable, pruned, zero).sum(),
            ctc=torch.where(usable, ctc, zero).sum(),
            usable=usable,
        )

    def _losses_of_some(
        self,
        encoded: Tensor,
        num_frames: Tensor,
        symbols: Tensor,
        num_symbols: Tensor,
        prune_range: int,
        transcribed: Tensor,
    ) -> AsrLosses:
        # One item is taken even where none has a transcript: every parameter then has a gradient, if one of 0, which
        # data-parallel training asks for.
        some = (
            transcribed.nonzero().flatten() if bool(transcribed.any()) else transcribed.new_zeros(1, dtype=torch.long)
        )
        losses = self.asr_losses(encoded[some], num_frames[some], symbols[some], num_symbols[some], prune_range)
        counts = transcribed[some].any().to(encoded.dtype)
        usable = torch.zeros_like(transcribed)
        usable[some] = losses.usable & transcribed[some]
        return AsrLosses(losses.simple * counts, losses.pruned * counts, losses.ctc * counts, usable)

    def _joiner_band(self, encoded: Tensor, predicted: Tensor, starts: Tensor, prune_range: int) -> Tensor:
        """Joiner logits (N, S, R, V) for the states starts[n, t] .. starts[n, t] + R - 1."""
        projected = self.joiner.decoder_proj(predicted)
        state = starts[:, :, None] + torch.arange(prune_range, device=starts.device)
        state = state.clamp(max=projected.size(1) - 1).flatten(1)
        band = projected.gather(1, state[:, :, None].expand(-1, -1, projected.size(2)))
        band = band.view(*starts.shape, prune_range, -1)
        logits: Tensor = self.joiner(self.joiner.encoder_proj(encoded)[:, :, None], band)
        return logits

    def num_parameters(self) -> int:
        """Parameters that ship: without the pruning bound's two projections."""
        training_only = {*self.simple_encoder.parameters(), *self.simple_decoder.parameters()}
        return sum(parameter.numel() for parameter in self.parameters() if parameter not in training_only)
