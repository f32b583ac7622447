"""Measurements, each made in a process whose thread count was settled before any library was loaded.

``process`` opens one; the other functions run inside.
"""

from __future__ import annotations

import contextlib
import cProfile
import ctypes
import gc
import json
import logging
import multiprocessing
import os
import pstats
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mvqkd.artifacts import content_hash, write_json

Run = Callable[..., Any]
_ENVIRONMENT = threading.Lock()
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
WARM_UP_VECTORS = 64
GEMM_SIZE = 2048
# Vectors at a time, beside the reference's usual number: neither divides the other.
OTHER_BLOCK = 5
# What ``Quantizer.encode`` spends its time in, by the functions that do it.
ENCODE_STEPS = {"first choice": "first_choice", "energies": "unary_energy", "passes": "search"}


@contextlib.contextmanager
def process(threads: int) -> Iterator[Run]:
    """A fresh process that computes with ``threads`` threads; yields a function that calls others inside it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        # It starts with the first call, and must do so while the environment says what it should.
        with _ENVIRONMENT:
            before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
            try:
                pool.submit(os.getpid).result()
            finally:
                for name, value in before.items():
                    os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _start(threads: int) -> None:
    log_to_stderr()
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):
        import faiss

        faiss.omp_set_num_threads(threads)


def log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("mvqkd.progress").setLevel(logging.INFO)
    logging.getLogger("benchmark").setLevel(logging.INFO)


@dataclass(frozen=True)
class Fitted:
    """A fitted codec on disk."""

    codec: Any
    folder: Path
    cpu_s: float
    wall_s: float


def find_fit(codec: Any, vectors: Any, seed: int, store: Path) -> Fitted | None:
    """A fit of the same settings, code and vectors that is in the store."""
    folder = _fit_folder(codec, vectors, seed, store)
    if not (folder / "facts.json").is_file():
        return None
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Fitted(codec, folder, facts["cpu_s"], facts["wall_s"])


def fit(codec: Any, vectors: Any, seed: int, store: Path) -> Fitted:
    """Fit a codec and put it into the store."""
    folder = _fit_folder(codec, vectors, seed, store)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = vectors.to_fit()
    codec.before_fit(data, vectors.num_bytes)
    cpu, wall = time.process_time(), time.perf_counter()
    model = codec.fit(data, vectors.num_bytes, seed)
    times = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    codec.save(model, folder)
    # Last: its presence says that the fit is whole.
    write_json(folder / "facts.json", {"codec": codec.name, "set": vectors.name, "seed": seed, **times})
    return Fitted(codec, folder, **times)


def _fit_folder(codec: Any, vectors: Any, seed: int, store: Path) -> Path:
    key = content_hash({"fit": codec.fit_settings(), "vectors": vectors.key, "seed": seed})
    return store / "fits" / key[:24]


@cache
def _model(codec: Any, folder: Path) -> Any:
    return codec.load(folder)


@cache
def _all_held_out(vectors: Any) -> Any:
    return vectors.held_out()


def _held_out(vectors: Any, count: int) -> Any:
    return _all_held_out(vectors)[:count]


def _encode(codec: Any, model: Any, data: Any) -> Any:
    import numpy as np

    parts = [codec.encode(model, data[start : start + codec.batch]) for start in range(0, len(data), codec.batch)]
    return np.concatenate(parts)


def encode_seconds(codec: Any, folder: Path, vectors: Any, count: int) -> tuple[float, float]:
    """Wall and CPU seconds to encode the first held-out vectors."""
    model, data = _model(codec, folder), _held_out(vectors, count)
    cpu, wall = time.process_time(), time.perf_counter()
    _encode(codec, model, data)
    return time.perf_counter() - wall, time.process_time() - cpu


def warm_up(codec: Any, folder: Path, vectors: Any) -> None:
    """Load, compile, build tables: what only the first call pays."""
    _encode(codec, _model(codec, folder), _held_out(vectors, WARM_UP_VECTORS))


def relative_error(codec: Any, folder: Path, vectors: Any, count: int) -> float:
    """sum |x - x'|^2 / sum |x - mean|^2 over held-out vectors, in float64."""
    model, data = _model(codec, folder), _held_out(vectors, count)
    codes = _encode(codec, model, data)
    assert codes.nbytes == count * vectors.num_bytes, "all codecs are compared at equal bytes"
    error = data - codec.decode(model, codes)
    spread = data - data.mean(0, dtype="float64")
    return float((error.astype("float64") ** 2).sum() / (spread**2).sum())


