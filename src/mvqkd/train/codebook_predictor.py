"""From a hidden layer of the student to scores of codebook indexes; trained beside the student, never shipped.

Shapes: F frames, H hidden channels, K codebooks (of all teacher frames of a student frame), C entries a codebook.
Source: Guo et al. 2022, arXiv 2211.00508, section 3.4 (joint prediction included).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvqkd.train.codebook_loss import linear_cross_entropy


class CodebookPredictor(nn.Module):
    """Logits of every codebook: a linear layer, deeper or with a look at the codebooks before where asked for.

    Args:
        layers: 1 is linear; each more puts a hidden layer of twice the student's width in front.
        joint: a codebook's logits also depend on the true indexes of the codebooks before it. Off, nothing of it
            exists: parameters without a gradient would break data-parallel training.
    """

    def __init__(
        self, hidden_dim: int, num_codebooks: int, codebook_size: int, *, layers: int = 1, joint: bool = False
    ) -> None:
        super().__init__()
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        widths = [hidden_dim] + [2 * hidden_dim] * (layers - 1)
        hidden: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            hidden += [nn.Linear(before, after), nn.SiLU()]
        self.hidden = nn.Sequential(*hidden)
        self.linear = nn.Linear(widths[-1], num_codebooks * codebook_size)
        self.joint = JointPredictor(hidden_dim, num_codebooks, codebook_size) if joint else None

    def forward(self, hidden: Tensor, indexes: Tensor) -> Tensor:
        """Logits (F, K, C) of hidden (F, H); indexes int64 (F, K) are the true ones."""
        logits: Tensor = self.linear(self.hidden(hidden))
        logits = logits.view(-1, self.num_codebooks, self.codebook_size)
        return logits if self.joint is None else logits + self.joint(hidden, indexes)

    def loss(self, hidden: Tensor, indexes: Tensor) -> Tensor:
        """Mean cross-entropy of int64 indexes (F, K), given hidden (F, H): that of the logits, sooner."""
        if self.joint is not None or len(hidden) == 0:
            return F.cross_entropy(self(hidden, indexes).float().flatten(0, 1), indexes.flatten())
        return linear_cross_entropy(self.hidden(hidden), self.linear.weight, self.linear.bias, indexes)


class JointPredictor(nn.Module):
    """What the true indexes of the codebooks before add to a codebook's logits."""

    def __init__(self, hidden_dim: int, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.project = nn.Linear(hidden_dim, hidden_dim)
        # The first codebook has none before it, the last is before none.
        self.embedding = nn.Embedding(max(1, num_codebooks - 1) * codebook_size, hidden_dim)
        nn.init.normal_(self.embedding.weight, std=0.5 * math.sqrt(1 / num_codebooks))
        self.output = nn.Parameter(torch.zeros(num_codebooks, hidden_dim, codebook_size))

    def forward(self, hidden: Tensor, indexes: Tensor) -> Tensor:
        """(F, K, C) of hidden (F, H) and int64 (F, K)."""
        before = indexes[:, :-1]
        offsets = torch.arange(before.size(1), device=indexes.device) * self.codebook_size
        summed = self.embedding(before + offsets).cumsum(dim=1)  # (F, K - 1, H)
        summed = F.pad(summed, (0, 0, 1, 0))
        seen = F.relu(self.project(hidden)[:, None] + summed)
        return torch.einsum("fkh,khc->fkc", seen, self.output.to(seen.dtype))
