"""The codec on a CUDA device: speed of encode, the kernels' shares, and whether the indexes are those of the CPU.

    python benchmarks/quantizer_gpu.py

fits a quantizer of 8 and one of 16 codebooks to synthetic vectors on the device, a minute or two together, and writes
benchmarks/results/quantizer_gpu.json. Vectors lie in the device's memory before and their indexes after. Times are
medians of repeated calls, after one that compiles and warms up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from environment import describe
from mvqkd.artifacts import write_json
from mvqkd.config import FitQuantizerConfig
from mvqkd.quantizer import Quantizer, triton_search
from mvqkd.quantizer.fit import fit
from mvqkd.quantizer.plain_search import refine_plain
from mvqkd.quantizer.tables import unary_energy
from mvqkd.quantizer.triton_search import agrees_with_plain, refine_triton, triton_available

RESULTS = Path(__file__).resolve().parent / "results" / "quantizer_gpu.json"
SIZES = ((512, 8), (1024, 16))
ITERATIONS = 5
# Relative difference of two squared errors that float32 sums in another order explain.
TIE = 1e-5
LATENT_DECAY = 0.65


@dataclass(frozen=True)
class Counts:
    """Vectors of each part of the measurement, and repetitions."""

    fit: int = 65_536
    compared: int = 20_000
    encoded: int = 262_144
    refined: int = 65_536
    repeats: int = 5


def synthetic(dim: int, count: int, device: torch.device, seed: int) -> Tensor:
    """float32 (count, dim): power-law latents through a random layer with a ReLU and a random linear one."""
    generator = torch.Generator(device).manual_seed(0)
    layers = [torch.randn(shape, generator=generator, device=device) for shape in ((dim, 2 * dim), (2 * dim, dim))]
    deviations = torch.arange(1, dim + 1, device=device) ** -LATENT_DECAY
    deviations /= deviations.norm()
    generator.manual_seed(seed)
    out = torch.empty(count, dim, device=device)
    for block in out.split(8192):
        latents = torch.randn(block.shape, generator=generator, device=device) * deviations
        block.copy_((latents @ layers[0]).relu() @ layers[1])
    return out


def median_s(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Wall time until the device has finished, after one call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def compare_with_cpu(quantizer: Quantizer, x: Tensor) -> dict[str, Any]:
    """Codes of the device beside those of the CPU, and whether they differ by more than ties."""
    on_cpu = deepcopy(quantizer).cpu()
    vectors = x.cpu()
    expected = on_cpu.encode(vectors, "exact", ITERATIONS)
    found = quantizer.encode(x, "exact", ITERATIONS).cpu()
    errors = [(vectors - on_cpu.decode(codes)).double().square().sum(1) for codes in (expected, found)]
    differs = (expected != found).any(1)
    tied = (errors[1] - errors[0]).abs() <= TIE * errors[0]
    variation = float((vectors - vectors.mean(0)).double().square().sum())
    return {
        "vectors": len(x),
        "identical_vectors": float((~differs).double().mean()),
        "identical_indexes": float((expected == found).double().mean()),
        "different_with_equal_error": int((differs & tied).sum()),
        "different_with_other_error": int((differs & ~tied).sum()),
        "relative_error_cpu": float(errors[0].sum()) / variation,
        "relative_error_device": float(errors[1].sum()) / variation,
    }


def encode_speed(quantizer: Quantizer, x: Tensor, repeats: int) -> dict[str, float]:
    """Vectors a second from embeddings to indexes, by mode."""
    return {
        mode: len(x) / median_s(lambda mode=mode: quantizer.encode(x, mode, ITERATIONS), x.device, repeats)
        for mode in ("exact", "fast")
    }


def refine_speed(quantizer: Quantizer, x: Tensor, repeats: int) -> list[dict[str, Any]]:
    """Vectors a second of the refine passes alone, the kernels beside plain torch on the same device."""
    tables = quantizer.tables()
    unary = unary_energy(quantizer.normalize(x), tables)
    first = unary.view(len(x), tables.num_codebooks, tables.codebook_size).argmin(2)
    order = torch.arange(tables.num_codebooks, device=x.device)

    def speed(refine: Callable[..., Tensor]) -> float:
        call = lambda: refine(unary, first, tables, ITERATIONS, keep_best=False, order=order)  # noqa: E731
        return len(x) / median_s(call, x.device, repeats)

    rows: list[dict[str, Any]] = [{"search": "plain torch", "vectors_per_s": speed(refine_plain)}]
    chosen = triton_search.TILE_OF_A_WARP
    for tile in (256, 512, 1024):
        triton_search.TILE_OF_A_WARP = tile
        rows.append({"search": "triton", "tile_of_a_warp": tile, "vectors_per_s": speed(refine_triton)})
    triton_search.TILE_OF_A_WARP = chosen
    return rows


def kernel_shares(quantizer: Quantizer, x: Tensor) -> list[dict[str, Any]]:
    """What one encode spends its time on the device with, the largest first."""
    quantizer.encode(x, "exact", ITERATIONS)
    _wait(x.device)
    cuda = x.is_cuda
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        quantizer.encode(x, "exact", ITERATIONS)
        _wait(x.device)
    events = profiler.key_averages()
    times = {e.key: e.self_device_time_total if cuda else e.self_cpu_time_total for e in events}
    total = sum(times.values())
    largest = sorted(times, key=times.__getitem__, reverse=True)[:15]
    return [
        {"kernel": key[:100], "share": times[key] / total, "ns_per_vector": 1e3 * times[key] / len(x)}
        for key in largest
    ]


def measure(dim: int, num_codebooks: int, counts: Counts, device: torch.device) -> dict[str, Any]:
    config = FitQuantizerConfig(num_codebooks=num_codebooks)
    quantizer = fit(synthetic(dim, counts.fit, device, seed=1).cpu(), config, device=device).quantizer
    x = synthetic(dim, max(counts.encoded, counts.refined, counts.compared), device, seed=2)
    row = {
        "dim": dim,
        "bytes": num_codebooks,
        "self_check": agrees_with_plain(quantizer.tables(), device),
        "encode_vectors_per_s": encode_speed(quantizer, x[: counts.encoded], counts.repeats),
        "refine": refine_speed(quantizer, x[: counts.refined], counts.repeats),
        "kernels": kernel_shares(quantizer, x[: counts.encoded]),
        "against_cpu": compare_with_cpu(quantizer, x[: counts.compared]),
    }
    _show(row)
    return row


def _show(row: dict[str, Any]) -> None:
    print(f"\n{row['dim']} channels, {row['bytes']} bytes; kernels agree with plain torch: {row['self_check']}")
    for mode, speed in row["encode_vectors_per_s"].items():
        print(f"  encode {mode:6} {speed:14,.0f} vectors/s")
    for part in row["refine"]:
        tile = f" tile {part['tile_of_a_warp']}" if "tile_of_a_warp" in part else ""
        print(f"  refine {part['search'] + tile:18} {part['vectors_per_s']:14,.0f} vectors/s")
    for part in row["kernels"]:
        print(f"  {100 * part['share']:5.1f} % {part['ns_per_vector']:9.1f} ns a vector  {part['kernel']}")
    for name, figure in row["against_cpu"].items():
        print(f"  {name:28} {figure:.6g}")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"needs a CUDA device, torch {torch.__version__} finds none; nothing was measured")
    if not triton_available():
        raise SystemExit("needs triton, which a CUDA build of torch brings; nothing was measured")
    device = torch.device("cuda", torch.cuda.current_device())
    results = describe(("torch", "triton", "numpy"))
    properties = torch.cuda.get_device_properties(device)
    results["machine"] |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
    results["versions"] |= {"cuda": torch.version.cuda}
    results |= {"iterations": ITERATIONS, "seeds": {"fit": FitQuantizerConfig().seed, "vectors": [1, 2]}}
    results["rows"] = [measure(dim, num_codebooks, Counts(), device) for dim, num_codebooks in SIZES]
    write_json(RESULTS, results)
    print(f"\nwrote {RESULTS}")


if __name__ == "__main__":
    main()
