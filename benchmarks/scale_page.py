"""The figures of docs/scale.md, made from the results of scale.py alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from scale_assumptions import Assumptions
from scale_plan import (
    EQUAL_COST,
    SPEED_COPIES,
    SPEEDS,
    TEACHER_HZ,
    cuts_of,
    list_bytes_per_cut,
    run_hours,
    scenarios,
    storage_bytes,
)

SHARD_CUTS = (200, 2_000, 20_000)
NONE = "none within these limits"
PCM_BYTES_PER_S = 2 * 16_000
NAMES = {"core": "measured teacher, a core", "gpu": "large teacher, a GPU"}


def render(results: dict[str, Any]) -> str:
    """The block between the page's markers."""
    assumed, rates = Assumptions(**results["assumptions"]), results["rates"]
    parts = [
        _measured(rates),
        _assumed(assumed, results),
        _storage(rates, assumed),
        _work(rates, assumed),
        _chosen(results, rates, assumed),
        _sizes(results),
        _failures(results),
        _objects(rates, assumed),
    ]
    return "<!-- scale -->\n" + "\n".join(parts) + "<!-- /scale -->\n"


def _measured(rates: dict[str, Any]) -> str:
    run, encode, start, merge = rates["run"], rates["encode"], rates["start"], rates["merge"]
    shards = encode["shards"]
    per_s = np.array([row["total_s"] / row["audio_s"] for row in shards])
    total = sum(row["total_s"] for row in shards)
    parts = {name: sum(row[f"{name}_s"] for row in shards) / total for name in ("teacher", "codec")}
    low, middle, high = (1000 * float(np.percentile(per_s, share)) for share in (5, 50, 95))
    audio = f"{np.mean([row['audio_s'] for row in shards]):.0f} s"
    rows = [
        ("encoding, ms a second of audio: 5 %, median, 95 % of shards", f"{low:.1f}, {middle:.1f}, {high:.1f}"),
        ("so times real time", f"{1000 / middle:.0f}"),
        ("of it teacher, codec, all else", _shares(parts["teacher"], parts["codec"])),
        ("a process from start to first audio, all of them", f"{_list(start['runs_s'])} s"),
        ("its memory", f"{start['peak_bytes'] / 1e9:.2f} GB"),
        (
            f"what each cut of the corpus adds to both ({start['plan_cuts']:,} cuts)",
            f"{1e6 * start['plan_s_per_cut']:.0f} µs, {start['plan_bytes_per_cut']:,.0f} bytes",
        ),
        ("merging parts, verifying an artifact", f"{_rate(merge['merge_bytes_per_s'], merge['verify_bytes_per_s'])}"),
        (
            "list of cuts in the merged artifact, on disk and in memory",
            f"{merge['index_bytes_per_cut']:.0f} and {merge['open_bytes_per_cut']:.0f} bytes a cut and speed",
        ),
    ]
    machine, versions = run["machine"], run["versions"]
    return "\n".join(
        [
            "### Measured",
            "",
            f"`{run['command']}` on one thread of {machine['cores']} cores of {machine['processor']}, load average"
            f" {run['load_average']:.1f} before it began; python {versions['python']}, torch {versions['torch']},"
            f" lhotse {versions['lhotse']}; seed {run['seed']}. {len(shards)} shards of {audio}, cuts of"
            f" {encode['mean_cut_s']:.1f} s; teacher {encode['teacher_id']}, layer {encode['layer']},"
            f" {encode['dim']} channels, {encode['codec_bytes']} bytes a frame. The shards took"
            f" {total / sum(row['cpu_s'] for row in shards):.2f} times their CPU time: 1 on an idle machine.",
            "",
            *_table(("what", "figure"), rows),
        ]
    )


