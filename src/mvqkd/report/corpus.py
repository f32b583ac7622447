"""What the run was trained and tested on: splits, speakers, words never seen, recordings refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvqkd.report.run import DATA, Missing, Run, read_json, read_json_lines, unreadable
from mvqkd.report.text import duration

REPORT_FILE, REJECTED_FILE = "report.json", "rejected.jsonl"
MAX_OOV_WORDS = 30
MAX_REJECTED = 20


@dataclass(frozen=True)
class Split:
    """A split in numbers; ``oov`` is None where nothing is compared with the training vocabulary."""

    name: str
    cuts: int
    time: str
    speakers: int
    words: int
    vocabulary: int
    shortest: str
    median: str
    longest: str
    oov: float | None
    oov_words: list[str]


@dataclass(frozen=True)
class Corpus:
    """Facts in (name, value) pairs, splits, recordings refused by reason, and some of them."""

    facts: list[tuple[str, str]]
    splits: list[Split]
    rejected: list[tuple[str, int]]
    examples: list[Mapping[str, Any]]


def corpus(run: Run) -> Corpus | Missing:
    """What the report of prepare-data shows."""
    data = run.need(DATA)
    if isinstance(data, Missing):
        return data
    report = read_json(data, REPORT_FILE)
    if isinstance(report, Missing):
        return report
    try:
        splits = [_split(name, split, report.get("oov", {}).get(name)) for name, split in report["splits"].items()]
        rejected = sorted(report["rejected"].items(), key=lambda item: (-item[1], item[0]))
        tokens = f"{report['tokens']['vocab_size']} ({report['tokens']['type']})"
    except (KeyError, TypeError, AttributeError) as error:
        raise unreadable(data, REPORT_FILE, f"{type(error).__name__} {error}") from error
    facts = {
        "source": data.facts.get("source"),
        "licence": data.facts.get("licence"),
        "recordings": data.figures.get("recordings"),
        "tokens": tokens,
        "words in training": report.get("vocabulary"),
        "normaliser": data.facts.get("text_normalizer"),
    }
    return Corpus(
        facts=[
            (name, f"{value:,}" if isinstance(value, int) else str(value))
            for name, value in facts.items()
            if value is not None
        ],
        splits=splits,
        rejected=rejected,
        examples=[row for row in read_json_lines(data, REJECTED_FILE, MAX_REJECTED) if isinstance(row, Mapping)],
    )


def _split(name: str, split: Mapping[str, Any], oov: Mapping[str, Any] | None) -> Split:
    lengths = split["duration_s"]
    return Split(
        name=name,
        cuts=split["cuts"],
        time=duration(3600 * split["hours"]),
        speakers=split["speakers"],
        words=split["words"],
        vocabulary=split["vocabulary"],
        shortest=duration(lengths["min"]),
        median=duration(lengths["median"]),
        longest=duration(lengths["max"]),
        oov=None if oov is None else oov["word_rate"],
        oov_words=[] if oov is None else list(oov["most_frequent"])[:MAX_OOV_WORDS],
    )
