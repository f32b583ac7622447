"""How often does the gate err? Thousands of simulated pairs of champion and challenger whose true difference is known.

    make demo && python benchmarks/gate.py

Each pair is judged by ``mvqkd.promotion.gate.decide`` with the default thresholds, and by comparing two WERs: "lower
than the champion's", and "at most the tolerance higher". A promotion of a challenger that is truly no better is false,
a rejection of one that is truly better is missed. Utterance lengths and errors are those of the demo's own report
(``--report``); what two models share was measured on students trained alike (``--students`` measures it anew).
Figures go to benchmarks/results/gate.json and docs/gate.md; `--render` only writes the latter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from environment import describe
from gate_page import render
from gate_simulation import ErrorModel, candidates, fit
from mvqkd.artifacts import load_artifact
from mvqkd.config import GateConfig
from mvqkd.promotion.candidate import Candidate, Utterances
from mvqkd.promotion.gate import decide
from mvqkd.promotion.reports import OTHERS_RUNTIME, RECORD_DECODER, read_report, read_scores

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gate.json"
PAGE = ROOT / "docs" / "gate.md"
SIZES = (100, 500, 2620)
# True WER of the challenger relative to the champion's, minus 1; None: the same model, error for error.
DIFFERENCES = (-0.10, -0.05, -0.02, 0.0, 0.02, 0.05, 0.10, None)
# Speakers of a test set, utterances of each, and by how much the true ratio differs from speaker to speaker.
SPEAKERS = ((40, 65, 0.0), (40, 65, 0.1), (40, 65, 0.2))
# Mean of seven pairs of students, trained on the prompts with the same objective and other seeds: reports made by
# benchmarks/distillation.py (docs/experiments_prompts.md), given as three groups of --students.
SHARED = 0.808
NAMED = ("false_promotion_rate", "missed_promotion_rate", "plain_false_promotion_rate")


def main() -> None:
    arguments = _parse()
    if not arguments.render:
        results = measure(arguments)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of the page."""
    errors = error_model(arguments.report, arguments.students)
    config = GateConfig(bootstrap_samples=arguments.resamples)
    started = time.process_time()
    rows = []
    for size in SIZES:
        for difference in DIFFERENCES:
            # One stream of random numbers a cell: a cell is the same whatever is measured before it.
            rng = np.random.default_rng(
                [arguments.seed, size, round(1000 * (1 + (difference or 0))), difference is None]
            )
            pairs = arguments.pairs if difference != 0 else arguments.equal_pairs
            rows.append(cell(errors, config, rng, size, difference, pairs))
            print(rows[-1], flush=True)
    by_speaker = [
        speaker_row(errors, config, arguments.seed, arguments.pairs if case[2] else arguments.equal_pairs, *case)
        for case in SPEAKERS
    ]
    return describe(("numpy",)) | {
        "seed": arguments.seed,
        "cpu_s": round(time.process_time() - started, 1),
        "thresholds": config.model_dump(mode="json"),
        "errors": dataclasses.asdict(errors),
        "rows": rows,
        "speakers": by_speaker,
        **{name: _by_difference(rows, name) for name in NAMED},
    }


def cell(
    errors: ErrorModel,
    config: GateConfig,
    rng: np.random.Generator,
    size: int,
    difference: float | None,
    pairs: int,
) -> dict[str, Any]:
    """Rates of one true difference and one size of test set."""
    promoted = lower = within = cheaper = 0
    for _ in range(pairs):
        words, champion, challenger, _ = errors.draw(rng, size, difference or 0.0)
        rival, contender = candidates(words, [champion, champion if difference is None else challenger])
        decided = decide(contender, rival, config).decision == "promote"
        promoted += decided
        change = contender.scores.wer - rival.scores.wer
        lower += change < 0
        within += change <= config.tolerance
        cheaper += decided or decide(_halved(contender), rival, config).decision == "promote"
    better = difference is not None and difference < 0
    judged = {"": promoted, "plain_": lower, "tolerant_": within}
    rates: dict[str, Any] = {}
    for name, count in judged.items():
        rates[f"{name}false_promotion_rate"] = None if better else count / pairs
        rates[f"{name}missed_promotion_rate"] = 1 - count / pairs if better else None
    return {
        "true_difference": difference,
        "test_utterances": size,
        "pairs": pairs,
        **rates,
        "cheaper_promotion_rate": cheaper / pairs,
        "false_promotion_interval_95": None if better else _interval(promoted, pairs),
    }


