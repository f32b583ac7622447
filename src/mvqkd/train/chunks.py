"""Dynamic chunks: one set of weights learns to be decoded in short chunks, in long ones and as whole utterances.

Source: Zhang et al. 2020, arXiv 2012.05481 (dynamic chunk training).
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def chunk_of_step(choices: Sequence[int], seed: int, step: int) -> int | None:
    """Draw the chunk size of a training step, each choice as likely as any other.

    Seed and step alone decide, so that a resumed run and all ranks of a distributed one draw alike, and no other
    random number moves.

    Args:
        choices: student frames a chunk, 0: the whole utterance.
        step: 0-based.
    Returns:
        one of the choices; None, the model's own chunk size, when there are none.
    """
    if not choices:
        return None
    # Of this class Python promises equal numbers in all its versions for random(), not for choice().
    share = random.Random(f"chunk of seed {seed}, step {step}").random()
    return choices[int(share * len(choices))]
