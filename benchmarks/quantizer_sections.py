"""The sections of the benchmark: which units they have and how a unit is measured."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import quantizer_worker as worker
from quantizer_codecs import (
    ENTRIES,
    ITERATIONS,
    Codec,
    Ours,
    Reference,
    ReferenceOfOurs,
    missing_package,
)
from quantizer_data import Vectors
from quantizer_peers import FAISS_PEERS, Faiss, ResidualVq
from quantizer_results import Row, Unit
from quantizer_worker import Fitted, Run, process

_LOG = logging.getLogger("benchmark")
MODES = ("exact", "best", "fast")
# A seed of the weights; the vectors have one of their own.
FIT_SEED = 0


@dataclass(frozen=True)
class Steps:
    """Both phases of a fit and the vectors a step; the reference wants multiples of four."""

    phase_1: int
    phase_2: int
    batch: int

    def ours(self, rates: tuple[float, float] | None) -> Ours:
        changes = {"phase_1_steps": self.phase_1, "phase_2_steps": self.phase_2, "batch_size": self.batch}
        named = dict(zip(("learning_rate", "phase_2_learning_rate"), rates or (), strict=False))
        return Ours(changes=(*changes.items(), *named.items()))

    def reference(self, rate: float) -> Reference:
        return Reference(self.phase_1, self.phase_2, self.batch, rate)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    error_vectors: int = 8192
    agreement_vectors: int = 20_480
    repetitions: int = 5
    timed_s: float = 1.0
    step_batch: int = 512
    steps_timed: int = 20
    train_steps: dict[str, Steps] = field(
        default_factory=lambda: {"a": Steps(160, 160, 256), "b": Steps(160, 160, 256), "c": Steps(100, 100, 128)}
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    # The trainer's default, and one that suits so few steps: the best of 0.005, 0.01, 0.02 and 0.04 on set a, where
    # 0.02 and 0.04 are equally good; 0.04 is the best on set b.
    reference_rates: tuple[float, ...] = (0.005, 0.04)
    # Of both phases; None: the default.
    our_rates: tuple[tuple[float, float] | None, ...] = (None,)
    reference: Reference = field(default_factory=Reference)
    ours_changes: tuple[tuple[str, Any], ...] = ()
    peers: tuple[Codec, ...] = (*FAISS_PEERS, ResidualVq())


QUICK_CHANGES = (("phase_1_steps", 8), ("phase_2_steps", 8), ("batch_size", 64))
QUICK = Scale(
    error_vectors=256,
    agreement_vectors=256,
    repetitions=2,
    timed_s=0.02,
    step_batch=32,
    steps_timed=4,
    train_steps=dict.fromkeys("abc", Steps(8, 8, 64)),
    seeds=(0, 1),
    reference=Reference(8, 8, 64),
    ours_changes=QUICK_CHANGES,
    peers=(Faiss("RQ", "RQ{M}x8"), Faiss("LSQ", "LSQ{M}x8", train_iterations=1), ResidualVq(epochs=1)),
)


@dataclass(frozen=True)
class Bench:
    """What all sections need: sizes, where fits are kept, thread counts, sets by their letters."""

    scale: Scale
    store: Path
    sets: dict[str, Vectors]

    @property
    def threads(self) -> list[int]:
        return sorted({1, len(os.sched_getaffinity(0))})

    def ours(self, mode: str = "exact", **changes: Any) -> Ours:
        return Ours(mode, changes=(*self.scale.ours_changes, *changes.items()))

    def of_ours(self) -> ReferenceOfOurs:
        return ReferenceOfOurs(changes=self.scale.ours_changes)

    def fitted(self, codec: Codec, vectors: Vectors, seed: int = FIT_SEED) -> Fitted:
        """A fit from the store, or else a new one, with one thread in a process of its own."""
        found = worker.find_fit(codec, vectors, seed, self.store)
        if found is None:
            _LOG.info("%s: fitting %s, seed %d", vectors.name, codec.name, seed)
            with process(1) as run:
                found = run(worker.fit, codec, vectors, seed, self.store)
        return found

    def settings(self, vectors: Vectors, codecs: Sequence[Codec], **others: Any) -> dict[str, Any]:
        chosen = [codec.fit_settings() | asdict(codec) for codec in codecs]
        return {"vectors": vectors.key, "codecs": chosen, **others}


def available(codecs: Sequence[Codec]) -> list[Codec]:
    """Those whose package is installed; the others are named in the log."""
    missing = {codec.name: package for codec in codecs if (package := missing_package(codec))}
    for name, package in missing.items():
        _LOG.warning("%s left out: %s is not installed (pip install -c constraints.txt -e '.[bench]')", name, package)
    return [codec for codec in codecs if codec.name not in missing]


def codes(bench: Bench) -> list[Unit]:
    """Are our codes the reference's?"""
    if not available([bench.of_ours()]):
        return []
    units = []
    for name, small in [("d", False), ("a", False), ("c", False), ("b", False), ("a", True)]:
        if name not in bench.sets:
            continue
        vectors = bench.sets[name]
        # Codebooks of 16 entries: two of them a byte.
        changes = {"codebook_size": 16, "num_codebooks": 2 * vectors.num_bytes} if small else {}
        codec, count = bench.ours(**changes), bench.scale.agreement_vectors

        def measure(vectors: Vectors = vectors, codec: Ours = codec, count: int = count) -> list[Row]:
            fit = bench.fitted(codec, vectors)
            with process(1) as run:
                return [run(worker.agreement, codec, fit.folder, vectors, count, ITERATIONS)]

        settings = bench.settings(vectors, [codec, bench.of_ours()], count=count)
        weight = count * vectors.num_bytes * vectors.dim
        units.append(Unit(f"{name}{'/16 entries' if small else ''}", name, settings, weight, measure))
    return units