def _assumed(assumed: Assumptions, results: dict[str, Any]) -> str:
    rows = [
        (f"`--{name.replace('_', '-')}`", f"{results['assumptions'][name]:g}", text)
        for name, text in assumed.texts().items()
    ]
    gpu = next(one for one in scenarios(results["rates"], assumed) if one.name == "gpu")
    return "\n".join(
        [
            "### Assumed",
            "",
            *_table(("parameter", "value", "what it is"), rows),
            "A large teacher takes 2 operations a parameter and frame,"
            f" {2 * assumed.teacher_parameters * TEACHER_HZ / 1e12:.2f} TFLOP a second of audio. With what a pod does"
            f" beside it, as measured, that is {gpu.real_time_factor:.0f} times real time on the assumed GPU, and"
            f" {gpu.real_time_factor * PCM_BYTES_PER_S / 1e6:.0f} MB/s of 16-bit audio that each such pod reads.",
            "",
        ]
    )


def _storage(rates: dict[str, Any], assumed: Assumptions) -> str:
    rows = []
    for corpus_h in assumed.deadlines_h:
        sizes = storage_bytes(corpus_h, rates, assumed)
        cost = sizes["ci_8"] / 1e9 * assumed.storage_gb_month_price
        floats = sizes["float32"] / 1e9 * assumed.storage_gb_month_price
        rows.append((f"{corpus_h:,}", *map(_bytes, sizes.values()), f"${floats:,.0f}", f"${cost:,.2f}"))
    head = (
        "hours of speech",
        "float32",
        "float16",
        "indexes, 16 bytes",
        "8 bytes",
        "float32 a month",
        "8 bytes a month",
    )
    paper = storage_bytes(1_000, rates, assumed)["float32"]
    return "\n".join(
        [
            "### Storage",
            "",
            f"{assumed.teacher_dim} channels at {TEACHER_HZ} Hz, speeds {_list(SPEEDS)}, which make"
            f" {SPEED_COPIES:.3f} hours of an hour. The paper's 2.5 TB for 1,000 hours are float32 in binary units:"
            f" {paper / 2**40:.2f} TiB here. Indexes include the list of their cuts.",
            "",
            *_table(head, rows),
        ]
    )


def _work(rates: dict[str, Any], assumed: Assumptions) -> str:
    merge, rows = rates["merge"], []
    core, gpu = scenarios(rates, assumed)
    for corpus_h in assumed.deadlines_h:
        hours = {one.name: corpus_h * SPEED_COPIES / one.real_time_factor for one in (core, gpu)}
        size = storage_bytes(corpus_h, rates, assumed)["ci_8"]
        rows.append(
            (
                f"{corpus_h:,}",
                f"{hours['core']:,.0f} h, ${hours['core'] * core.hour_price:,.0f}",
                f"{hours['gpu']:,.0f} h, ${hours['gpu'] * gpu.hour_price:,.0f}",
                _hours(size / merge["merge_bytes_per_s"] / 3600),
                _hours(size / merge["verify_bytes_per_s"] / 3600),
                f"{cuts_of(corpus_h, assumed):,.0f}",
                f"{cuts_of(corpus_h, assumed) * list_bytes_per_cut(rates) / 1e9:,.1f} GB",
            )
        )
    head = (
        "hours of speech",
        "cores, measured teacher",
        "GPUs, large teacher",
        "merging",
        "verifying",
        "cuts",
        "their list",
    )
    return "\n".join(
        [
            "### Work",
            "",
            "Computing alone, all speeds; merging and verifying 8 bytes a frame with one thread; memory of the list of"
            f" cuts in the pod that needs most, the one that merges: with {assumed.pod_memory_gb:g} GB a run takes"
            f" {run_hours(rates, assumed):,.0f} hours of speech at most.",
            "",
            *_table(head, rows),
        ]
    )


