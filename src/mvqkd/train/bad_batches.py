"""Which cuts made a step fail: batches hold dozens, and only a name leads to the recording that is broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mvqkd.data.batches import Batch

# Names in a message; the rest is counted.
SHOWN_CUTS = 5


def cuts_to_blame(batches: Sequence[Batch], loss: Callable[[Batch], Tensor], module: nn.Module) -> list[str]:
    """Ids of the cuts that, alone in a batch, have no finite loss or no finite gradient.

    The gradient must be looked at, too: a cut whose lattice is not finite counts as unusable and has loss 0.

    Args:
        loss: loss of a batch under ``module``; called in evaluation mode, without masks and dropout.
    """
    was_training = module.training
    module.eval()
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    blamed = []
    for batch in batches:
        for position, cut in enumerate(batch.cuts):
            value = loss(alone(batch, position))
            # Not backward(): it would add to the gradients, and tell data-parallel hooks of a step that is none.
            gradients = torch.autograd.grad(value, weights, allow_unused=True)
            if not _all_finite([value, *(gradient for gradient in gradients if gradient is not None)]):
                blamed.append(str(cut.id))
    module.train(was_training)
    return blamed


def alone(batch: Batch, position: int) -> Batch:
    """The batch of one cut of a batch, without its padding."""
    here = slice(position, position + 1)
    return replace(
        batch,
        cuts=batch.cuts[here],
        features=batch.features[here, : int(batch.feature_lengths[position])],
        feature_lengths=batch.feature_lengths[here],
        symbols=batch.symbols[here, : int(batch.symbol_lengths[position])],
        symbol_lengths=batch.symbol_lengths[here],
        student_frames=batch.student_frames[here],
        transcribed=batch.transcribed[here],
    )


def describe(blamed: Sequence[str], together: Sequence[str]) -> str:
    """The cuts to blame in words; where none alone is to blame, those that were together in the step."""
    if blamed:
        return f"cuts to blame: {_some(blamed)}"
    return f"no cut alone is to blame; in the batch: {_some(together)}"


def _all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number of every tensor is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_CUTS
    return ", ".join(names[:SHOWN_CUTS]) + (f" and {more} more" if more > 0 else "")