def encode(bench: Bench) -> list[Unit]:
    """How fast and in how much memory do we encode, where is the limit, and where does the time go?"""
    codecs = available([bench.of_ours(), *(bench.ours(mode) for mode in MODES)])
    units = []
    for name in "acb":
        if name not in bench.sets:
            continue

        def measure(vectors: Vectors = bench.sets[name]) -> list[Row]:
            fits = [bench.fitted(codec, vectors) for codec in codecs]
            rows = _side_by_side(bench, vectors, fits, bench.of_ours().name)
            exact = next(fit for fit in fits if fit.codec == bench.ours())
            return [*rows, _limits(bench, vectors, exact, rows)]

        settings = bench.settings(bench.sets[name], codecs, scale=_timing(bench.scale))
        units.append(Unit(name, name, settings, bench.sets[name].dim, measure))
    return units


def train(bench: Bench) -> list[Unit]:
    """How long is a training step, and what error do equal steps on equal data give?"""
    units = []
    if not available([bench.scale.reference]):
        return []
    for name in "abc":
        if name not in bench.sets:
            continue
        vectors, steps = bench.sets[name], bench.scale.train_steps[name]
        for phase in (1, 2):
            units.append(_step_unit(bench, vectors, phase))
        for seed in bench.scale.seeds:
            codecs: list[Ours | Reference] = [steps.ours(rates) for rates in bench.scale.our_rates]
            codecs += [steps.reference(rate) for rate in bench.scale.reference_rates]
            units += [_error_unit(bench, vectors, codec, steps, seed) for codec in codecs]
    return units


def quality(bench: Bench) -> list[Unit]:
    """All codecs at equal bytes."""
    units = []
    peers = [bench.scale.reference, bench.of_ours(), *bench.scale.peers]
    codecs = available([*(bench.ours(mode) for mode in MODES), *peers])
    for name in "abc":
        if name not in bench.sets:
            continue

        def measure(vectors: Vectors = bench.sets[name]) -> list[Row]:
            fits = [bench.fitted(codec, vectors) for codec in codecs]
            return _side_by_side(bench, vectors, fits, bench.scale.reference.name)

        settings = bench.settings(bench.sets[name], codecs, scale=_timing(bench.scale))
        units.append(Unit(name, name, settings, bench.sets[name].dim * bench.sets[name].num_bytes, measure))
    return units


