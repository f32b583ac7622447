"""Pruned RNN-T loss in plain torch, for transducers that emit at most one symbol a frame.

The lattice: at every frame the model either emits blank or the next symbol, and time advances in both cases
(the topology that greedy search with one symbol a frame decodes, called "modified" in the literature). Pruning: a
cheap joiner without non-linearity gives the loss over the whole lattice and, from its occupancies, a band of
``prune_range`` symbols a frame; the real joiner is computed in that band only.
Source: Kuang et al. 2022, arXiv 2206.13236.

Shapes: N batch, T frames, U symbols (padded), V vocabulary, R prune range.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvqkd.data.tokens import BLANK_ID

# Stands for log 0. Finite, so that sums and differences of impossible paths stay numbers.
LOG_ZERO = -1e30
IMPOSSIBLE = -1e29


class _Lattice(torch.autograd.Function):
    """Log-likelihood of every item; its gradient is the occupancy of each arc, given out as well."""

    @staticmethod
    def forward(
        ctx: Any, symbol: Tensor, blank: Tensor, num_frames: Tensor, num_symbols: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        likelihood, symbol_occupancy, blank_occupancy = lattice_occupancies(symbol, blank, num_frames, num_symbols)
        ctx.save_for_backward(symbol_occupancy, blank_occupancy)
        ctx.mark_non_differentiable(symbol_occupancy, blank_occupancy)
        return likelihood, symbol_occupancy, blank_occupancy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        symbol_occupancy, blank_occupancy = ctx.saved_tensors
        scale = grads[0][:, None, None]
        return symbol_occupancy * scale, blank_occupancy * scale, None, None


def lattice_occupancies(
    symbol: Tensor, blank: Tensor, num_frames: Tensor, num_symbols: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward-backward over the lattice.

    Args:
        symbol: (N, T, U) log-probability of emitting symbol u at frame t when u symbols are out.
        blank: (N, T, U + 1) log-probability of blank.
        num_frames, num_symbols: int64 (N,).
    Returns:
        log-likelihood (N,), below IMPOSSIBLE where no path exists; occupancies of symbol and blank arcs.
    """
    n, t_max, width = blank.shape
    frame = torch.arange(t_max, device=blank.device)
    alive = (frame[None, :] < num_frames[:, None])[:, :, None]
    # After an item's last frame, blank is free and symbols are impossible: its end state is carried to t_max.
    symbol = torch.where(alive, symbol, LOG_ZERO)
    blank = torch.where(alive, blank, 0.0)
    never = blank.new_full((n, 1), LOG_ZERO)
    alpha = blank.new_full((t_max + 1, n, width), LOG_ZERO)
    alpha[0, :, 0] = 0.0
    for t in range(t_max):
        stay = alpha[t] + blank[:, t]
        move = torch.cat([never, alpha[t, :, :-1] + symbol[:, t]], dim=1)
        torch.logaddexp(stay, move, out=alpha[t + 1])
    beta = blank.new_full((t_max + 1, n, width), LOG_ZERO)
    beta[t_max] = beta[t_max].scatter(1, num_symbols[:, None], 0.0)
    for t in range(t_max - 1, -1, -1):
        stay = beta[t + 1] + blank[:, t]
        move = torch.cat([beta[t + 1, :, 1:] + symbol[:, t], never], dim=1)
        torch.logaddexp(stay, move, out=beta[t])
    likelihood = alpha[t_max].gather(1, num_symbols[:, None]).squeeze(1)
    possible = likelihood > IMPOSSIBLE
    total = torch.where(possible, likelihood, 0.0)[:, None, None]
    before, after = alpha[:-1].transpose(0, 1), beta[1:].transpose(0, 1)
    symbol_occupancy = (before[:, :, :-1] + symbol + after[:, :, 1:] - total).clamp(max=0).exp()
    blank_occupancy = (before + blank + after - total).clamp(max=0).exp()
    keep = alive & possible[:, None, None]
    return likelihood, symbol_occupancy * keep, blank_occupancy * keep


