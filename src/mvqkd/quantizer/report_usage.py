"""What the codes of a quantizer carry: use of entries, bits, and what codebooks repeat of each other."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_SHUFFLES = 4
EULER_GAMMA = 0.5772156649015329
# Where chance alone gives pairs of codes more than this share of their entropy, the frames are too few to tell more.
MAX_CHANCE = 0.3


@dataclass(frozen=True)
class Redundancy:
    """Mutual information of pairs of codebooks, as a share of the smaller of their two entropies.

    Counted from frames, the mutual information of K x K pairs of codes is far too high: few pairs are seen twice. Two
    steps take that away. Entropies come from Grassberger's estimator; and what is found between codes whose frames
    were shuffled, which is chance alone, is taken off: (I - I_shuffled) / (H - I_shuffled), below 0 shown as 0.

    What is left of the bias makes the value too low: of one quantizer of 8 x 256 entries, the mean over all pairs was
    0.19 from 4,000 frames, 0.25 from 12,000 and 0.28 from 40,000. Compare values of equally many frames.

    Source: Grassberger 2003, arXiv physics/0307138.

    Attributes:
        matrix: N x N; 0 for independent codebooks, 1 on the diagonal and where one codebook tells the other.
        largest: the largest value off the diagonal.
        mean: of the values off the diagonal.
        frames: frames that the pairs of codes were counted on.
        shuffles: shuffles that I_shuffled is the mean of.
        chance: I_shuffled / H, on average over the pairs: what was taken off.
    """

    matrix: list[list[float]]
    largest: float
    mean: float
    frames: int
    shuffles: int
    chance: float


def count_entries(indexes: Tensor, codebook_size: int) -> Tensor:
    """int64 (N, K): how often each entry occurs in integer (B, N)."""
    counts = torch.zeros(indexes.shape[1], codebook_size, dtype=torch.long, device=indexes.device)
    rows = indexes.long().T
    return counts.scatter_add_(1, rows, torch.ones_like(rows)).cpu()


def entropy_bits(counts: Tensor) -> list[float]:
    """Entropy in bits of every row of int64 (N, K), shares taken as counted."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return [float(nats) / math.log(2) for nats in torch.special.entr(shares).sum(1)]


def dead_by_chance(codebook_size: int, frames: int) -> float:
    """Entries of a codebook that ``frames`` frames are expected to miss although all are used equally."""
    return codebook_size * (1 - 1 / codebook_size) ** frames


def redundancy(indexes: Tensor, codebook_size: int) -> Redundancy | None:
    """What every codebook repeats of every other; None of one codebook, or of too few frames to tell.

    Args:
        indexes: integer (B, N), values in [0, codebook_size).
    """
    codes = indexes.long().T.contiguous().cpu()  # (N, B)
    num_codebooks, frames = codes.shape
    if num_codebooks < 2 or frames < 2:
        return None
    table = grassberger_table(frames)
    entropies = [_entropy(row, codebook_size, table) for row in codes]
    # A codebook that always says the same says nothing, and repeats nothing.
    speaks = [bool((row != row[0]).any()) for row in codes]
    shuffled = _shuffles(codes)
    matrix = torch.eye(num_codebooks, dtype=torch.float64)
    chances = []
    for pair in itertools.combinations([n for n in range(num_codebooks) if speaks[n]], 2):
        first, second = pair
        smaller = min(entropies[first], entropies[second])
        joint = _joint_entropy(codes, pair, codebook_size, table)
        joint_by_chance = sum(_joint_entropy(rows, pair, codebook_size, table) for rows in shuffled) / NUM_SHUFFLES
        by_chance = entropies[first] + entropies[second] - joint_by_chance
        chances.append(by_chance / smaller)
        if by_chance < smaller:
            share = (joint_by_chance - joint) / (smaller - by_chance)
            matrix[first, second] = matrix[second, first] = min(1.0, max(0.0, share))
    chance = sum(chances) / len(chances) if chances else 0.0
    if chance > MAX_CHANCE:
        return None
    off_diagonal = matrix[~torch.eye(num_codebooks, dtype=torch.bool)]
    return Redundancy(
        matrix=[[round(value, 4) for value in row] for row in matrix.tolist()],
        largest=round(float(off_diagonal.max()), 4),
        mean=round(float(off_diagonal.mean()), 4),
        frames=frames,
        shuffles=NUM_SHUFFLES,
        chance=round(max(0.0, chance), 4),
    )


def grassberger_table(frames: int) -> Tensor:
    """n G(n) of n = 0 .. frames, float64: the entropy of counts n of B frames is ln B - sum n G(n) / B, in nats.

    G(n) = -gamma - ln 2 + 2 (1 + 1/3 + 1/5 + ...), n // 2 terms: what ln n is to be replaced with for the estimate to
    have hardly any bias even where most counts are 0 or 1.
    """
    counts = torch.arange(frames + 1)
    series = 2 / (2 * torch.arange(frames // 2, dtype=torch.float64) + 1)
    sums = torch.cat([series.new_zeros(1), series.cumsum(0)])
    return counts * (sums[counts // 2] - EULER_GAMMA - math.log(2))


def _shuffles(codes: Tensor) -> list[Tensor]:
    """The codes int64 (N, B) with the frames of every codebook in a random order of its own, ``NUM_SHUFFLES`` times."""
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.stack([torch.randperm(codes.shape[1], generator=generator) for _ in codes]) for _ in range(NUM_SHUFFLES)
    ]
    return [codes.gather(1, order) for order in orders]


def _joint_entropy(codes: Tensor, pair: tuple[int, int], codebook_size: int, table: Tensor) -> float:
    return _entropy(codes[pair[0]] * codebook_size + codes[pair[1]], codebook_size**2, table)


def _entropy(codes: Tensor, num_codes: int, table: Tensor) -> float:
    """Entropy in nats of int64 (B,); ``table`` is Grassberger's for B frames."""
    counts = torch.bincount(codes, minlength=num_codes)
    return math.log(len(codes)) - float(table[counts].sum()) / len(codes)
