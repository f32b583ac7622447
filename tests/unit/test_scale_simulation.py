"""benchmarks/scale_simulation.py against closed forms."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NEVER_GIVES_UP = 400


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scale_simulation")


def equal(runs: int, items: int, work_s: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.full((runs, items), work_s)


@pytest.mark.parametrize(("items", "pods"), [(1, 1), (8, 1), (8, 8), (9, 8), (100, 7), (3, 16)])
def test_equal_items_without_failures_come_in_waves(simulation: Any, items: int, pods: int) -> None:
    cluster = simulation.Cluster(pods, schedule_s=5, start_s=20, retries=3, backoff_s=60)
    runs = simulation.simulate(cluster, equal(4, items, 100.0), np.random.default_rng(0))
    np.testing.assert_allclose(runs.makespan_s, math.ceil(items / pods) * 125.0)
    np.testing.assert_allclose(runs.paid_s, items * 120.0)
    np.testing.assert_allclose(runs.wasted_s, items * 20.0)
    assert not runs.failed.any()


@pytest.mark.parametrize(("items", "retries"), [(1, 0), (1, 2), (20, 1), (20, 3)])
def test_runs_fail_as_often_as_retries_do_not_suffice(simulation: Any, items: int, retries: int) -> None:
    an_attempt = 0.3
    rate_per_h = -math.log(1 - an_attempt) / (150 / 3600)
    cluster = simulation.Cluster(4, start_s=50, failures_per_hour=rate_per_h, retries=retries, backoff_s=1)
    runs = simulation.simulate(cluster, equal(40_000, items, 100.0), np.random.default_rng(1))
    expected = 1 - (1 - an_attempt ** (retries + 1)) ** items
    deviation = math.sqrt(expected * (1 - expected) / 40_000)
    assert runs.failed.mean() == pytest.approx(expected, abs=4 * deviation)


@pytest.mark.parametrize("mean_failures", [0.1, 1.0, 2.0])
def test_work_that_begins_anew_takes_its_expected_time(simulation: Any, mean_failures: float) -> None:
    rate = mean_failures / 100
    cluster = simulation.Cluster(1, failures_per_hour=3600 * rate, retries=NEVER_GIVES_UP)
    runs = simulation.simulate(cluster, equal(40_000, 1, 100.0), np.random.default_rng(2))
    assert not runs.failed.any()
    assert runs.paid_s.mean() == pytest.approx((math.exp(rate * 100) - 1) / rate, rel=0.03)
    np.testing.assert_allclose(runs.wasted_s, runs.paid_s - 100)
    np.testing.assert_allclose(runs.makespan_s, runs.paid_s)


def test_checkpoints_make_each_part_begin_anew_alone(simulation: Any) -> None:
    rate = 2.0 / 100
    cluster = simulation.Cluster(1, failures_per_hour=3600 * rate, retries=NEVER_GIVES_UP, checkpoint_s=10)
    runs = simulation.simulate(cluster, equal(40_000, 1, 100.0), np.random.default_rng(3))
    assert runs.paid_s.mean() == pytest.approx(10 * (math.exp(rate * 10) - 1) / rate, rel=0.01)


def test_an_item_that_never_succeeds_costs_its_pauses(simulation: Any) -> None:
    """Three attempts that fail at once: three waits, and the pauses between them."""
    hopeless = {"failures_per_hour": 1e12, "retries": 2, "schedule_s": 5.0, "backoff_s": 10.0}
    work = equal(10, 1, 100.0)
    for limit, expected in ((math.inf, 15 + 10 + 20), (12.0, 15 + 10 + 12)):
        cluster = simulation.Cluster(1, max_backoff_s=limit, **hopeless)
        runs = simulation.simulate(cluster, work, np.random.default_rng(4))
        np.testing.assert_allclose(runs.makespan_s, expected, atol=1e-3)
        assert runs.failed.all()


def test_a_slow_node_slows_the_work_and_not_the_start(simulation: Any) -> None:
    cluster = simulation.Cluster(1, start_s=20, straggler_share=1.0, straggler_factor=3.0)
    runs = simulation.simulate(cluster, equal(2, 2, 100.0), np.random.default_rng(5))
    np.testing.assert_allclose(runs.makespan_s, 2 * 320.0)
    np.testing.assert_allclose(runs.wasted_s, 2 * 220.0)
    some = simulation.Cluster(1, straggler_share=0.25, straggler_factor=3.0)
    runs = simulation.simulate(some, equal(20_000, 1, 100.0), np.random.default_rng(5))
    assert runs.paid_s.mean() == pytest.approx(150.0, rel=0.02)


def test_waits_are_log_normal(simulation: Any) -> None:
    cluster = simulation.Cluster(1, schedule_s=60, schedule_spread=0.5)
    runs = simulation.simulate(cluster, equal(40_000, 1, 1e-9), np.random.default_rng(6))
    assert np.median(runs.makespan_s) == pytest.approx(60, rel=0.02)
    assert np.log(runs.makespan_s).std() == pytest.approx(0.5, rel=0.02)


def test_no_slot_waits_while_an_item_does(simulation: Any) -> None:
    """Graham's bounds for taking the slot that is free first."""
    work = np.random.default_rng(7).exponential(100, size=(500, 40))
    for pods in (1, 3, 40):
        runs = simulation.simulate(simulation.Cluster(pods), work, np.random.default_rng(8))
        mean = work.sum(1) / pods
        assert (runs.makespan_s >= np.maximum(mean, work.max(1)) - 1e-9).all()
        assert (runs.makespan_s <= mean + work.max(1) * (1 - 1 / pods) + 1e-9).all()


def test_equal_seeds_give_equal_runs(simulation: Any) -> None:
    cluster = simulation.Cluster(3, 5, 0.5, 20, 2.0, 3, 10, straggler_share=0.1, straggler_factor=2)

    def once(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        work = simulation.draw_work(np.array([0.01, 0.02, 0.04]), 60.0, 3600.0, (50, 10), rng)
        return simulation.simulate(cluster, work, rng)

    first, again, other = once(0), once(0), once(1)
    for name in ("makespan_s", "paid_s", "wasted_s", "failed"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.makespan_s, other.makespan_s)


@pytest.mark.parametrize("units", [1, 10, 64, 1000])
def test_items_of_many_shards_are_their_mean_with_less_spread(simulation: Any, units: int) -> None:
    rates = np.array([0.01, 0.011, 0.013, 0.03])
    work = simulation.draw_work(rates, 60.0, 60.0 * units, (20_000, 1), np.random.default_rng(9))
    assert work.mean() == pytest.approx(60 * units * rates.mean(), rel=0.02)
    assert work.std() == pytest.approx(60 * units * rates.std() / math.sqrt(units), rel=0.03)
    if units == 1:
        assert set(np.round(work.ravel(), 9)) == set(np.round(60 * rates, 9))
    same = simulation.draw_work(np.array([0.02]), 60.0, 60.0 * units, (3, 2), np.random.default_rng(9))
    np.testing.assert_allclose(same, 1.2 * units)
