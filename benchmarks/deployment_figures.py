"""Rows and findings from what the workers answered."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployment_data import NORMALIZER, TestSet, onset_s
from deployment_process import package_sizes
from deployment_systems import System
from mvqkd.data.text import normalize_text
from mvqkd.decode.scoring import bootstrap_interval, total, word_errors

Row = dict[str, Any]
BOOTSTRAP_SAMPLES = 10_000


def summarise(
    system: System, test_set: TestSet, heard: Sequence[Sequence[Row]], loads_s: Sequence[float], used: Sequence[Row]
) -> Row:
    """One row.

    Args:
        heard: for each repetition, the answer to each utterance.
        loads_s, used: one a repetition.
    """
    duration_s = sum(test_set.durations_s)
    wall = [sum(answer["wall_s"] for answer in answers) / duration_s for answers in heard]
    cpu = [sum(answer["cpu_s"] for answer in answers) / duration_s for answers in heard]
    texts = [normalize_text(answer["text"], NORMALIZER) for answer in heard[0]]
    counts = [word_errors(ref, text) for ref, text in zip(test_set.refs, texts, strict=True)]
    onsets = [onset_s(samples) for samples in test_set.audio]
    spoke = [position for position, answer in enumerate(heard[0]) if answer["text"].strip()]
    row = {
        "set": test_set.name,
        **system.facts(),
        "rtf": statistics.median(wall),
        "rtf_each": wall,
        "rtf_cpu": statistics.median(cpu),
        "wer": total(counts).rate,
        "interval_95": list(bootstrap_interval(counts, samples=BOOTSTRAP_SAMPLES, seed=0)),
        "load_s": statistics.median(loads_s),
        "peak_rss_bytes": max(usage["peak_rss_bytes"] for usage in used),
        "python_rss_bytes": used[0]["python_rss_bytes"],
        "packages": package_sizes(used[0]["files"], system.model_files),
        "final_s": _spread(_over(heard, range(len(onsets)), lambda answer, _: answer["final_s"])),
        "first_text_s": _spread(_over(heard, spoke, lambda answer, item: answer["first_text_s"] - onsets[item])),
        "silent": len(onsets) - len(spoke),
        "texts": texts,
    }
    if "parts_s" in heard[0][0]:
        row["rtf_parts"] = {
            part: statistics.median(sum(a["parts_s"].get(part, 0.0) for a in answers) / duration_s for answers in heard)
            for part in heard[0][0]["parts_s"]
        }
    if system.mode == "streaming":
        placed = [item for item in spoke if heard[0][item]["first_token_s"] is not None]
        latencies = _over(heard, placed, lambda answer, _: answer["first_text_s"] - answer["first_token_s"])
        row["first_token_s"] = _spread(latencies)
        late = [heard[0][item]["first_text_s"] > test_set.durations_s[item] for item in spoke]
        row["first_text_after_end"] = float(np.mean(late)) if late else None
        if system.chunk_s is not None:
            row["first_token_bound_s"] = system.chunk_s + 0.1
            row["first_token_below_bound"] = float(np.mean(np.array(latencies) < system.chunk_s + 0.1))
    return row


def _over(heard: Sequence[Sequence[Row]], items: Sequence[int], figure: Any) -> list[float]:
    """A figure of each utterance, the median of its repetitions."""
    return [statistics.median(figure(answers[item], item) for answers in heard) for item in items]


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    median, high = np.percentile(values, [50, 95])
    return {"median": float(median), "p95": float(high), "max": float(max(values))}


def findings(rows: Sequence[Row]) -> list[Row]:
    """What the rows of one test set say: ours against the peers, int8 against float32, the latency's bound."""
    measured = {row["system"]: row for row in rows if not row.get("missing")}
    students = [row for row in measured.values() if row["model"].startswith("student")]
    ours = [row for row in students if not row["left_out"]]
    found: list[Row] = []
    for peer, factor in (("whisper-tiny.en", 3.0), ("moonshine-tiny", 1.0)):
        theirs = [row["rtf"] for row in measured.values() if row["model"] == peer]
        for row in ours if theirs else []:
            ratio = min(theirs) / row["rtf"]
            found.append({"kind": "speed", "peer": peer, "system": row["system"], "ratio": ratio, "wanted": factor})
    for row in students:
        variant = row["system"].partition("-")[0]
        plain = measured.get(f"{variant}-float32-{row['runtime']}")
        if row["precision"] == "int8" and plain:
            parts = [side.get("rtf_parts", {}) for side in (plain, row)]
            encoder = [part.get("encoder", part.get("model")) for part in parts]
            changed = sum(a != b for a, b in zip(row["texts"], plain["texts"], strict=True))
            found.append(
                {
                    **{"kind": "int8", "system": row["system"], "texts_changed": changed},
                    "wer_points": 100 * (row["wer"] - plain["wer"]),
                    "smaller": plain["model_bytes"] / row["model_bytes"],
                    "faster": plain["rtf"] / row["rtf"],
                    "encoder_faster": encoder[0] / encoder[1] if all(encoder) else None,
                    "left_out": row["left_out"],
                }
            )
    return found
