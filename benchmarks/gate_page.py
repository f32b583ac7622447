"""The tables of docs/gate.md, made from the results of gate.py alone."""

from __future__ import annotations

import itertools
from typing import Any

Row = dict[str, Any]


def render(results: dict[str, Any]) -> str:
    """The block between the page's markers."""
    machine, errors, thresholds = results["machine"], results["errors"], results["thresholds"]
    words = sum(int(length) * times for length, times in errors["lengths"].items())
    count = sum(errors["lengths"].values())
    lines = [
        "<!-- gate -->",
        f"Simulated by `{results['command']}` with seed {results['seed']} in {results['cpu_s'] / 60:.0f} CPU minutes of"
        f" an {machine['processor']}, numpy {results['versions']['numpy']}; the gate resamples"
        f" {thresholds['bootstrap_samples']:,} times, its other thresholds are the defaults. Utterance lengths, WER"
        f" ({100 * errors['wer']:.1f} %) and spread of the errors are those of the demo's report ({count} utterances,"
        f" {words} words); two models share {100 * errors['shared']:.0f} % of their errors, as students do that were"
        " trained alike with other seeds.",
        "",
        "True difference: WER of the challenger relative to the champion's. **False**: promoted, though truly no"
        " better. **Missed**: rejected, though truly better. *Lower* promotes whatever has a lower WER, *tolerance*"
        f" whatever is at most {100 * thresholds['tolerance']:.1f} points higher. *Gate, half the size* is the share"
        " that the gate promotes if the challenger's graphs are half as large.",
        "",
        "| true difference | utterances | pairs | | gate | lower | tolerance | gate, half the size |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _row(row, first=position == 0)
            for _, rows in itertools.groupby(_sorted(results["rows"]), key=lambda row: row["true_difference"])
            for position, row in enumerate(rows)
        ),
        "",
        f"Equal models, 95 % interval of the gate's rate: {_intervals(results['rows'])}.",
        "",
        "Models that are equal on the whole, where the true ratio of their WERs differs from speaker to speaker: false"
        " promotions by what the gate resamples.",
        "",
        "| speakers | utterances | deviation of the ratio | pairs | speakers resampled | utterances resampled |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['speakers']} | {row['test_utterances']} | {100 * row['deviation']:.0f} % | {row['pairs']:,} |"
            f" {_percent(row['false_promotion_rate_by_speaker'])} |"
            f" {_percent(row['false_promotion_rate_by_utterance'])} |"
            for row in results["speakers"]
        ),
        "<!-- /gate -->",
        "",
    ]
    return "\n".join(lines)


def _sorted(rows: list[Row]) -> list[Row]:
    def key(row: Row) -> tuple[bool, float, int]:
        difference = row["true_difference"]
        return difference is None, difference or 0.0, row["test_utterances"]

    return sorted(rows, key=key)


def _row(row: Row, *, first: bool) -> str:
    better = row["plain_missed_promotion_rate"] is not None
    kind = "missed" if better else "false"
    judged = " | ".join(_percent(row[f"{name}{kind}_promotion_rate"]) for name in ("", "plain_", "tolerant_"))
    return (
        f"| {_difference(row['true_difference']) if first else ''} | {row['test_utterances']:,} | {row['pairs']:,} |"
        f" {kind} | {judged} | {_percent(row['cheaper_promotion_rate'])} |"
    )


def _difference(difference: float | None) -> str:
    if difference is None:
        return "the same model"
    return f"{100 * difference:+.0f} %" if difference else "0 %"


def _intervals(rows: list[Row]) -> str:
    equal = [row for row in rows if row["true_difference"] == 0]
    return ", ".join(
        "{:.1f} to {:.1f} % on {:,} utterances".format(
            *(100 * bound for bound in row["false_promotion_interval_95"]), row["test_utterances"]
        )
        for row in equal
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