def lattice_log_likelihood(
    symbol: Tensor, blank: Tensor, num_frames: Tensor, num_symbols: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``lattice_occupancies``, with a likelihood that is differentiable in symbol and blank."""
    result: tuple[Tensor, Tensor, Tensor] = _Lattice.apply(symbol, blank, num_frames, num_symbols)  # type: ignore[no-untyped-call]  # as torch has it
    return result


def simple_arcs(
    encoder_logits: Tensor, decoder_logits: Tensor, symbols: Tensor, *, decoder_only_scale: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Arcs of the joiner that merely adds both logits, normalised without an (N, T, U, V) tensor.

    Args:
        encoder_logits: (N, T, V). decoder_logits: (N, U + 1, V). symbols: int64 (N, U).
        decoder_only_scale: share of the predictor's own distribution mixed in; smooths the band's choice.
    Returns:
        symbol (N, T, U) and blank (N, T, U + 1) log-probabilities.
    """
    encoder_peak = encoder_logits.amax(dim=2, keepdim=True)
    decoder_peak = decoder_logits.amax(dim=2, keepdim=True)
    mass = (encoder_logits - encoder_peak).exp() @ (decoder_logits - decoder_peak).exp().transpose(1, 2)
    normaliser = mass.clamp(min=torch.finfo(mass.dtype).tiny).log() + encoder_peak + decoder_peak.transpose(1, 2)
    encoder_symbol = encoder_logits.gather(2, symbols[:, None, :].expand(-1, encoder_logits.size(1), -1))
    decoder_symbol = decoder_logits[:, :-1].gather(2, symbols[:, :, None]).transpose(1, 2)
    symbol = encoder_symbol + decoder_symbol - normaliser[:, :, :-1]
    decoder_blank = decoder_logits[:, None, :, BLANK_ID]
    blank = encoder_logits[:, :, BLANK_ID, None] + decoder_blank - normaliser
    if decoder_only_scale:
        own = decoder_logits.logsumexp(dim=2)[:, None]
        scale = decoder_only_scale
        symbol = (1 - scale) * symbol + scale * (decoder_symbol - own[:, :, :-1])
        blank = (1 - scale) * blank + scale * (decoder_blank - own)
    return symbol, blank


def prune_starts(
    symbol_occupancy: Tensor, blank_occupancy: Tensor, num_frames: Tensor, num_symbols: Tensor, prune_range: int
) -> Tensor:
    """First state of each frame's band: int64 (N, T).

    The band with the most occupancy, made monotone with steps of at most one state, starting at 0 and ending so
    that the last state is inside: a path through the bands then always exists.
    """
    t_max, width = blank_occupancy.shape[1:]
    frame = torch.arange(t_max, device=blank_occupancy.device)[None]
    last_start = (num_symbols + 1 - prune_range).clamp(min=0)[:, None]
    occupancy = blank_occupancy.clone()
    occupancy[:, :, :-1] += symbol_occupancy
    mass = torch.nn.functional.pad(occupancy.cumsum(dim=2), (1, prune_range))
    mass[:, :, width + 1 :] = mass[:, :, width : width + 1]
    start = (mass[:, :, prune_range : prune_range + width] - mass[:, :, :width]).argmax(dim=2)
    frames_left = (num_frames[:, None] - 1 - frame).clamp(min=0)
    start = torch.maximum(start, last_start - frames_left)
    start = torch.minimum(torch.minimum(start, last_start), frame)
    start = start.flip(1).cummin(dim=1).values.flip(1)
    return (start - frame).flip(1).cummax(dim=1).values.flip(1) + frame


def pruned_arcs(logits: Tensor, symbols: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the band's log-probabilities into the full lattice; LOG_ZERO outside the band.

    Args:
        logits: (N, T, R, V) of the real joiner for states starts[n, t] + r. symbols: int64 (N, U). starts: (N, T).
    Returns:
        symbol (N, T, U) and blank (N, T, U + 1).
    """
    n, t_max, prune_range, _ = logits.shape
    u_max = symbols.size(1)
    state = starts[:, :, None] + torch.arange(prune_range, device=logits.device)
    normaliser = logits.logsumexp(dim=3)
    padded = torch.nn.functional.pad(symbols, (0, prune_range + 1), value=BLANK_ID)
    wanted = padded[:, None].expand(-1, t_max, -1).gather(2, state)
    symbol_band = logits.gather(3, wanted[..., None]).squeeze(3) - normaliser
    blank_band = logits[..., BLANK_ID] - normaliser
    wide = u_max + 1 + prune_range
    outside = logits.new_full((n, t_max, wide), LOG_ZERO)
    symbol = outside.scatter(2, state, symbol_band)[:, :, :u_max]
    blank = outside.scatter(2, state, blank_band)[:, :, : u_max + 1]
    return symbol, blank
