"""Word errors on new audio against those of record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvqkd.data.audio import Samples
from mvqkd.data.text import normalize_text
from mvqkd.decode.report import GREEDY, WerReport
from mvqkd.decode.scoring import ErrorCounts, bootstrap_interval, total, word_errors
from mvqkd.errors import ArtifactMismatchError

BOOTSTRAP_SAMPLES = 4000


@dataclass(frozen=True)
class WordDrift:
    """WER of new audio beside the WER of record. ``low``: what the increase is at least, as surely as was asked;
    ``detectable``: the increase from which on ``low`` would lie above 0."""

    wer: float
    wer_of_record: float
    low: float
    num_words: int

    @property
    def increase(self) -> float:
        return self.wer - self.wer_of_record

    @property
    def detectable(self) -> float:
        return self.increase - self.low


def word_counter(bundle: Path) -> Callable[[Samples, str], ErrorCounts]:
    """What hears a recording and counts its errors against a text: (samples, text) -> errors."""
    from mvqkd.decode.onnx_runtime import OnnxTransducer

    transducer = OnnxTransducer(bundle)
    version = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["text_normalizer"]

    def count(samples: Samples, text: str) -> ErrorCounts:
        (heard,) = transducer.transcribe([samples])
        return word_errors(normalize_text(text, version), normalize_text(heard, version))

    return count


def compare_words(new: Sequence[ErrorCounts], bundle: Path, significance: float, seed: int) -> WordDrift:
    """Compare the WER of new audio with the bundle's WER of record; both are samples, and both uncertain.

    The difference of two independent rates has, on each side, the root of the sum of squares of their own distances to
    the ends of their intervals.

    Args:
        significance: chance that ``low`` is above the true increase.
    Raises:
        ArtifactMismatchError: the bundle has no WER of record.
    Source: Zou and Donner 2008, Construction of confidence limits about effect measures, Statistics in Medicine 27.
    """
    report = WerReport.load(bundle)
    row = report.row(GREEDY, "onnxruntime")
    if row is None:
        raise ArtifactMismatchError(
            f"onnx-bundle {bundle}",
            expected="a WER of record, greedy decoding in onnxruntime",
            got=f"rows {', '.join(row.name for row in report.rows) or 'none'}",
            next_step="re-run export-onnx, or leave the transcripts out",
        )
    record = [word_errors(utterance.ref, utterance.hyp[row.name]) for utterance in report.utterances]
    confidence = 1 - 2 * significance
    (low, _), (_, high) = (
        bootstrap_interval(counts, samples=BOOTSTRAP_SAMPLES, seed=seed, confidence=confidence)
        for counts in (new, record)
    )
    wer, of_record = total(new).rate, total(record).rate
    margin = math.hypot(wer - low, high - of_record)
    return WordDrift(wer, of_record, wer - of_record - margin, total(new).reference_length)
