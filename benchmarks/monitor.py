"""How often does `mvqkd monitor` raise an alarm, on speech of the same kind and on speech that has changed?

    make demo && python benchmarks/monitor.py

The demo's test prompts, which the quantizer was not fitted on, are heard as they are and changed in known ways (a
telephone's band, noise, level, clipping). Of each, sets of 25, 50 and 100 recordings are drawn and judged with the
default limits. `--other NAME=DIR` adds a folder of other recordings. Another corpus than the prompts:

    python benchmarks/monitor.py --name LibriSpeech --quantizer DIR --teacher-embeddings DIR --test test.jsonl \
        --other "other speakers=others.jsonl"

Figures go to benchmarks/results/monitor.json, a corpus each, and into docs/report.md; `--render` only does the latter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from environment import describe
from mvqkd.artifacts import load_artifact, write_json
from mvqkd.data.audio import Samples, load_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.report.baseline import Baseline, load_baseline
from mvqkd.report.listening import Heap, listen_to
from mvqkd.report.monitor import Limits, judged
from mvqkd.report.recordings import Recording, from_file, from_manifest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "monitor.json"
PAGE = ROOT / "docs" / "report.md"
BLOCK = re.compile(r"<!-- monitor -->\n.*?<!-- /monitor -->\n", re.S)
PACKAGES = ("torch", "numpy")
TELEPHONE_HZ = 8000
AUDIO_SUFFIXES = {".wav", ".flac", ".g722", ".mp3", ".ogg"}
CHECKS = ("relative error", "usage divergence")

Change = Callable[[Samples, np.random.Generator], Samples]


def telephone(samples: Samples, _: np.random.Generator) -> Samples:
    """Nothing above 4 kHz."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, TELEPHONE_HZ)
    return np.asarray(soxr.resample(narrow, TELEPHONE_HZ, SAMPLE_RATE_HZ), np.float32)


def noisy(samples: Samples, rng: np.random.Generator, *, snr_db: float) -> Samples:
    """White noise below the speech's mean level."""
    level = np.sqrt(np.mean(np.square(samples)) / 10 ** (snr_db / 10))
    return np.asarray(samples + level * rng.standard_normal(len(samples)), np.float32)


def scaled(samples: Samples, _: np.random.Generator, *, gain: float, ceiling: float = np.inf) -> Samples:
    """Louder or softer, and cut off at a ceiling."""
    return np.clip(np.float32(gain) * samples, -ceiling, ceiling).astype(np.float32)


CHANGES: dict[str, Change] = {
    "as they are": lambda samples, _: samples,
    "telephone band": telephone,
    "white noise at 20 dB": partial(noisy, snr_db=20.0),
    "white noise at 10 dB": partial(noisy, snr_db=10.0),
    "26 dB softer": partial(scaled, gain=0.05),
    "18 dB louder, clipped": partial(scaled, gain=8.0, ceiling=0.5),
}


