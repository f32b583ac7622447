"""The tables of docs/serving.md, made from the results of serving.py alone."""

from __future__ import annotations

import itertools
from typing import Any

Rows = list[dict[str, Any]]


def render(results: dict[str, Any]) -> str:
    """The block between the page's markers."""
    machine, model, rows = results["machine"], results["model"], results["rows"]
    steps = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row["streams"])]
    longest = max(steps, key=len)
    lines = [
        "<!-- serving -->",
        f"Measured by `{results['command']}` on {machine['cores']} cores of an {machine['processor']}, shared by"
        f" clients and server; onnxruntime {results['versions']['onnxruntime']}, uvicorn"
        f" {results['versions']['uvicorn']}."
        f" Bundle {model['bundle_id'][:12]}, {'int8' if '--int8' in results['options'] else 'float32'}, chunks of"
        f" {1000 * model['chunk_s']:.0f} ms; clients send the {results['test_audio_s']:.0f} s of test speech in real"
        f" time, {1000 * results['block_s']:.0f} ms at once. Delay: from sending the last audio of a chunk to the"
        " result that covers it. Windows of ten seconds begin when all streams run; each row is the worst of them.",
        "",
        "| streams | windows | delay p50 | p95 | p99 | longest | server, cores | streams a call | RSS | errors |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_step_row(step) for step in steps),
        "",
        f"Resident memory: {results['rss_idle_mb']:.0f} MB before the first client, {results['rss_peak_mb']:.0f} MB at"
        " most. The clients were late by"
        f" {max(row['client_late_p99_ms'] for row in rows):.0f} ms at most (p99 of a step) and took"
        f" {max(row['client_cores'] for row in rows):.2f} cores at most.",
        "",
        f"{longest[0]['streams']} streams over {10 * len(longest)} s, window by window:",
        "",
        "| from | p50 | p95 | p99 | server, cores | RSS |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['from_s']:.0f} s | {row['p50_ms']:.1f} ms | {row['p95_ms']:.1f} ms | {row['p99_ms']:.1f} ms |"
            f" {row['server_cores']:.2f} | {row['rss_mb']:.0f} MB |"
            for row in longest
        ),
        "<!-- /serving -->",
        "",
    ]
    return "\n".join(lines)


def _step_row(step: Rows) -> str:
    worst = {name: max(row[name] for row in step) for name in step[0]}
    return (
        f"| {worst['streams']} | {len(step)} | {worst['p50_ms']:.1f} ms | {worst['p95_ms']:.1f} ms |"
        f" {worst['p99_ms']:.1f} ms | {worst['max_ms']:.1f} ms | {worst['server_cores']:.2f} |"
        f" {worst['mean_batch']:.1f} | {worst['rss_mb']:.0f} MB | {worst['errors']} |"
    )
