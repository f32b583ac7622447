"""Challenger and champion on the same utterances: whether they compare, and by how much they differ.

The figures are the gate's own, computed as it computes them, for every row that both reports have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvqkd.config import GateConfig
from mvqkd.decode.report import Row, WerReport
from mvqkd.decode.scoring import word_errors
from mvqkd.promotion.paired import Comparison, Pairs, compare
from mvqkd.report.run import DECISION, Missing, Run, Scored


@dataclass(frozen=True)
class Difference:
    """Challenger's WER less champion's, its 95 % interval, and the share of resamples in which it is below 0."""

    compared: Comparison

    @property
    def low(self) -> float:
        return self.compared.bootstrap.interval_95[0]

    @property
    def high(self) -> float:
        return self.compared.bootstrap.interval_95[1]

    @property
    def verdict(self) -> str:
        """What the interval says: better, worse, or no telling."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "no clear difference"


@dataclass(frozen=True)
class Rival:
    """The champion's report on the utterances of the challenger's, its texts and speakers by their ids, and how the
    gate resamples."""

    scored: Scored
    texts: dict[str, dict[str, str]]
    speakers: dict[str, str | None]
    resampling: GateConfig

    def row(self, name: str) -> Row | None:
        """The champion's row of a name."""
        return next((row for row in self.scored.report.rows if row.name == name), None)


def rival_of(run: Run) -> Rival | Missing:
    """The champion's report, if its scores compare with those of the run's bundle."""
    challenger = run.scored("onnx-bundle")
    if run.champion is None:
        return Missing("There is no champion to compare with.")
    if isinstance(challenger, Missing):
        return challenger
    if run.champion.id == challenger.artifact.id:
        return Missing("This bundle is the champion itself.")
    champion = run.scores_of(run.champion)
    if isinstance(champion, Missing):
        return champion
    ours, theirs = challenger.report, champion.report
    label = f"champion {run.champion.short_id}"
    if ours.test_set_sha256 != theirs.test_set_sha256:
        return Missing(f"The {label} was scored on another test set; WERs of different sets do not compare.")
    if ours.text_normalizer != theirs.text_normalizer:
        return Missing(f"The {label} was scored with normaliser {theirs.text_normalizer}, not {ours.text_normalizer}.")
    references = {utterance.id: utterance.ref for utterance in theirs.utterances}
    if references != {utterance.id: utterance.ref for utterance in ours.utterances}:
        return Missing(f"The report of {label} has other utterances or references than the challenger's.")
    return Rival(
        champion,
        texts={utterance.id: utterance.hyp for utterance in theirs.utterances},
        speakers={utterance.id: utterance.speaker for utterance in theirs.utterances},
        resampling=_resampling(run),
    )


def _resampling(run: Run) -> GateConfig:
    """What the gate was told of resampling, so that the page and the decision name the same figures."""
    decision = run.get(DECISION)
    told = {} if decision is None else decision.config
    names = ("bootstrap_samples", "seed", "min_speakers", "equal_margin")
    return GateConfig.model_validate({name: told[name] for name in names if name in told})


def difference(report: WerReport, row: Row, rival: Rival) -> Difference | None:
    """How a row differs from the champion's of the same name; None where the champion has none, or nothing was said."""
    if rival.row(row.name) is None or report.num_words == 0:
        return None
    ours = [word_errors(utterance.ref, utterance.hyp[row.name]) for utterance in report.utterances]
    theirs = [word_errors(utterance.ref, rival.texts[utterance.id][row.name]) for utterance in report.utterances]
    pairs = Pairs(
        words=np.array([counts.reference_length for counts in ours], dtype=np.int64),
        challenger=np.array([counts.errors for counts in ours], dtype=np.int64),
        champion=np.array([counts.errors for counts in theirs], dtype=np.int64),
        speakers=np.array(
            [utterance.speaker or rival.speakers[utterance.id] for utterance in report.utterances], dtype=object
        ),
    )
    return Difference(compare(pairs, rival.resampling))