SECTIONS = {"codes": codes, "encode": encode, "train": train, "quality": quality}


def _timing(scale: Scale) -> list[Any]:
    return [scale.error_vectors, scale.repetitions, scale.timed_s]


def _step_unit(bench: Bench, vectors: Vectors, phase: int) -> Unit:
    scale = bench.scale

    def measure() -> list[Row]:
        with process(1) as run:
            arguments = (vectors, scale.step_batch, phase, scale.repetitions, scale.steps_timed)
            seconds = run(worker.step_seconds, *arguments)
        row: Row = {"kind": "step", "phase": phase, "batch": scale.step_batch, "seconds": seconds}
        row |= {f"{who}_s": statistics.median(pair[who] for pair in seconds) for who in ("ours", "reference")}
        ratios = [pair["reference"] / pair["ours"] for pair in seconds]
        return [row | {"ratio": statistics.median(ratios), "repetitions": scale.repetitions}]

    settings = bench.settings(vectors, [Ours(), scale.reference], batch=scale.step_batch, steps=scale.steps_timed)
    return Unit(f"step/{vectors.name}/{phase}", vectors.name, settings, vectors.dim * vectors.num_bytes / 64, measure)


def _error_unit(bench: Bench, vectors: Vectors, codec: Ours | Reference, steps: Steps, seed: int) -> Unit:
    count = bench.scale.error_vectors

    def measure() -> list[Row]:
        fit = bench.fitted(codec, vectors, seed)
        with process(1) as run:
            error = run(worker.relative_error, codec, fit.folder, vectors, count)
        row: Row = {"kind": "error", "trainer": trainer, "seed": seed, "steps": [steps.phase_1, steps.phase_2]}
        row |= {"batch": steps.batch, "relative_error": error, "vectors": count, "fit_cpu_s": fit.cpu_s}
        return [row | {"learning_rates": list(codec.learning_rates)}]

    trainer, slow = ("reference", 1.0) if isinstance(codec, Reference) else ("ours", 0.1)
    name = f"error/{vectors.name}/{trainer} at {codec.learning_rates[0]:g}, {codec.learning_rates[1]:g}/seed {seed}"
    # Their steps and the vectors encoded afterwards cost about the same each.
    work = slow * vectors.dim * vectors.num_bytes * ((steps.phase_1 + steps.phase_2) * steps.batch + count)
    settings = bench.settings(vectors, [codec], seed=seed, count=count)
    return Unit(name, vectors.name, settings, work / 1e6, measure, timed=False)


