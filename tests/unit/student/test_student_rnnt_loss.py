"""The pruned transducer loss against a lattice written out path by path."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mvqkd.student.rnnt_loss import (
    IMPOSSIBLE,
    LOG_ZERO,
    lattice_log_likelihood,
    lattice_occupancies,
    prune_starts,
    pruned_arcs,
    simple_arcs,
)


def random_arcs(n: int, t: int, u: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + 10 * t + 100 * u)
    logits = torch.randn(n, t, u + 1, 2, generator=generator, dtype=dtype).log_softmax(dim=-1)
    return logits[:, :, :u, 0], logits[..., 1]


def sum_over_paths(symbol: Tensor, blank: Tensor) -> Tensor:
    """Log-sum over all ways to place U symbols on T frames, at most one a frame."""
    t, u = symbol.shape
    paths = []
    for places in itertools.combinations(range(t), u):
        out, score = 0, symbol.new_zeros(())
        for frame in range(t):
            if frame in places:
                score = score + symbol[frame, out]
                out += 1
            else:
                score = score + blank[frame, out]
        paths.append(score)
    return torch.stack(paths).logsumexp(dim=0)


@pytest.mark.parametrize(("t", "u"), [(1, 0), (1, 1), (4, 2), (6, 3), (5, 5)])
def test_likelihood_and_gradient_equal_the_sum_over_all_paths(t: int, u: int) -> None:
    symbol, blank = (arc.requires_grad_() for arc in random_arcs(1, t, u))
    lengths = torch.tensor([t]), torch.tensor([u])
    likelihood, *_ = lattice_log_likelihood(symbol, blank, *lengths)
    expected = sum_over_paths(symbol[0], blank[0])
    torch.testing.assert_close(likelihood[0], expected)
    got = torch.autograd.grad(likelihood.sum(), (symbol, blank))
    want = torch.autograd.grad(expected, (symbol, blank), allow_unused=True)
    for mine, oracle in zip(got, want, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if oracle is None else oracle)


def test_padding_changes_nothing() -> None:
    symbol, blank = random_arcs(1, 5, 3)
    alone, *_ = lattice_log_likelihood(symbol, blank, torch.tensor([5]), torch.tensor([3]))
    padded_symbol = torch.nn.functional.pad(symbol, (0, 2, 0, 4), value=-0.3)
    padded_blank = torch.nn.functional.pad(blank, (0, 2, 0, 4), value=-0.1)
    padded, *_ = lattice_log_likelihood(padded_symbol, padded_blank, torch.tensor([5]), torch.tensor([3]))
    torch.testing.assert_close(alone, padded)


def test_more_symbols_than_frames_is_marked_impossible_and_has_no_gradient() -> None:
    symbol, blank = (arc.requires_grad_() for arc in random_arcs(1, 2, 3))
    likelihood, *_ = lattice_log_likelihood(symbol, blank, torch.tensor([2]), torch.tensor([3]))
    assert likelihood.item() < IMPOSSIBLE
    for gradient in torch.autograd.grad(likelihood.sum(), (symbol, blank)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_simple_arcs_equal_the_normalised_full_joiner() -> None:
    torch.manual_seed(0)
    encoder, decoder = torch.randn(2, 4, 7), torch.randn(2, 4, 7)
    symbols = torch.randint(1, 7, (2, 3))
    symbol, blank = simple_arcs(encoder, decoder, symbols, decoder_only_scale=0.0)
    full = (encoder[:, :, None] + decoder[:, None]).log_softmax(dim=-1)
    torch.testing.assert_close(blank, full[..., 0])
    wanted = symbols[:, None, :, None].expand(-1, 4, -1, -1)
    torch.testing.assert_close(symbol, full[:, :, :-1].gather(3, wanted).squeeze(3))


@pytest.mark.parametrize("seed", range(20))
def test_bands_are_monotone_reachable_and_hold_both_ends(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    u_max, t_max, prune_range = 9, 14, 3
    num_frames = torch.randint(9, t_max + 1, (4,), generator=generator)
    num_symbols = torch.randint(0, u_max + 1, (4,), generator=generator)
    symbol = torch.randn(4, t_max, u_max, generator=generator) * 3
    blank = torch.randn(4, t_max, u_max + 1, generator=generator) * 3
    _, *occupancies = lattice_occupancies(symbol, blank, num_frames, num_symbols)
    starts = prune_starts(occupancies[0], occupancies[1], num_frames, num_symbols, prune_range)
    for item in range(4):
        band = starts[item, : num_frames[item]]
        steps = band.diff()
        assert band[0] == 0
        assert ((steps == 0) | (steps == 1)).all()
        assert band[-1] <= num_symbols[item] <= band[-1] + prune_range - 1 or num_symbols[item] < prune_range


def test_a_band_as_wide_as_the_lattice_prunes_nothing() -> None:
    torch.manual_seed(1)
    n, t, u, v = 2, 6, 3, 5
    logits = torch.randn(n, t, u + 1, v, dtype=torch.float64)
    symbols = torch.randint(1, v, (n, u))
    lengths = torch.tensor([6, 4]), torch.tensor([3, 2])
    starts = torch.zeros(n, t, dtype=torch.int64)
    pruned, *_ = lattice_log_likelihood(*pruned_arcs(logits, symbols, starts), *lengths)
    full = logits.log_softmax(dim=-1)
    wanted = symbols[:, None, :, None].expand(-1, t, -1, -1)
    oracle, *_ = lattice_log_likelihood(full[:, :, :-1].gather(3, wanted).squeeze(3), full[..., 0], *lengths)
    torch.testing.assert_close(pruned, oracle)


def test_a_narrow_band_bounds_the_likelihood_from_below() -> None:
    torch.manual_seed(2)
    n, t, u, v, prune_range = 1, 10, 6, 5, 3
    symbols = torch.randint(1, v, (n, u))
    lengths = torch.tensor([t]), torch.tensor([u])
    encoder, decoder = torch.randn(n, t, v), torch.randn(n, u + 1, v)
    symbol, blank = simple_arcs(encoder, decoder, symbols, decoder_only_scale=0.0)
    full, *occupancies = lattice_occupancies(symbol, blank, *lengths)
    starts = prune_starts(occupancies[0], occupancies[1], *lengths, prune_range)
    state = (starts[:, :, None] + torch.arange(prune_range)).clamp(max=u)
    band = encoder[:, :, None] + decoder[:, None].expand(-1, t, -1, -1).gather(
        2, state[..., None].expand(-1, -1, -1, v)
    )
    pruned, *_ = lattice_log_likelihood(*pruned_arcs(band, symbols, starts), *lengths)
    assert full - 3.0 < pruned < full + 1e-5
    assert pruned > LOG_ZERO


def test_gradcheck() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    symbols = torch.tensor([[1, 2, 3], [3, 1, 0]])
    starts = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 1, 1, 1]])
    lengths = torch.tensor([5, 4]), torch.tensor([3, 2])

    def loss(values: Tensor) -> Tensor:
        return lattice_log_likelihood(*pruned_arcs(values, symbols, starts), *lengths)[0]

    assert torch.autograd.gradcheck(loss, (logits,))