def peak_bytes(codec: Any, folder: Path, vectors: Any) -> float | None:
    """Peak resident bytes a vector above those before ``encode``, at the codec's batch; None where Linux hides them."""
    warm_up(codec, folder, vectors)
    data = _held_out(vectors, codec.batch)
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status_bytes("VmRSS")
        codec.encode(_model(codec, folder), data)
        return (_status_bytes("VmHWM") - before) / len(data)
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def gemm_seconds() -> float:
    """Wall seconds of a float32 product of two square matrices of ``GEMM_SIZE``."""
    import torch

    a, b = torch.ones(GEMM_SIZE, GEMM_SIZE), torch.ones(GEMM_SIZE, GEMM_SIZE)
    wall = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - wall


def encode_profile(codec: Any, folder: Path, vectors: Any, count: int) -> dict[str, float]:
    """Shares of the time of our encode that its steps take."""
    model, data = _model(codec, folder), _held_out(vectors, count)
    profile = cProfile.Profile()
    profile.runcall(_encode, codec, model, data)
    stats: dict[Any, Any] = pstats.Stats(profile).stats
    seconds = {
        step: sum(entry[3] for (file, _, name), entry in stats.items() if name == function and "mvqkd" in file)
        for step, function in ENCODE_STEPS.items()
    }
    unknown = [step for step, spent in seconds.items() if not spent]
    assert not unknown, f"ENCODE_STEPS no longer names what encode calls: {', '.join(unknown)}"
    total = next(entry[3] for (_, _, name), entry in stats.items() if name == _encode.__name__)
    shares = {step: spent / total for step, spent in seconds.items()}
    return shares | {"rest": 1 - sum(shares.values())}


def passes_until_fixed(codec: Any, folder: Path, vectors: Any, count: int, most: int) -> dict[str, Any]:
    """How many refine passes a vector takes until one changes nothing, that one included, ``most`` at most.

    Returns:
        mean over the vectors, and for each number of passes the share of vectors that are done after it.
    """
    import numpy as np

    model, data = _model(codec, folder), _held_out(vectors, count)
    done_after = np.full(count, most)
    before = codec.__class__(iterations=0).encode(model, data)
    for passes in range(1, most + 1):
        after = codec.__class__(iterations=passes).encode(model, data)
        done_after = np.where((after == before).all(1) & (done_after > passes), passes, done_after)
        before = after
    shares = [float((done_after <= passes).mean()) for passes in range(1, most)]
    return {"mean": float(done_after.mean()), "share_done_after": shares}


