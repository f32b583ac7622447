"""Whether new audio looks to a quantizer like what it was fitted on: its errors, and which entries it uses.

Both are compared with the same figures of the fitting data. What chance alone gives is found by drawing from the
fitting data twice: once as many pieces as the new audio has, each no longer than its own, and once as many as the
reference has. Pieces are drawn whole, because neighbouring frames resemble each other: frames drawn one by one would
make chance look far smaller than it is, and every new batch of speech look like a change.

Shapes: B frames, N codebooks, K entries a codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.quantizer.model import Quantizer
from mvqkd.quantizer.search import SearchMode

Codes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Lengths = NDArray[np.int64]
# Rows of per-piece histograms that are multiplied at once.
_DRAWS_AT_ONCE = 64
# See _Draws.
FEWEST_PIECES = 20
LONG_ENOUGH = 0.75


@dataclass(frozen=True)
class Errors:
    """Squared errors of frames and their squared distances from the codec's mean, float64 (B,), piece after piece.

    lengths: int64 (pieces,), frames of each.
    """

    errors: Floats
    variations: Floats
    lengths: Lengths

    @property
    def relative(self) -> float:
        """sum |x - decode(encode(x))|^2 / sum |x - mean|^2, channels normalised."""
        total = float(self.variations.sum())
        return float(self.errors.sum()) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Usage:
    """Codes uint8 (B, N) of frames, piece after piece, and the frames of each piece, int64 (pieces,)."""

    codes: Codes
    lengths: Lengths
    codebook_size: int

    def counts(self) -> NDArray[np.int64]:
        """How often each entry occurs, int64 (N, K)."""
        return _counts(self.codes, self.codebook_size)


@dataclass(frozen=True)
class Compared:
    """A figure of new audio beside that of the fitting data.

    Attributes:
        figure: of the new audio.
        reference: of the fitting data; of a divergence what chance alone gives, in the middle of the draws.
        chance: probability that chance alone gives so large a difference, or a larger one.
        detectable: the least change that chance alone gives no more often than allowed: a smaller one goes unnoticed
            in so little audio.
    """

    figure: float
    reference: float
    chance: float
    detectable: float

    @property
    def change(self) -> float:
        return self.figure - self.reference


def measure(
    quantizer: Quantizer, embeddings: Tensor, *, mode: SearchMode = "exact", iterations: int = 5
) -> tuple[Codes, Floats, Floats]:
    """Codes uint8 (B, N), squared errors and squared distances from the mean, float64 (B,), of float (B, D)."""
    indexes = quantizer.encode(embeddings, mode, iterations)
    normalized = quantizer.normalize(embeddings.to(indexes.device))
    error = (normalized - quantizer.normalize(quantizer.decode(indexes))).double().square().sum(1)
    return indexes.cpu().numpy(), error.cpu().numpy(), normalized.double().square().sum(1).cpu().numpy()


def compare_errors(new: Errors, fitted: Errors, *, resamples: int, significance: float, seed: int = 0) -> Compared:
    """Compare relative errors; larger and smaller ones are changes alike (a dead microphone is easily coded).

    Args:
        fitted: of frames that the quantizer was *not* fitted on, of the data that it was fitted on.
        resamples: draws that chance is judged by.
        significance: share of the draws that may exceed ``detectable``.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    draws = _Draws(fitted.lengths)
    errors, variations = (np.concatenate([[0.0], np.cumsum(sums)]) for sums in (fitted.errors, fitted.variations))

    def drawn(lengths: Lengths) -> float:
        starts, stops = draws.draw(rng, lengths)
        # A place that is too short counts for its whole length: a long piece weighs as much by chance as it does here.
        weights = lengths / (stops - starts)
        total = ((variations[stops] - variations[starts]) * weights).sum()
        return float(((errors[stops] - errors[starts]) * weights).sum() / total) if total > 0 else 0.0

    differences = np.array([drawn(new.lengths) - drawn(fitted.lengths) for _ in range(resamples)])
    change = new.relative - fitted.relative
    extremes = np.abs(differences)
    return Compared(
        figure=new.relative,
        reference=fitted.relative,
        chance=_chance(extremes, abs(change)),
        detectable=float(np.quantile(extremes, 1 - significance)),
    )


