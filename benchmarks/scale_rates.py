"""What the figures of scale.py rest on, measured here with one thread: shards, starts, the plan, merging.

Everything is the tool's own: shards are encoded by the class that encode-ci uses, with its parts timed; starts are
those of real ``mvqkd encode-ci`` processes; parts of a large artifact are merged by ``merge``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from scale_plan import SPEEDS, TEACHER_HZ

SHARD_AUDIO_S = 60.0
ENCODE_BUDGET_S = 75.0
PLAN_CUTS = 20_000
# A process's peak is never below the memory of the one that started it: hence a small one between.
_LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
cpu_s = usage.ru_utime + usage.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - started, cpu_s, usage.ru_maxrss]))
os._exit(0)
"""
MERGE_PARTS, MERGE_PART_BYTES, MERGE_CUT_FRAMES, MERGE_FRAME_BYTES = 4, 2**25, 600, 8


def measure(data: Path, embeddings: Path, quantizer: Path, seed: int) -> dict[str, Any]:
    """All rates; two to three minutes on an idle core."""
    with tempfile.TemporaryDirectory(prefix="mvqkd-scale-") as scratch:
        inputs = (data.resolve(), embeddings.resolve(), quantizer.resolve())
        encode = _alone(_encode_shards, *inputs, Path(scratch), seed)
        print(f"encode: {len(encode['shards'])} shards", flush=True)
        start = _starts(inputs, Path(scratch), encode["median_s_per_audio_s"])
        print(f"start: {start}", flush=True)
        merge = _alone(_merge_parts, Path(scratch), seed)
        merge["open_bytes_per_cut"] = _alone(_open_bytes_per_cut, Path(scratch) / "merged")
        print(f"merge: {merge}", flush=True)
    return {"encode": encode, "start": start, "merge": merge}


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a fresh process with one thread, so that neither memory nor threads of the caller show."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class _Timed:
    """Passes calls on to a teacher or a codec and adds up the seconds that they take."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.seconds = inner, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = value(*arguments)
            self.seconds += time.perf_counter() - started
            return result

        return timed


def _encode_shards(data: Path, embeddings: Path, quantizer: Path, scratch: Path, seed: int) -> dict[str, Any]:
    """Encode shards in random order until the budget is spent; a row a shard."""
    import torch

    torch.set_num_threads(1)
    from mvqkd.codebook.shard_encoder import ShardEncoder
    from mvqkd.config import EncodeCiConfig
    from mvqkd.data.cuts import load_cuts, speed_copies
    from mvqkd.quantizer import Quantizer
    from mvqkd.teacher.extract import teacher_of

    config = EncodeCiConfig(speeds=list(SPEEDS), device="cpu")
    source = load_artifact(embeddings, "teacher-embeddings", verify="size")
    codec_artifact = load_artifact(quantizer, "quantizer")
    teacher, codec = _Timed(teacher_of(source, "cpu")), _Timed(Quantizer.load(codec_artifact.path, "cpu"))
    iterations = int(codec_artifact.facts["refine_iterations"])
    encoder: Any = ShardEncoder(teacher, codec, config.mode, iterations, config.batch_duration_s)
    cuts = speed_copies(load_cuts(load_artifact(data, "cut-manifest", verify="size"), "train"), SPEEDS)
    shards = list(_by_audio(list(cuts)))
    random.Random(seed).shuffle(shards)
    rows: list[dict[str, float]] = []
    until = time.monotonic() + ENCODE_BUDGET_S
    for number, shard in enumerate([shards[0], *shards]):  # the first one twice: it also compiles and warms up
        teacher.seconds = codec.seconds = 0.0
        started, cpu = time.perf_counter(), time.process_time()
        for _ in encoder.encode(scratch, number, shard):
            pass
        total = time.perf_counter() - started
        rows.append(
            {
                "cuts": len(shard),
                "audio_s": round(sum(cut.duration for cut in shard), 3),
                "total_s": round(total, 4),
                "cpu_s": round(time.process_time() - cpu, 4),
                "teacher_s": round(teacher.seconds, 4),
                "codec_s": round(codec.seconds, 4),
            }
        )
        if time.monotonic() > until:
            break
    del rows[0]
    return {
        "teacher_id": source.facts["teacher_id"],
        "layer": source.facts["layer"],
        "dim": source.facts["dim"],
        "rate_hz": source.facts["rate_hz"],
        "codec_bytes": codec_artifact.facts["bytes_per_frame"],
        "mean_cut_s": round(sum(row["audio_s"] for row in rows) / sum(row["cuts"] for row in rows), 3),
        "of_shards": len(shards),
        "median_s_per_audio_s": float(np.median([row["total_s"] / row["audio_s"] for row in rows])),
        "shards": rows,
    }


def _by_audio(cuts: Sequence[Any]) -> Iterator[list[Any]]:
    """Shards of about equal audio: the rate of each then counts alike."""
    shard: list[Any] = []
    for cut in cuts:
        shard.append(cut)
        if sum(one.duration for one in shard) >= SHARD_AUDIO_S:
            yield shard
            shard = []


def _starts(inputs: tuple[Path, Path, Path], scratch: Path, s_per_audio_s: float) -> dict[str, Any]:
    """Time and memory of a process of encode-ci beside its work, and what each cut of the corpus adds to them."""
    small = load_artifact(inputs[0], "cut-manifest", verify="size")
    large = _large_manifest(small, scratch / "manifest")
    few = [_start(small, inputs, scratch / "few", s_per_audio_s) for _ in range(5)]
    many = [_start(large, inputs, scratch / "many", s_per_audio_s) for _ in range(2)]
    added = PLAN_CUTS - small.facts["splits"]["train"]
    # Both encode the same cuts. CPU time, because the difference is small beside what else a machine may be doing.
    less, more = ({name: min(run[name] for run in runs) for name in ("cpu_s", "peak_bytes")} for runs in (few, many))
    return {
        "runs_s": [round(run["start_s"], 3) for run in few],
        "start_s": round(float(np.median([run["start_s"] for run in few])), 3),
        "peak_bytes": less["peak_bytes"],
        "plan_cuts": PLAN_CUTS,
        "plan_s_per_cut": (more["cpu_s"] - less["cpu_s"]) / added,
        "plan_bytes_per_cut": (more["peak_bytes"] - less["peak_bytes"]) / added,
    }


def _start(data: Artifact, inputs: tuple[Path, Path, Path], out: Path, s_per_audio_s: float) -> dict[str, float]:
    """One rank that has a single shard; its work at the measured rate is taken off."""
    cuts = data.facts["splits"]["train"] * len(SPEEDS)
    shard_cuts = 20
    command = [sys.executable, "-m", "mvqkd", "encode-ci", "--data", data.path, "--teacher-embeddings", inputs[1]]
    command += ["--quantizer", inputs[2], "--out", out, "--speeds", ",".join(map(str, SPEEDS)), "--device", "cpu"]
    command += ["--shard-cuts", str(shard_cuts), "--rank", "0", "--world-size", str(-(-cuts // shard_cuts))]
    launched = subprocess.run(
        [sys.executable, "-c", _LAUNCH, *map(str, command)],
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    code, wall_s, cpu_s, peak_kib = json.loads(launched.stdout)
    assert code == 0, command
    (part,) = out.parent.glob(f"{out.name}-0-of-*")
    artifact = load_artifact(part, "codebook-indexes")
    audio_s = artifact.facts["num_frames"] / TEACHER_HZ
    for path in sorted(part.iterdir()):
        path.unlink()
    part.rmdir()
    return {"start_s": wall_s - audio_s * s_per_audio_s, "cpu_s": cpu_s, "peak_bytes": peak_kib * 1024}


def _large_manifest(small: Artifact, out: Path) -> Artifact:
    """A cut-manifest of many cuts that share the small one's recordings."""
    from mvqkd.data.cuts import cuts_file, load_cuts, write_cuts

    partial = PartialArtifact(out, "cut-manifest", stage="prepare-data", config={})
    cuts = list(load_cuts(small, "train"))
    copies = (cuts[number % len(cuts)].with_id(f"{number:09d}") for number in range(PLAN_CUTS))
    write_cuts(partial.path / cuts_file("train"), copies)
    return partial.commit(facts={**small.facts, "splits": {"train": PLAN_CUTS}})


