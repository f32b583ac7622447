"""What scale.py cannot measure: every value is a parameter of it, with what it stands for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any


def _assumed(value: Any, text: str) -> Any:
    return field(default=value, metadata={"text": text})


@dataclass(frozen=True)
class Assumptions:
    """Prices, a large teacher, a cluster. Compare with your own before you rely on what follows from them."""

    teacher_parameters: float = _assumed(1e9, "parameters of a large teacher (HuBERT, WavLM of the largest size)")
    teacher_dim: int = _assumed(1280, "channels of its layers")
    gpu_sustained_flops: float = _assumed(3e13, "operations a second that it gets out of a GPU, all told")
    gpu_hour_price: float = _assumed(2.0, "dollars a GPU-hour, with its share of the host")
    core_hour_price: float = _assumed(0.04, "dollars a core-hour")
    storage_gb_month_price: float = _assumed(0.023, "dollars a GB and month of object storage")
    cut_s: float = _assumed(12.0, "seconds a cut, about LibriSpeech's mean")
    pod_memory_gb: float = _assumed(16.0, "GB that a pod may spend on the list of cuts")
    max_items: int = _assumed(200, "items of one parallel loop")
    schedule_s: float = _assumed(90.0, "seconds until a pod has a node and its image, median")
    schedule_spread: float = _assumed(0.5, "deviation of their logarithm")
    failures_per_hour: float = _assumed(0.05, "failures an hour of a pod that runs: preemptible nodes")
    retries: int = _assumed(3, "attempts after an item's first")
    backoff_s: float = _assumed(60.0, "seconds before the first of them, doubling")
    straggler_share: float = _assumed(0.02, "share of attempts that land on a slow node")
    straggler_factor: float = _assumed(2.0, "by which it is slower")
    deadline_1k_h: float = _assumed(3.0, "hours that 1,000 hours of speech may take, 95 times of 100")
    deadline_60k_h: float = _assumed(48.0, "the same for 60,000")
    deadline_1m_h: float = _assumed(336.0, "the same for 1,000,000")
    max_run_failure: float = _assumed(0.01, "probability that a run uses up an item's retries, at most")

    @property
    def deadlines_h(self) -> dict[int, float]:
        """By the size of the corpus in hours."""
        return {1_000: self.deadline_1k_h, 60_000: self.deadline_60k_h, 1_000_000: self.deadline_1m_h}

    def texts(self) -> dict[str, str]:
        return {one.name: one.metadata["text"] for one in fields(self)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag an assumption."""
    group = parser.add_argument_group("assumptions")
    for one in fields(Assumptions):
        kind = int if isinstance(one.default, int) else float
        text = f"{one.metadata['text']} ({one.default:g})"
        group.add_argument(f"--{one.name.replace('_', '-')}", type=kind, default=one.default, help=text)


def from_arguments(arguments: argparse.Namespace) -> Assumptions:
    return Assumptions(**{one.name: getattr(arguments, one.name) for one in fields(Assumptions)})
