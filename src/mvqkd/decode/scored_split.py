"""The split that a report scores: cuts, references and identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mvqkd.artifacts import Artifact
from mvqkd.data.cuts import load_cuts
from mvqkd.data.text import normalize_text


@dataclass(frozen=True)
class ScoredSplit:
    """A split that is scored: its cuts, their ids, references (normalised) and speakers, and what identifies it.

    A speaker is None where the data names none, or several in one cut.
    """

    cuts: Sequence[Any]
    ids: Sequence[str]
    refs: Sequence[str]
    speakers: Sequence[str | None]
    split: str
    sha256: str
    text_normalizer: str

    @property
    def duration_s(self) -> float:
        return float(sum(cut.duration for cut in self.cuts))


def load_scored_split(data: Artifact, split: str) -> ScoredSplit:
    """Load a split for scoring.

    Raises:
        EmptyCutSetError: no such split, or nothing in it.
    """
    cuts = list(load_cuts(data, split))
    version = str(data.facts["text_normalizer"])
    return ScoredSplit(
        cuts=cuts,
        ids=[str(cut.id) for cut in cuts],
        refs=[normalize_text(" ".join(s.text or "" for s in cut.supervisions), version) for cut in cuts],
        speakers=[_speaker(cut) for cut in cuts],
        split=split,
        sha256=str(data.facts["test_set_sha256"][split]),
        text_normalizer=version,
    )


def _speaker(cut: Any) -> str | None:
    names = {supervision.speaker for supervision in cut.supervisions}
    return str(names.pop()) if len(names) == 1 and None not in names else None