def speaker_row(
    errors: ErrorModel, config: GateConfig, seed: int, pairs: int, num_speakers: int, each: int, deviation: float
) -> dict[str, Any]:
    """False promotions between models that are equal on the whole, and better with some speakers than with others."""
    rng = np.random.default_rng([seed, num_speakers, each, round(1000 * deviation)])
    by_utterance = config.model_copy(update={"min_speakers": 10**9})
    counts = {"speaker": 0, "utterance": 0}
    for _ in range(pairs):
        words, champion, challenger, speakers = errors.draw(
            rng, num_speakers * each, 0.0, num_speakers=num_speakers, speaker_deviation=deviation
        )
        rival, contender = candidates(words, [champion, challenger], speakers)
        counts["speaker"] += decide(contender, rival, config).decision == "promote"
        counts["utterance"] += decide(contender, rival, by_utterance).decision == "promote"
    row = {
        "speakers": num_speakers,
        "test_utterances": num_speakers * each,
        "deviation": deviation,
        "pairs": pairs,
        **{f"false_promotion_rate_by_{unit}": count / pairs for unit, count in counts.items()},
    }
    print(row, flush=True)
    return row


def error_model(report: Path, students: Sequence[Sequence[Path]]) -> ErrorModel:
    """Fit to the bundle's own row of a report, and to groups of reports of students on the same utterances."""
    bundle = load_artifact(report, verify="size")
    read = read_report(bundle)
    record = read_scores(bundle, read, read.record).utterances
    assert record is not None, "the report lists its utterances"
    others = [[made.errors for made in _students(group)] for group in students]
    return fit(record.words, record.errors, others, shared=SHARED)


def _students(paths: Sequence[Path]) -> Iterator[Utterances]:
    for path in paths:
        artifact = load_artifact(path, "wer-report", verify="size")
        read = read_report(artifact)
        made = read_scores(artifact, read, read.row(OTHERS_RUNTIME, RECORD_DECODER)).utterances
        assert made is not None, "the report lists its utterances"
        yield made


def _halved(candidate: Candidate) -> Candidate:
    """The same candidate with graphs of half the size."""
    assert candidate.costs.graph_bytes is not None
    costs = dataclasses.replace(candidate.costs, graph_bytes=candidate.costs.graph_bytes // 2, graphs=("smaller",))
    return dataclasses.replace(candidate, costs=costs)


def _interval(count: int, pairs: int) -> list[float]:
    """Wilson's interval of a share."""
    z, share = 1.96, count / pairs
    middle = (share + z * z / (2 * pairs)) / (1 + z * z / pairs)
    half = z / (1 + z * z / pairs) * math.sqrt(share * (1 - share) / pairs + z * z / (4 * pairs * pairs))
    return [round(max(0.0, middle - half), 5), round(middle + half, 5)]


def _by_difference(rows: Sequence[dict[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """true difference -> test utterances -> rate; ``same`` is the same model."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row[name] is not None:
            difference = row["true_difference"]
            key = "same" if difference is None else f"{difference:g}"
            found.setdefault(key, {})[str(row["test_utterances"])] = row[name]
    return found


def write_page(results: dict[str, Any]) -> None:
    """Put the tables between the page's markers."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- gate -->\n")
    _, _, after = rest.partition("<!-- /gate -->\n")
    PAGE.write_text(before + render(results) + after, encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=ROOT / "artifacts" / "bundle", metavar="BUNDLE")
    parser.add_argument(
        "--students",
        type=Path,
        nargs="+",
        action="append",
        default=[],
        metavar="WER_REPORT",
        help="of students that were trained alike; once a group of them",
    )
    parser.add_argument("--pairs", type=int, default=2_000, help="of each true difference and size (2000)")
    parser.add_argument(
        "--equal-pairs", type=int, default=10_000, help="of equal models, the rate that matters (10000)"
    )
    parser.add_argument("--resamples", type=int, default=1_000, help="of the gate's bootstrap (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render", action="store_true", help="only write the page from the results that are there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