def agreement(ours: Any, folder: Path, vectors: Any, count: int, iterations: int) -> dict[str, Any]:
    """Compare our codes with the public implementation's own, both with the same weights and the same input.

    Vectors whose codes differ are judged in float64: ``same_in_float64`` counts those for which both searches then give
    the same, so that rounding alone made the difference; ``tied_in_float64`` those of the others whose codes stand for
    the same vector: entries that fitting never used end as zero, and which of two such is named means nothing.
    ``float64_is_ours`` and ``float64_is_theirs`` count those for which the reference's float64 codes are what ours, and
    what the reference, gave in float32. ``itself_different`` counts the vectors for which the reference differs from
    itself when it is given blocks of another size, which changes the order of its sums and nothing else.
    """
    import torch

    from mvqkd.progress import Progress
    from mvqkd.quantizer.interop import from_multi_quantization, to_multi_quantization
    from mvqkd.quantizer.precise import encode_precisely
    from quantizer_codecs import Reference, reference_of

    state = to_multi_quantization(_model(ours, folder), normalized_input=True)
    reference, imported = reference_of(state), from_multi_quantization(state)
    data = torch.from_numpy(_held_out(vectors, count))
    with Progress(f"reference, set {vectors.name}", total=2 * count, unit="vector") as progress, torch.inference_mode():

        def encoded(block_size: int) -> Any:
            codes = []
            for block in data.split(block_size):
                codes.append(reference.encode(block, refine_indexes_iters=iterations, as_bytes=False))
                progress.advance(len(block))
            return torch.cat(codes)

        indexes, regrouped = encoded(Reference.block), encoded(OTHER_BLOCK)
    itself_different = int((indexes != regrouped).any(1).sum())
    own = imported.encode(data, "exact", iterations).long()
    different = (own != indexes).any(1)
    own, indexes, rows = own[different], indexes[different], data[different]
    reference.double()
    with torch.inference_mode():
        blocks = [reference.encode(row[None].double(), iterations, as_bytes=False) for row in rows]
    precise = torch.cat([indexes[:0], *blocks])
    precise_own = encode_precisely(imported, rows, iterations)
    same = (precise_own == precise).all(1)
    decoded, decoded_own = (imported.decode(codes[~same]) for codes in (precise, precise_own))
    tied = (decoded - decoded_own).norm(dim=1) <= 1e-6 * decoded.norm(dim=1)

    def equal(codes: Any) -> int:
        return int((codes == precise).all(1).sum())

    return {
        "vectors": count,
        "block": Reference.block,
        "other_block": OTHER_BLOCK,
        "itself_different": itself_different,
        "different": len(rows),
        "same_in_float64": int(same.sum()),
        "tied_in_float64": int(tied.sum()),
        "float64_is_ours": equal(own),
        "float64_is_theirs": equal(indexes),
        "num_codebooks": imported.num_codebooks,
        "codebook_size": imported.codebook_size,
        "dim": imported.dim,
        "iterations": iterations,
    }


def step_seconds(vectors: Any, batch: int, phase: int, repetitions: int, steps: int) -> list[dict[str, float]]:
    """Wall seconds of a training step, ours and the reference's in turn; each the mean of one and of two passes."""
    data = vectors.to_fit(16 * batch)
    theirs, ours = _reference_steps(data, vectors.num_bytes, batch, phase), _our_steps(data, vectors, batch, phase)
    ours(steps), theirs()  # warm up
    return [{"reference": theirs(), "ours": ours(steps)} for _ in range(repetitions)]


def _reference_steps(data: Any, num_bytes: int, batch: int, phase: int) -> Any:
    import torch
    from multi_quantization import QuantizerTrainer

    # A phase of 4 steps, then one with no end; step 0 also computes losses for its log, so it is not timed.
    phases = {1: (4_000, 4_000), 2: (4, 4_000)}[phase]
    torch.manual_seed(0)
    trainer = QuantizerTrainer(data.shape[1], num_bytes, torch.device("cpu"), *phases)
    x = torch.from_numpy(data[:batch])
    for _ in range(6 if phase == 2 else 1):
        trainer.step(x)

    def timed() -> float:
        times = []
        for two_passes in (0.0, 1.0):
            trainer.two_iter_prob = two_passes
            wall = time.perf_counter()
            trainer.step(x)
            times.append(time.perf_counter() - wall)
        return statistics.fmean(times)

    return timed


def _our_steps(data: Any, vectors: Any, batch: int, phase: int) -> Any:
    """Time of a step as the difference between a longer and a shorter fit: nothing but ``fit`` itself is called."""
    from quantizer_codecs import Ours

    def seconds(steps: int) -> float:
        phases = {1: (steps, 0), 2: (4, steps)}[phase]
        changes = {"phase_1_steps": phases[0], "phase_2_steps": phases[1], "batch_size": batch}
        wall = time.perf_counter()
        Ours(changes=tuple(changes.items())).fit(data, vectors.num_bytes, 0)
        return time.perf_counter() - wall

    def timed(steps: int) -> float:
        short = 4
        return (seconds(short + steps) - seconds(short)) / steps

    return timed
