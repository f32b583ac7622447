"""Candidates for the gate, made of error counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mvqkd.promotion.candidate import Candidate, Costs, Scores, Utterances

COUNT = 100
WORDS = 10
GRAPHS = Costs(bundle_bytes=3_000, graph_bytes=1_000, graphs=("c",), rtf=0.02, latency_s=0.36)


def scores(
    errors: Sequence[int],
    words: Sequence[int] | int = WORDS,
    *,
    speakers: Sequence[str | None] | None = None,
    test_set: str = "test",
    **changes: Any,
) -> Scores:
    """So many errors an utterance, in utterances of so many words."""
    lengths = np.full(len(errors), words, dtype=np.int64) if isinstance(words, int) else np.array(words, dtype=np.int64)
    made = np.array(errors, dtype=np.int64)
    given = Scores(
        test_set=test_set,
        test_set_sha256="a" * 64,
        text_normalizer="upper-ascii-1",
        num_utterances=len(made),
        wer=float(made.sum() / lengths.sum()),
        utterances=Utterances(
            tuple(f"u{i:05}" for i in range(len(made))), lengths, made, tuple(speakers or [None] * len(made))
        ),
    )
    return dataclasses.replace(given, **changes)


def spread(total: int, count: int = COUNT) -> list[int]:
    """So many errors over so many utterances, the first ones having one more where they do not divide."""
    return [total // count + (i < total % count) for i in range(count)]


def candidate(errors: Sequence[int] | int = 300, *, bundle: str = "c", **changes: Any) -> Candidate:
    """A bundle with those errors; a number is spread evenly over a thousand words."""
    given = {
        "bundle_id": bundle * 64,
        "scores": scores(spread(errors) if isinstance(errors, int) else errors),
        "parity_ok": True,
        "quantizer_error": 0.31,
        "costs": dataclasses.replace(GRAPHS, graphs=(bundle,)),
    }
    return Candidate(**(given | changes))
