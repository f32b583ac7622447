"""From rates to plans: what a corpus takes, how it is cut into runs, items and pods, and which cut to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scale_assumptions import Assumptions
from scale_simulation import Cluster, Floats, draw_work, simulate

SPEEDS = (0.9, 1.0, 1.1)
SPEED_COPIES = sum(1 / speed for speed in SPEEDS)  # hours of audio to encode, an hour of speech
TEACHER_HZ = 50
ITEM_AUDIO_H = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000)
PODS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Smaller runs than the largest possible: shorter plans, but more ends at which pods wait for the last item.
RUN_FACTORS = (1, 2, 5, 10)
EQUAL_COST = 0.02
# Of a failure rate: on-demand nodes, as assumed, and a bad day of preemptible ones.
FAILURE_FACTORS = (0.05, 1.0, 4.0)
Rates = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A teacher on a kind of pod: seconds an audio second, one a measured shard, and what an hour costs."""

    name: str
    rates: Floats
    hour_price: float

    @property
    def real_time_factor(self) -> float:
        return float(1 / self.rates.mean())


def scenarios(rates: Rates, assumed: Assumptions) -> list[Scenario]:
    """The teacher that was measured, on a core, and a large one on a GPU; what is done beside it is as measured."""
    shards = rates["encode"]["shards"]
    audio = np.array([row["audio_s"] for row in shards])
    total = np.array([row["total_s"] for row in shards]) / audio
    beside = np.array([row["total_s"] - row["teacher_s"] - row["codec_s"] for row in shards]) / audio
    # Two operations a parameter and frame; shards differ as they do in the measurement.
    large = 2 * assumed.teacher_parameters * TEACHER_HZ / assumed.gpu_sustained_flops
    return [
        Scenario("core", total, assumed.core_hour_price),
        Scenario("gpu", large * total / total.mean() + beside, assumed.gpu_hour_price),
    ]


def unit_audio_s(rates: Rates) -> float:
    """Mean audio of a measured shard."""
    return float(np.mean([row["audio_s"] for row in rates["encode"]["shards"]]))


def cuts_of(hours: float, assumed: Assumptions) -> float:
    return hours * 3600 / assumed.cut_s


def list_bytes_per_cut(rates: Rates) -> float:
    """Memory that a cut of the corpus takes in the pod that needs most: one that encodes, or the one that merges."""
    return max(rates["start"]["plan_bytes_per_cut"], len(SPEEDS) * rates["merge"]["open_bytes_per_cut"])


def run_hours(rates: Rates, assumed: Assumptions) -> float:
    """Hours of speech that one run takes at most, one digit: its list of cuts must fit into a pod's memory."""
    cuts = assumed.pod_memory_gb * 1e9 / list_bytes_per_cut(rates)
    hours = cuts * assumed.cut_s / 3600
    digit = 10.0 ** math.floor(math.log10(hours))
    return hours // digit * digit


@dataclass(frozen=True)
class Campaign:
    """A corpus in equal runs one after another, each a loop over equal items with so many pods at once."""

    corpus_h: float
    num_runs: int
    items: int
    pods: int

    @property
    def run_h(self) -> float:
        """Speech of a run."""
        return self.corpus_h / self.num_runs

    @property
    def item_audio_h(self) -> float:
        return self.run_h * SPEED_COPIES / self.items


def campaigns(corpus_h: float, most_h: float, max_items: int) -> list[Campaign]:
    """Every cut of a corpus into runs, items and pods that a run can hold; no more pods than items."""
    fewest = math.ceil(corpus_h / most_h)
    found = []
    for num_runs in (fewest * factor for factor in RUN_FACTORS):
        audio_h = corpus_h / num_runs * SPEED_COPIES
        items = sorted({math.ceil(audio_h / item) for item in ITEM_AUDIO_H if audio_h / item <= max_items})
        found += [Campaign(corpus_h, num_runs, some, pods) for some in items for pods in PODS if pods <= some]
    return found


