"""What the bundle costs to run and to ship, and how exactly its graphs compute what the student computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvqkd.report.run import BUNDLE, Missing, Run, read_json


@dataclass(frozen=True)
class Graph:
    """A part of a variant: bytes at both precisions."""

    variant: str
    part: str
    float32_bytes: int | None
    int8_bytes: int | None


@dataclass(frozen=True)
class Speed:
    """Sizes of graphs and variants, differences from torch by part, and agreement with sherpa-onnx
    by variant (a share of utterances with equal tokens)."""

    graphs: list[Graph]
    whole_bytes: int
    variants: list[tuple[str, int, int | None]]
    differences: list[tuple[str, float]]
    max_difference: float | None
    agreement: list[tuple[str, float]]
    parity_ok: bool | None


def speed(run: Run) -> Speed | Missing:
    """Sizes and parity of the bundle."""
    bundle = run.need(BUNDLE)
    if isinstance(bundle, Missing):
        return bundle
    sizes = {name: int(entry["size_bytes"]) for name, entry in bundle.files.items() if name.endswith(".onnx")}
    graphs = _graphs(sizes)
    parity = read_json(bundle, "parity.json")
    verdict = parity.get("ok") if isinstance(parity, Mapping) else None
    limit = bundle.config.get("max_difference")
    return Speed(
        graphs=graphs,
        whole_bytes=sum(entry["size_bytes"] for entry in bundle.files.values()),
        variants=_variants(graphs),
        differences=sorted(_numbers(bundle.figures.get("difference")).items()),
        max_difference=float(limit) if isinstance(limit, int | float) else None,
        agreement=sorted(_numbers(bundle.figures.get("sherpa_agreement")).items()),
        parity_ok=verdict if isinstance(verdict, bool) else None,
    )


def _graphs(sizes: Mapping[str, int]) -> list[Graph]:
    names = sorted({name.replace(".int8.onnx", ".onnx") for name in sizes})
    return [
        Graph(
            variant=name.rpartition("/")[0] or "bundle",
            part=name.rpartition("/")[2].removesuffix(".onnx"),
            float32_bytes=sizes.get(name),
            int8_bytes=sizes.get(name.removesuffix(".onnx") + ".int8.onnx"),
        )
        for name in names
    ]


def _variants(graphs: list[Graph]) -> list[tuple[str, int, int | None]]:
    """What a deployment of each variant loads: float32, and with int8 graphs where there are some."""
    found = []
    for variant in dict.fromkeys(graph.variant for graph in graphs):
        parts = [graph for graph in graphs if graph.variant == variant]
        float32 = sum(graph.float32_bytes or 0 for graph in parts)
        small = sum(graph.int8_bytes or graph.float32_bytes or 0 for graph in parts)
        found.append((variant, float32, small if any(graph.int8_bytes for graph in parts) else None))
    return found


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): float(number) for name, number in value.items() if isinstance(number, int | float)}
