"""What distillation costs in time: a step of every objective, and the teacher in the loop, on the same batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distillation_runs import Budget, Shared, Variant, train_config
from distillation_variants import VARIANTS
from mvqkd.config import TrainStudentConfig
from mvqkd.data.batches import Batch, BatchSource
from mvqkd.data.cuts import load_cuts
from mvqkd.data.sources import TRAIN
from mvqkd.data.tokens import Tokens
from mvqkd.student.model import Student
from mvqkd.train.loop import Trainer
from mvqkd.train.objectives import objective_of
from mvqkd.train.state import TrainerState

BATCHES, REPETITIONS = 12, 5
# Live teachers are slow, and their time varies little.
LIVE_BATCHES = 4
HALFWAY = 0.5


def measure_timing(budget: Budget, stored: Mapping[str, Shared], live: Mapping[str, Shared]) -> dict[str, Any]:
    """Medians of the seconds of a step, of the ratios to the objective none, and of epochs.

    Args:
        stored: what students learn from, by variant; none and mvq are among them.
        live: what the objective mvq learns from with that teacher in the loop, by the teacher's name.
    """
    torch.set_num_threads(1)
    data = stored["none"].data
    tokens = Tokens.load(data.path)

    def source_of(batch_duration_s: float) -> tuple[BatchSource, list[Batch]]:
        source = BatchSource(load_cuts(data, TRAIN), tokens, batch_duration_s=batch_duration_s, seed=0)
        plan = source.plan(0)
        return source, [source.collate(cuts) for cuts in plan[:: max(1, len(plan) // BATCHES)][:BATCHES]]

    source, batches = source_of(float(budget.base["batch_duration_s"]))
    trainers = {name: _trainer(VARIANTS[name], budget, shared, source) for name, shared in stored.items()}
    steps = _step_rows(trainers, batches)
    on_the_fly = [
        _live_row(name, shared, budget, source, batches[:LIVE_BATCHES], trainers["mvq"])
        for name, shared in live.items()
    ]
    defaults = TrainStudentConfig()
    model = {f"model.{name}": value for name, value in defaults.model.model_dump().items()}
    larger = replace(budget, base={**budget.base, **model})
    large_source, large_batches = source_of(defaults.batch_duration_s)
    of_defaults = {name: _trainer(VARIANTS[name], larger, stored[name], large_source) for name in stored}
    default_steps = _step_rows(of_defaults, large_batches)
    return {
        "batches": len(batches),
        "repetitions": REPETITIONS,
        "batch_duration_s": budget.base["batch_duration_s"],
        "steps": steps,
        "default_batch_duration_s": defaults.batch_duration_s,
        "steps_of_default_model": default_steps,
        "step_ratio_mvq_vs_none": _ratio_of_mvq(default_steps),
        "step_ratio_mvq_vs_none_of_small_model": _ratio_of_mvq(steps),
        "on_the_fly": on_the_fly,
        "epoch_ratio_on_the_fly_vs_stored": on_the_fly[-1]["epoch_ratio"] if on_the_fly else None,
    }


def _step_rows(trainers: Mapping[str, Trainer], batches: list[Batch]) -> list[dict[str, Any]]:
    """Every trainer steps on a batch before the next batch is taken, so that all of them meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for repetition in range(REPETITIONS + 1):
        for batch in batches:
            for name, trainer in trainers.items():
                spent = _step_seconds(trainer, batch)
                if repetition:  # the first reads indexes from disk and fills caches
                    seconds[name].append(spent)
    return [
        {
            "name": name,
            "parameters": trainers[name].student.num_parameters(),
            "median_s": statistics.median(values),
            "ratio_to_none": statistics.median(v / n for v, n in zip(values, seconds["none"], strict=True)),
        }
        for name, values in seconds.items()
    ]


def _ratio_of_mvq(rows: list[dict[str, Any]]) -> float:
    return next(float(row["ratio_to_none"]) for row in rows if row["name"] == "mvq")


def _live_row(
    name: str, shared: Shared, budget: Budget, source: BatchSource, batches: list[Batch], stored: Trainer
) -> dict[str, Any]:
    """Time of an epoch with that teacher in the loop and without, from the same batches."""
    variant = Variant("mvq", "mvq", changes={"ci_source": "teacher"})
    live = _trainer(variant, budget, shared, source)
    _step_seconds(live, batches[0])  # compiles the search for indexes
    pairs = [(_step_seconds(stored, batch), _step_seconds(live, batch)) for batch in batches]
    stored_s, live_s = (sum(values) for values in zip(*pairs, strict=True))
    epochs = source.total_duration_s / sum(batch.duration_s for batch in batches)
    return {
        "teacher": name,
        "epoch_s_stored": stored_s * epochs,
        "epoch_s_on_the_fly": live_s * epochs,
        "epoch_ratio": live_s / stored_s,
    }


def _trainer(variant: Variant, budget: Budget, shared: Shared, source: BatchSource) -> Trainer:
    config = train_config(variant, 0, replace(budget, base={**budget.base, "speeds": [1.0]}))
    device = torch.device("cpu")
    paths: dict[str, Path | None] = shared.paths()
    del paths["data"]
    _, build = objective_of(config, shared.data, **paths, device=device)
    torch.manual_seed(0)
    student = Student(config.model, source.tokens.vocab_size)
    return Trainer(config, student, build(student), source, None, device)


def _step_seconds(trainer: Trainer, batch: Batch) -> float:
    started = time.perf_counter()
    trainer.step([batch], TrainerState(), HALFWAY)
    return time.perf_counter() - started