def simulated(
    scenario: Scenario,
    campaign: Campaign,
    rates: Rates,
    assumed: Assumptions,
    runs: int,
    seed: int,
    *,
    failures_per_hour: float | None = None,
    checkpoints: bool = False,
) -> Row:
    """Hours, cost, waste and the risk that a run fails; equal arguments give equal rows.

    Args:
        failures_per_hour: others than assumed.
        checkpoints: every shard of the size that was measured outlives its pod.
    """
    failures = assumed.failures_per_hour if failures_per_hour is None else failures_per_hour
    unit_s = unit_audio_s(rates)
    cluster = Cluster(
        pods=campaign.pods,
        schedule_s=assumed.schedule_s,
        schedule_spread=assumed.schedule_spread,
        start_s=rates["start"]["start_s"] + rates["start"]["plan_s_per_cut"] * cuts_of(campaign.run_h, assumed),
        failures_per_hour=failures,
        retries=assumed.retries,
        backoff_s=assumed.backoff_s,
        straggler_share=assumed.straggler_share,
        straggler_factor=assumed.straggler_factor,
        checkpoint_s=unit_s * float(scenario.rates.mean()) if checkpoints else math.inf,
    )
    # Seeded for each row, so that a row does not depend on which others are simulated.
    rng = np.random.default_rng(seed)
    work = draw_work(scenario.rates, unit_s, campaign.item_audio_h * 3600, (runs, campaign.items), rng)
    single = simulate(cluster, work, rng)
    # Of a corpus in several runs, each is another one of those simulated.
    hours = single.makespan_s[rng.integers(0, runs, size=(runs, campaign.num_runs))].sum(1) / 3600
    return {
        "scenario": scenario.name,
        "corpus_h": campaign.corpus_h,
        "runs": campaign.num_runs,
        "items": campaign.items,
        "item_audio_h": round(campaign.item_audio_h, 3),
        "item_work_h": round(float(work.mean()) / 3600, 4),
        "start_s": round(cluster.start_s, 1),
        "pods": campaign.pods,
        "failures_per_hour": failures,
        "checkpoints": checkpoints,
        "median_h": round(float(np.median(hours)), 4),
        "p95_h": round(float(np.percentile(hours, 95)), 4),
        "wasted_share": round(float(single.wasted_s.sum() / single.paid_s.sum()), 5),
        "run_failure": round(float(single.failed.mean()), 5),
        "cost": round(float(single.paid_s.mean()) / 3600 * campaign.num_runs * scenario.hour_price, 3),
        "simulated": runs,
    }


def choose(rows: Sequence[Row], deadline_h: float, max_run_failure: float) -> Row | None:
    """The fewest pods that meet the deadline, then the cheapest; of equal ones the fewest runs, then the soonest."""
    able = [row for row in rows if row["p95_h"] <= deadline_h and row["run_failure"] <= max_run_failure]
    if not able:
        return None
    fewest = [row for row in able if row["pods"] == min(one["pods"] for one in able)]
    cheapest = min(row["cost"] for row in fewest)
    equal = [row for row in fewest if row["cost"] <= (1 + EQUAL_COST) * cheapest]
    return min(equal, key=lambda row: (row["runs"], row["p95_h"]))


def plan(rates: Rates, assumed: Assumptions, runs: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """All that is simulated.

    Returns:
        The chosen rows; for each of them the rows with as many runs and pods; what would be chosen of those at
        other rates of failure.
    """
    chosen, beside, failing = [], [], []
    most_h = run_hours(rates, assumed)
    for scenario in scenarios(rates, assumed):
        for corpus_h, deadline_h in assumed.deadlines_h.items():
            cuts = campaigns(corpus_h, most_h, assumed.max_items)
            rows = [simulated(scenario, cut, rates, assumed, runs, seed) for cut in cuts]
            if best := choose(rows, deadline_h, assumed.max_run_failure):
                chosen.append(best)
                alike = [cut for cut in cuts if (cut.num_runs, cut.pods) == (best["runs"], best["pods"])]
                beside += [row for cut, row in zip(cuts, rows, strict=True) if cut in alike]
                failing += _at_other_rates(scenario, alike, rates, assumed, runs, seed)
    return chosen, beside, failing


def _at_other_rates(
    scenario: Scenario, cuts: Sequence[Campaign], rates: Rates, assumed: Assumptions, runs: int, seed: int
) -> list[Row]:
    """The best items at each rate of failure, without and with checkpoints; without items where none will do."""
    found = []
    for failures in (factor * assumed.failures_per_hour for factor in FAILURE_FACTORS):
        for kept in (False, True):
            options = {"failures_per_hour": failures, "checkpoints": kept}
            rows = [simulated(scenario, cut, rates, assumed, runs, seed, **options) for cut in cuts]
            none = {"scenario": scenario.name, "corpus_h": cuts[0].corpus_h, **options}
            found.append(choose(rows, math.inf, assumed.max_run_failure) or none)
    return found


def storage_bytes(corpus_h: float, rates: Rates, assumed: Assumptions) -> dict[str, float]:
    """What the teacher's output takes at all speeds: floats, or indexes with the list of their cuts."""
    frames = corpus_h * 3600 * TEACHER_HZ * SPEED_COPIES
    index = cuts_of(corpus_h, assumed) * len(SPEEDS) * rates["merge"]["index_bytes_per_cut"]
    return {
        "float32": frames * assumed.teacher_dim * 4,
        "float16": frames * assumed.teacher_dim * 2,
        "ci_16": frames * 16 + index,
        "ci_8": frames * 8 + index,
    }