def compare_usage(new: Usage, fitted: Usage, *, resamples: int, significance: float, seed: int = 0) -> Compared:
    """Compare the use of entries by the Jensen-Shannon divergence, in bits, on average over the codebooks.

    Arguments as for ``compare_errors``; ``fitted`` may hold the frames that the quantizer was fitted on.
    """
    rng = np.random.default_rng(seed)
    whole = fitted.counts()
    figure = float(divergence(new.counts(), whole).mean())
    ends = np.cumsum(fitted.lengths)
    of_pieces = np.stack(
        [_counts(piece, fitted.codebook_size).ravel() for piece in np.split(fitted.codes, ends[:-1])]
    ).astype(np.float32)
    draws, share = _Draws(fitted.lengths), np.full(len(of_pieces), 1 / len(of_pieces))
    drawn: list[float] = []
    for first in range(0, resamples, _DRAWS_AT_ONCE):
        times = rng.multinomial(len(of_pieces), share, size=min(_DRAWS_AT_ONCE, resamples - first))
        for reference in (times.astype(np.float32) @ of_pieces).reshape(len(times), *whole.shape):
            places = zip(*draws.draw(rng, new.lengths), strict=True)
            codes = np.concatenate([fitted.codes[start:stop] for start, stop in places])
            drawn.append(float(divergence(_counts(codes, fitted.codebook_size), reference).mean()))
    by_chance = np.array(drawn)
    middle = float(np.median(by_chance))
    return Compared(
        figure=figure,
        reference=middle,
        chance=_chance(by_chance, figure),
        detectable=float(np.quantile(by_chance, 1 - significance)) - middle,
    )


def divergence(first: NDArray[np.generic], second: NDArray[np.generic]) -> Floats:
    """Jensen-Shannon divergence in bits of every row of counts (N, K): 0 of equal shares, 1 of rows without overlap."""
    shares = [counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) for counts in (first, second)]
    middle = (shares[0] + shares[1]) / 2
    return np.asarray(sum(_relative_entropy(share, middle) for share in shares) / 2, dtype=np.float64)


def joined(parts: Sequence[tuple[Codes, Floats, Floats]], codebook_size: int) -> tuple[Usage, Errors]:
    """What ``measure`` gave for piece after piece."""
    lengths = np.array([len(codes) for codes, _, _ in parts], dtype=np.int64)
    codes, errors, variations = (np.concatenate([part[place] for part in parts]) for place in range(3))
    return Usage(codes, lengths, codebook_size), Errors(errors, variations, lengths)


def by_piece(owners: Tensor) -> tuple[Tensor, Lengths]:
    """Order in which frames stand piece after piece, int64 (B,), and the length of each piece; owners: int64 (B,)."""
    _, lengths = torch.unique(owners, return_counts=True)
    return torch.argsort(owners, stable=True), lengths.numpy()


class _Draws:
    """Draws places in pieces of a set, for pieces of other lengths.

    A place for a length is drawn from the pieces that are at least ``LONG_ENOUGH`` of it; a length that hardly any
    piece reaches counts as that of the ``FEWEST_PIECES``-th longest one.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._order = np.argsort(lengths, kind="stable")
        self._lengths = lengths[self._order]
        self._starts = (np.cumsum(lengths) - lengths)[self._order]
        self._longest = self._lengths[-min(FEWEST_PIECES, len(lengths))]

    def draw(self, rng: np.random.Generator, lengths: Lengths) -> tuple[Lengths, Lengths]:
        """First frame of each place and the frame behind its last, int64 (n,), counted over all pieces."""
        enough = LONG_ENOUGH * np.minimum(lengths, self._longest)
        chosen = rng.integers(np.searchsorted(self._lengths, enough), len(self._lengths))
        kept = np.minimum(lengths, self._lengths[chosen])
        starts = self._starts[chosen] + rng.integers(self._lengths[chosen] - kept + 1)
        return starts, starts + kept


def _counts(codes: Codes, codebook_size: int) -> NDArray[np.int64]:
    num_codebooks = codes.shape[1]
    offsets = codes.astype(np.int64) + codebook_size * np.arange(num_codebooks)
    counts = np.bincount(offsets.ravel(), minlength=num_codebooks * codebook_size)
    return counts.reshape(num_codebooks, codebook_size)


def _relative_entropy(share: Floats, middle: Floats) -> Floats:
    ratio = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
    return np.asarray((share * np.log2(ratio)).sum(axis=1))


def _chance(drawn: Floats, found: float) -> float:
    # The figure itself counts as a draw: chance is never nought after finitely many.
    return float((1 + np.count_nonzero(drawn >= found)) / (1 + len(drawn)))