def main() -> None:
    arguments = _parse()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"corpora": {}, "rows": []}
    if not arguments.render:
        of = measure(arguments)
        rows = [{"corpus": arguments.name, **row} for row in of.pop("rows")]
        results |= describe(PACKAGES)
        results["corpora"][arguments.name] = of
        results["rows"] = [row for row in results["rows"] if row["corpus"] != arguments.name] + rows
        write_json(RESULTS, results)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: render(results), text), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Alarms of every kind of speech, and size of the set."""
    torch.set_num_threads(1)
    root: Path = arguments.artifacts_dir
    baseline = load_baseline(
        quantizer=arguments.quantizer or root / "quantizer",
        teacher_embeddings=arguments.teacher_embeddings or root / "teacher-embeddings",
        codebook_indexes=arguments.codebook_indexes if arguments.quantizer else root / "codebook-indexes",
    )
    recordings = from_manifest(arguments.test) if arguments.test else _test_split(root)
    kinds = {name: _changed(recordings, change, arguments.seed) for name, change in CHANGES.items()}
    for name, _, place in (text.partition("=") for text in arguments.other):
        path = Path(place)
        kinds[name] = from_manifest(path) if path.is_file() else [from_file(file) for file in _audio_files(path)]
    limits = Limits(resamples=arguments.resamples, min_recordings=1)
    rows = []
    for name, speech in kinds.items():
        heap = listen_to(speech, baseline, None, np.inf)
        for size in (size for size in arguments.sizes if size < heap.recordings):
            rows.append({"speech": name, **alarms(heap, size, baseline, limits, arguments.draws, arguments.seed)})
            print(rows[-1], flush=True)
    return describe(PACKAGES) | {
        "seed": arguments.seed,
        "baseline": baseline.described(),
        "limits": dataclasses.asdict(limits),
        "draws": arguments.draws,
        "rows": rows,
    }


def alarms(heap: Heap, size: int, baseline: Baseline, limits: Limits, draws: int, seed: int) -> dict[str, Any]:
    """Of so many sets of ``size`` recordings, the share that is called drift, and the mean change of both figures."""
    rng = np.random.default_rng([seed, size])
    owners, names = np.array(heap.owners), sorted(set(heap.owners))
    drifted, changes = 0, []
    for draw in range(draws):
        chosen = np.flatnonzero(np.isin(owners, rng.choice(names, size, replace=False)))
        part = Heap([heap.pieces[place] for place in chosen], [heap.owners[place] for place in chosen])
        found = judged(part, baseline, dataclasses.replace(limits, seed=draw))
        drifted += found.drift
        changes.append([check.change for check in found.checks])
    means = dict(zip(CHECKS, np.mean(changes, axis=0).round(4).tolist(), strict=True))
    return {"recordings": size, "of": heap.recordings, "alarms": drifted, "mean_change": means}


def render(results: dict[str, Any]) -> str:
    """The block between the page's markers."""
    lines = ["<!-- monitor -->"]
    for name, of in results["corpora"].items():
        of_corpus = [row for row in results["rows"] if row["corpus"] == name]
        sizes = sorted({row["recordings"] for row in of_corpus})
        lines += [
            f"**{name}.** `{of['command']}` on {of['machine']['processor']}, torch {of['versions']['torch']}, seed"
            f" {of['seed']}; teacher {of['baseline']['teacher_id']}, layer {of['baseline']['layer']}; compared with"
            f" {of['baseline']['held_out_cuts']} held-out cuts and {of['baseline']['usage']}. Sets that are called"
            f" drift, of {of['draws']}, by their number of recordings:",
            "",
            "| speech | change of the error | usage beyond chance, bits | " + " | ".join(map(str, sizes)) + " |",
            "|---|---|---|" + "---|" * len(sizes),
        ]
        for speech in dict.fromkeys(row["speech"] for row in of_corpus):
            rows = {row["recordings"]: row for row in of_corpus if row["speech"] == speech}
            change = rows[max(rows)]["mean_change"]
            counts = " | ".join(str(rows[size]["alarms"]) if size in rows else "" for size in sizes)
            lines.append(f"| {speech} | {change[CHECKS[0]]:+.1%} | {change[CHECKS[1]]:.3f} | {counts} |")
        lines.append("")
    return "\n".join([*lines, "<!-- /monitor -->", ""])


def _test_split(root: Path) -> list[Recording]:
    cuts = load_cuts(load_artifact(root / "data", "cut-manifest", verify="size"), "test")
    return [Recording(str(cut.id), partial(load_audio, cut)) for cut in cuts]


def _changed(recordings: Sequence[Recording], change: Change, seed: int) -> list[Recording]:
    def read(number: int) -> Samples:
        return change(recordings[number].read(), np.random.default_rng([seed, number]))

    return [Recording(recording.id, partial(read, number)) for number, recording in enumerate(recordings)]


def _audio_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="The demo's prompts", help="of the corpus")
    parser.add_argument("--artifacts-dir", type=Path, default=ROOT / "artifacts")
    parser.add_argument("--quantizer", type=Path)
    parser.add_argument("--teacher-embeddings", type=Path)
    parser.add_argument("--codebook-indexes", type=Path, help="with --quantizer; else that of the artifacts")
    parser.add_argument("--test", type=Path, help="manifest of unseen speech of the same kind (the demo's test split)")
    parser.add_argument("--other", action="append", default=[], metavar="NAME=PATH", help="folder or manifest")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 50, 100])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render", action="store_true", help="only write the page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
