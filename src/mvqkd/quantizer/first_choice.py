"""Where a search begins: the entry of each codebook with the highest logit.

Only the highest logits matter. A processor that multiplies bfloat16 several times as fast as float32 gives all logits
roughly; the rounding has a bound, so all but one or two entries of a codebook are ruled out, and only these are
computed in float32. The choice is that of the float32 logits, save where two of them are equal but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mvqkd.device import bfloat16_is_fast
from mvqkd.quantizer.tables import LANES, product_by_blocks

# bfloat16 keeps 8 bits. Both factors of a product are rounded, then the sum: |error| <= ROUNDING * |x| |w|; the sum of
# D float32 products adds D times float32's own rounding.
ROUNDING = 1.01 * 2**-8 + 2**-9
FLOAT32_ROUNDING = 2**-24


@dataclass(frozen=True)
class LogitsTable:
    """What the choice needs of the linear layer of the logits.

    Shapes: M = num_codebooks * codebook_size entries, D channels.
    Attributes:
        weight: float32 (M, D), the scale of the input applied.
        bias: float32 (M,).
        rough: bfloat16 (D, M), minus the weight; None where float32 products are to be used throughout.
        margin: float32 (N,), how far the rough logits of two entries of a codebook may be wrong together, for a
            vector of length 1.
    """

    weight: Tensor
    bias: Tensor
    num_codebooks: int
    rough: Tensor | None
    margin: Tensor


def build_logits_table(weight: Tensor, bias: Tensor, num_codebooks: int, *, rough: bool | None = None) -> LogitsTable:
    """Prepare the choice.

    Args:
        weight: float32 (M, D), the scale of the input applied.
        bias: float32 (M,).
        rough: look at bfloat16 products first; default: where they are fast.
    """
    weight, bias = weight.detach().contiguous(), bias.detach()
    whole_lanes = len(weight) // num_codebooks % LANES == 0
    rough = bfloat16_is_fast(weight.device) and whole_lanes if rough is None else rough
    largest = weight.norm(dim=1).view(num_codebooks, -1).amax(1)
    margin = 2 * (ROUNDING + weight.shape[1] * FLOAT32_ROUNDING) * largest
    return LogitsTable(weight, bias, num_codebooks, (-weight).bfloat16().T.contiguous() if rough else None, margin)


def first_choice(x: Tensor, table: LogitsTable) -> Tensor:
    """The entry of each codebook with the highest logit, the first of equal ones.

    Args:
        x: float32 (B, D).
    Returns:
        int64 (B, N).
    """
    if table.rough is None:
        logits = torch.empty(len(x), len(table.bias), device=x.device)
        product_by_blocks(x, table.weight.T, table.bias, logits)
        return logits.view(len(x), table.num_codebooks, -1).argmax(2)
    from mvqkd.quantizer.compiled_search import choose_lowest  # numba takes a second to import

    rough = (x.bfloat16() @ table.rough).float().sub_(table.bias)
    margin = x.norm(dim=1).unsqueeze(1) * table.margin  # (B, N)
    return choose_lowest(rough, margin, x, table.weight, table.bias)
