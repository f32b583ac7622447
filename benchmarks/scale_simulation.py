"""The sharded encode on a cluster that fails: a seeded simulation, many runs at once, numpy only.

A run has equal items (pods of a parallel loop) and so many slots. The next item takes the slot that is free first. An
attempt waits to be scheduled, starts (image, imports, teacher, plan), then works; a failure may end it at any
moment of the latter two. What it had computed is lost, but for whole checkpoints where those are kept. It is tried
again after a pause that doubles, in the same slot, until the retries are used up: then the run has failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SMOOTH_DRAWS = 32


@dataclass(frozen=True)
class Cluster:
    """How pods come, go and fail. Seconds, but for the rate of failures.

    Args:
        pods: items that run at once.
        schedule_s: median of the wait for a node and the image, drawn from a log-normal distribution.
        schedule_spread: its deviation in nats; 0: always the median.
        start_s: from the container's start to the first audio.
        failures_per_hour: of one pod that runs, at any moment alike (a Poisson process).
        retries: attempts after the first.
        backoff_s: pause before the first of them; doubles each time up to ``max_backoff_s``.
        straggler_share: attempts that land on a slow node.
        straggler_factor: by which such a node is slower.
        checkpoint_s: work after which what was computed outlives the pod; infinite: nothing does.
    """

    pods: int
    schedule_s: float = 0.0
    schedule_spread: float = 0.0
    start_s: float = 0.0
    failures_per_hour: float = 0.0
    retries: int = 0
    backoff_s: float = 0.0
    max_backoff_s: float = math.inf
    straggler_share: float = 0.0
    straggler_factor: float = 1.0
    checkpoint_s: float = math.inf


@dataclass(frozen=True)
class Runs:
    """Every simulated run: float64 (runs,), ``failed`` bool (runs,).

    ``makespan_s`` is from the submission to the end of the last item, ``paid_s`` what all pods together ran,
    ``wasted_s`` the part of it that is not the work itself: starts, lost work, slow nodes. In a run that fails,
    other items go on to their end.
    """

    makespan_s: Floats
    paid_s: Floats
    wasted_s: Floats
    failed: NDArray[np.bool_]


def simulate(cluster: Cluster, work_s: Floats, rng: np.random.Generator) -> Runs:
    """Simulate runs of equal size.

    Args:
        work_s: (runs, items) seconds of work on an ordinary node.
    """
    held_s, paid_s, left_s = _attempts(cluster, work_s, rng)
    return Runs(
        makespan_s=_schedule(held_s, cluster.pods),
        paid_s=paid_s.sum(1),
        wasted_s=(paid_s - (work_s - left_s)).sum(1),
        failed=(left_s > 0).any(1),
    )


def draw_work(
    rates: Floats, unit_audio_s: float, audio_s: float, shape: tuple[int, int], rng: np.random.Generator
) -> Floats:
    """Seconds of work of items that are larger than what was measured: (runs, items).

    An item of ``audio_s`` is a sum of ``audio_s / unit_audio_s`` independent measured units, so its rate has their mean
    and a deviation that falls with the root of their number. The same few draws stand for any larger number.

    Args:
        rates: seconds a second of audio, one a measured unit.
        unit_audio_s: audio of such a unit.
    """
    units = max(1.0, audio_s / unit_audio_s)
    draws = min(_SMOOTH_DRAWS, math.ceil(units))
    mean = rates[rng.integers(0, len(rates), size=(*shape, draws))].mean(-1)
    smoothed = rates.mean() + (mean - rates.mean()) * math.sqrt(draws / max(units, draws))
    return np.asarray(audio_s * smoothed)


def _attempts(cluster: Cluster, work_s: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Of each item: seconds that its slot is taken, seconds that its pods ran, and work that was never done."""
    held, paid, left = np.zeros_like(work_s), np.zeros_like(work_s), work_s.astype(np.float64)
    failures_per_s = cluster.failures_per_hour / 3600
    for attempt in range(cluster.retries + 1):
        todo = left > 0
        slowness = np.where(rng.random(left.shape) < cluster.straggler_share, cluster.straggler_factor, 1.0)
        wait = cluster.schedule_s * np.exp(cluster.schedule_spread * rng.standard_normal(left.shape))
        lifetime = rng.standard_exponential(left.shape) / failures_per_s if failures_per_s else np.inf
        needed = cluster.start_s + left * slowness
        ran = np.minimum(lifetime, needed)
        done = lifetime >= needed
        computed = np.maximum(ran - cluster.start_s, 0) / slowness
        kept = computed // cluster.checkpoint_s * cluster.checkpoint_s if math.isfinite(cluster.checkpoint_s) else 0.0
        pause = min(cluster.backoff_s * 2**attempt, cluster.max_backoff_s) if attempt < cluster.retries else 0.0
        held += np.where(todo, wait + ran + np.where(done, 0.0, pause), 0.0)
        paid += np.where(todo, ran, 0.0)
        left = np.where(todo, np.where(done, 0.0, left - kept), left)
    return held, paid, left


def _schedule(held_s: Floats, pods: int) -> Floats:
    """End of the last item when each takes the slot that is free first: (runs,)."""
    free_at = np.zeros((len(held_s), pods))
    rows = np.arange(len(held_s))
    for item in held_s.T:
        free_at[rows, free_at.argmin(1)] += item
    return np.asarray(free_at.max(1))