def _chosen(results: dict[str, Any], rates: dict[str, Any], assumed: Assumptions) -> str:
    rows = []
    for name in NAMES:
        for corpus_h, deadline_h in assumed.deadlines_h.items():
            found = [row for row in results["rows"] if (row["scenario"], row["corpus_h"]) == (name, corpus_h)]
            start = (NAMES[name], f"{corpus_h:,}", _hours(deadline_h))
            rows += [(*start, *_cells(row)) for row in found] or [(*start, NONE, *[""] * (len(_CELLS) - 1))]
    head = ("pods", "hours of speech", "deadline", *_CELLS)
    return "\n".join(
        [
            "### Chosen",
            "",
            "The fewest pods that meet the deadline in 95 of 100 cases with a run failing in at most"
            f" {100 * assumed.max_run_failure:g} % of cases, then the cheapest cut; where several cost the same within"
            f" {100 * EQUAL_COST:g} %, that with the fewest runs, then the soonest done. Nothing that a lost pod had"
            f" computed is kept. {results['simulated']:,} simulated runs each, seed {results['seed']}.",
            "",
            *_table(head, rows),
        ]
    )


_CELLS = (
    "runs",
    "items a run",
    "audio an item",
    "work an item",
    "at once",
    "median",
    "95 %",
    "wasted",
    "run fails",
    "cost",
)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['runs']}",
        f"{row['items']}",
        f"{row['item_audio_h']:,.0f} h",
        _hours(row["item_work_h"]),
        f"{row['pods']}",
        _hours(row["median_h"]),
        _hours(row["p95_h"]),
        f"{100 * row['wasted_share']:.1f} %",
        f"{100 * row['run_failure']:.2f} %",
        f"${row['cost']:,.0f}" if row["cost"] >= 100 else f"${row['cost']:,.2f}",
    )


def _sizes(results: dict[str, Any]) -> str:
    rows = [(NAMES[row["scenario"]], f"{row['corpus_h']:,}", *_cells(row)) for row in results["beside"]]
    head = ("pods", "hours of speech", *_CELLS)
    return "\n".join(
        [
            "### Other items on as many pods",
            "",
            "What is wasted are starts, lost work and slow nodes.",
            "",
            *_table(head, rows),
        ]
    )


def _failures(results: dict[str, Any]) -> str:
    rows = []
    for row in results["failing"]:
        kept = "every shard" if row["checkpoints"] else "nothing"
        name = (NAMES[row["scenario"]], f"{row['corpus_h']:,}", f"{row['failures_per_hour']:g}", kept)
        cells = [*_cells(row)[2:4], *_cells(row)[5:]] if "items" in row else [NONE, *[""] * (len(_CELLS) - 4)]
        rows.append((*name, *cells))
    head = ("pods", "hours of speech", "failures an hour", "kept of a lost pod", *_CELLS[2:4], *_CELLS[5:])
    return "\n".join(
        [
            "### Other rates of failure",
            "",
            "The cheapest items on as many pods. Every shard is kept where items write to a shared disk.",
            "",
            *_table(head, rows),
        ]
    )


def _objects(rates: dict[str, Any], assumed: Assumptions) -> str:
    core, gpu = scenarios(rates, assumed)
    rows = []
    for shard_cuts in SHARD_CUTS:
        audio_s = shard_cuts * assumed.cut_s
        work = [_hours(audio_s / one.real_time_factor / 3600) for one in (core, gpu)]
        counts = [
            f"{-(-cuts_of(corpus_h, assumed) * len(SPEEDS) // shard_cuts):,.0f}" for corpus_h in assumed.deadlines_h
        ]
        rows.append((f"{shard_cuts:,}", _bytes(audio_s * TEACHER_HZ * 8), *work, *counts))
    head = ("`shard_cuts`", "a shard at 8 bytes", "work, a core", "work, a GPU")
    return "\n".join(
        [
            "### Shard files",
            "",
            *_table((*head, *(f"files of {corpus_h:,} h" for corpus_h in assumed.deadlines_h)), rows),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _shares(teacher: float, codec: float) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in (teacher, codec, 1 - teacher - codec))


def _rate(*bytes_per_s: float) -> str:
    return ", ".join(f"{value / 1e6:,.0f} MB/s" for value in bytes_per_s)


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.1f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours / 24:,.1f} days"


def _bytes(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number / 1e3:,.0f} kB"