def _side_by_side(bench: Bench, vectors: Vectors, fits: list[Fitted], base: str) -> list[Row]:
    """Errors, memory, and speeds timed in turns: every repetition goes once through all codecs and thread counts."""
    scale = bench.scale
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {}
    peaks: dict[str, float | None] = {}
    errors: dict[str, float] = {}
    for fit in fits:
        _LOG.info("%s: memory of %s", vectors.name, fit.codec.name)
        with process(1) as run:
            peaks[fit.codec.name] = run(worker.peak_bytes, fit.codec, fit.folder, vectors)
    with process(bench.threads[0]) as one, process(bench.threads[-1]) as all_threads:
        runs = {bench.threads[0]: one, bench.threads[-1]: all_threads}
        counts = {fit.codec.name: _count(one, fit, vectors, scale) for fit in fits}
        for fit in fits:
            _LOG.info("%s: error of %s", vectors.name, fit.codec.name)
            all_threads(worker.warm_up, fit.codec, fit.folder, vectors)
            # One thread: the reference gains nothing from more.
            errors[fit.codec.name] = one(worker.relative_error, fit.codec, fit.folder, vectors, scale.error_vectors)
        for repetition in range(scale.repetitions):
            _LOG.info("%s: timing, repetition %d of %d", vectors.name, repetition + 1, scale.repetitions)
            for fit in fits:
                for threads, run in runs.items():
                    arguments = (fit.codec, fit.folder, vectors, counts[fit.codec.name])
                    seconds.setdefault((fit.codec.name, threads), []).append(run(worker.encode_seconds, *arguments))
    rows = []
    for fit in fits:
        name, count = fit.codec.name, counts[fit.codec.name]
        times = {threads: seconds[name, threads] for threads in runs}
        row: Row = {
            "codec": name,
            "package": fit.codec.package,
            "budget": fit.codec.budget,
            "fit_cpu_s": fit.cpu_s,
            "relative_error": errors[name],
            "error_vectors": scale.error_vectors,
            "batch": fit.codec.batch,
            "peak_bytes_per_vector": peaks[name],
            "vectors_timed": count,
            "repetitions": scale.repetitions,
            "seconds": {str(threads): [wall for wall, _ in pairs] for threads, pairs in times.items()},
            "vectors_per_s": {
                str(threads): count / statistics.median(wall for wall, _ in pairs) for threads, pairs in times.items()
            },
            "cpu_per_wall": {
                str(threads): statistics.median(cpu / wall for wall, cpu in pairs) for threads, pairs in times.items()
            },
        }
        if (base, bench.threads[0]) in seconds:
            row["base"] = base
            row["error_to_base"] = errors[name] / errors[base]
            row["speed_to_base"] = {
                str(threads): statistics.median(
                    (theirs / counts[base]) / (own / count)
                    for (theirs, _), (own, _) in zip(seconds[base, threads], pairs, strict=True)
                )
                for threads, pairs in times.items()
            }
        rows.append(row)
    return rows


def _count(run: Run, fit: Fitted, vectors: Vectors, scale: Scale) -> int:
    """As many vectors as take about ``timed_s`` with one thread, or all that there are."""
    run(worker.warm_up, fit.codec, fit.folder, vectors)
    count, most = worker.WARM_UP_VECTORS, int(vectors.facts["held_out_vectors"])
    while True:
        wall, _ = run(worker.encode_seconds, fit.codec, fit.folder, vectors, count)
        # A trial much shorter than that is mostly overhead: another one follows.
        enough, count = wall > scale.timed_s / 4, int(count * scale.timed_s / wall)
        if enough or count >= most:
            return max(worker.WARM_UP_VECTORS, min(most, count))


def _limits(bench: Bench, vectors: Vectors, fit: Fitted, rows: list[Row]) -> Row:
    """Arithmetic limit of the two matrix products that every encode needs, and what our encode spends its time in."""
    ours = next(row for row in rows if row["codec"] == fit.codec.name)
    flops = 2 * 2 * vectors.dim * vectors.num_bytes * ENTRIES
    row: Row = {"codec": "limit", "gflops": {}, "vectors_per_s": {}, "share_reached": {}}
    for threads in bench.threads:
        with process(threads) as run:
            run(worker.gemm_seconds)
            times = [run(worker.gemm_seconds) for _ in range(bench.scale.repetitions)]
            rate = 2 * worker.GEMM_SIZE**3 / statistics.median(times)
            row["gflops"][str(threads)] = rate / 1e9
            row["vectors_per_s"][str(threads)] = rate / flops
            row["share_reached"][str(threads)] = ours["vectors_per_s"][str(threads)] * flops / rate
    # A profile sees the calling thread only.
    with process(1) as run:
        run(worker.warm_up, fit.codec, fit.folder, vectors)
        row["profile"] = run(worker.encode_profile, fit.codec, fit.folder, vectors, ours["vectors_timed"])
    with process(max(bench.threads)) as run:
        arguments = (fit.codec, fit.folder, vectors, bench.scale.error_vectors, ITERATIONS)
        row["passes"] = run(worker.passes_until_fixed, *arguments)
    return row