def _merge_parts(scratch: Path, seed: int) -> dict[str, Any]:
    """Merge parts of random indexes and verify the result; by bytes and by cuts."""
    from mvqkd.codebook.merge import merge

    parts = [_part(scratch / f"part-{rank}", rank, seed) for rank in range(MERGE_PARTS)]
    started = time.perf_counter()
    merged = merge(parts, scratch / "merged")
    merged_s = time.perf_counter() - started
    started = time.perf_counter()
    num_cuts = load_artifact(merged.path).facts["num_cuts"]
    verified_s = time.perf_counter() - started
    num_bytes = MERGE_PARTS * MERGE_PART_BYTES
    return {
        "bytes": num_bytes,
        "cuts": num_cuts,
        "merge_bytes_per_s": round(num_bytes / merged_s),
        "verify_bytes_per_s": round(num_bytes / verified_s),
        "index_bytes_per_cut": round((merged.path / "index.json").stat().st_size / num_cuts, 2),
    }


def _part(out: Path, rank: int, seed: int) -> Path:
    from mvqkd.codebook.store import Shard, write_index

    frames = MERGE_PART_BYTES // MERGE_FRAME_BYTES
    cuts = [MERGE_CUT_FRAMES] * (frames // MERGE_CUT_FRAMES)
    cuts[-1] += frames - sum(cuts)
    shard = Shard(rank, [(f"{rank:02d}-{number:09d}-sp1.1", length) for number, length in enumerate(cuts)])
    partial = PartialArtifact(out, "codebook-indexes", stage="encode-ci", config={"seed": seed})
    codes = np.random.default_rng([seed, rank]).integers(0, 256, (frames, MERGE_FRAME_BYTES), dtype=np.uint8)
    np.save(partial.path / shard.file, codes)
    write_index(partial.path, [shard])
    facts = {"num_codebooks": MERGE_FRAME_BYTES, "codebook_size": 256, "bytes_per_frame": MERGE_FRAME_BYTES, "dim": 1}
    facts |= {"num_shards": MERGE_PARTS, "num_cuts": len(cuts), "num_frames": frames, "frame_offsets": [0, 0]}
    figures = {"squared_error": 0.0, "squared_norm": 1.0, "encode_s": 1.0}
    return partial.commit(facts={**facts, "rank": rank, "world_size": MERGE_PARTS}, figures=figures).path


def _open_bytes_per_cut(path: Path) -> float:
    from mvqkd.codebook.store import CodebookIndexStore

    before = _resident_bytes()
    store = CodebookIndexStore.open(path)
    return round((_resident_bytes() - before) / len(store), 1)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
