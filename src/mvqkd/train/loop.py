"""The training loop: batches in, averaged weights and a history out; survives kills, preemption and bad batches."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvqkd.config import TrainStudentConfig
from mvqkd.data.batches import Batch, BatchSource
from mvqkd.device import bfloat16_is_fast
from mvqkd.errors import TrainingError
from mvqkd.progress import Progress
from mvqkd.student.model import Student
from mvqkd.train.augment import seed_step
from mvqkd.train.bad_batches import cuts_to_blame, describe
from mvqkd.train.chunks import chunk_of_step
from mvqkd.train.distillation import DistillationObjective
from mvqkd.train.distributed import ALONE, Ranks, StepPlan, plan_steps
from mvqkd.train.losses import TrainingLosses
from mvqkd.train.preemption import StopRequest, stopped_at
from mvqkd.train.prefetch import prefetch
from mvqkd.train.schedule import learning_rate_factor
from mvqkd.train.state import (
    TrainerState,
    average_epochs,
    read_state,
    restore_state,
    save_epoch,
    save_state,
    write_history,
)

_LOG = logging.getLogger("mvqkd.train")

# Keeps the seeds of a step's batches apart from those of other steps: far more than a run has steps.
POSITION_SEED_STRIDE = 998_244_353


class Trainer:
    """Trains a student and, beside it, the predictor of a distillation objective.

    Args:
        objective: None trains without distillation.
        directory: the partial artifact; resumable state lies in it under hidden names. None on ranks other than 0.
        ranks: the processes that train together; all of them call the same methods.
        dev: what decides when training ends, where ``early_stop_epochs`` is set.
        on_row: is given every row of the history as it is made, throughput with it; on rank 0.
    """

    def __init__(
        self,
        config: TrainStudentConfig,
        student: Student,
        objective: DistillationObjective | None,
        source: BatchSource,
        directory: Path | None,
        device: torch.device,
        *,
        ranks: Ranks = ALONE,
        dev: BatchSource | None = None,
        on_row: Callable[[Mapping[str, float]], None] | None = None,
    ) -> None:
        self.config, self.student, self.source, self.dev = config, student, source, dev
        self.on_row = on_row if ranks.is_main else None
        self.directory, self.device, self.ranks = directory, device, ranks
        self.losses = TrainingLosses(config, student, objective, device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.losses, config), betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        self.parallel = ranks.wrap(self.losses)
        self.autocast_dtype = autocast_dtype(config.precision, device)
        self.total_s = source.total_duration_s * config.num_epochs
        self._stop = StopRequest()
        # Whether one of the ranks had been told to stop when the last step was taken: the same answer on all of them.
        self._stopping = False

    def run(self) -> tuple[dict[str, Tensor], TrainerState]:
        """Train to the end, from the last saved state where there is one, which another number of ranks may have left.

        Returns:
            The averaged weights ({} on ranks other than 0) and the final state.
        Raises:
            TrainingStopped: SIGTERM came to one of the ranks; all have ended their step and the state is saved.
        """
        config, directory = self.config, self.directory
        content = self.ranks.share(read_state(directory) if directory is not None else None)
        state = restore_state(content, self.losses, self.optimizer)
        if state.step and self.ranks.is_main:
            _LOG.info("train-student: resumed at step %d, epoch %d", state.step, state.epoch + 1)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._stop)
            progress = stack.enter_context(self._progress(state)) if self.ranks.is_main else None
            while (best := state.last_epoch(config.num_epochs, config.early_stop_epochs)) is None:
                self._train_epoch(state, progress)
            if directory is None:
                return {}, state
            save_state(directory, state, self.losses, self.optimizer)
        write_history(directory, state.history)
        return average_epochs(directory, best, config.averaged_checkpoints), state

    def step(self, batches: Sequence[Batch], state: TrainerState, progress: float) -> dict[str, float]:
        """One optimizer step of all ranks.

        Args:
            batches: this rank's, ``accumulate_batches`` of them.
            progress: share of the run that is done.
        Returns:
            A row for the history, means over the batches of all ranks; {} when there was no finite loss and gradient
            and all ranks skipped the step.
        Raises:
            TrainingError: more than ``max_bad_batches`` steps were skipped; the last one's cuts are named.
        """
        started = time.perf_counter()
        self.losses.train()
        factor = learning_rate_factor(self.config.schedule, progress, self.config.warmup_share)
        learning_rate = self.config.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batches, state.step, progress)
        norm = nn.utils.clip_grad_norm_(self.losses.parameters(), self.config.gradient_clip)
        told_to_stop = norm.new_tensor(float(self._stop.received is not None))
        values = torch.stack([*losses.values(), *(value.to(losses["loss"].dtype) for value in (norm, told_to_stop))])
        *means, norm_mean, stopping_share = self.ranks.mean(values).tolist()
        self._stopping = stopping_share > 0
        row = dict(zip(losses, means, strict=True))
        # Decided by means over ranks, which are alike on all of them.
        if not (math.isfinite(row["loss"]) and math.isfinite(norm_mean)):
            self._skip(batches, state, row, progress)
            return {}
        self.optimizer.step()
        spent_s = time.perf_counter() - started
        state.busy_s += spent_s
        state.step_times_s.append(round(spent_s, 4))
        return {**row, "learning_rate": learning_rate, "gradient_norm": norm_mean}

    def _train_epoch(self, state: TrainerState, progress: Progress | None) -> None:
        config = self.config
        began = time.perf_counter()
        steps = plan_steps(self.source.plan(state.epoch), state.batch, config.accumulate_batches * self.ranks.size)
        mine = (cuts for step in steps for cuts in step.of_rank(self.ranks))
        with contextlib.closing(prefetch(mine, self.source.collate)) as loaded:
            for step in steps:
                batches = [next(loaded) for _ in range(config.accumulate_batches)]
                state.data_wait_s += time.perf_counter() - began
                self._advance(step, batches, state, progress, ends_epoch=step is steps[-1])
                began = time.perf_counter()
        if self.dev is not None:
            state.dev_losses.append(self._dev_loss(self.dev))
            _last_row(state)["dev_loss"] = state.dev_losses[-1]
        if self.directory is not None:
            # Early stopping goes back by so many epochs at most.
            kept = config.averaged_checkpoints + config.early_stop_epochs
            save_epoch(self.directory, state.epoch, self.student, kept)
        state.epoch += 1
        state.batch = 0

    def _advance(
        self, plan: StepPlan, batches: list[Batch], state: TrainerState, progress: Progress | None, *, ends_epoch: bool
    ) -> None:
        config = self.config
        row = self.step(batches, state, state.seen_s / self.total_s)
        state.batch += plan.num_new
        state.step += 1
        state.seen_s += plan.new_duration_s
        logged = state.step % config.log_steps == 0 or state.step == 1 or (ends_epoch and self.dev is not None)
        if row and logged:
            state.history.append({"step": state.step, "epoch": state.epoch + 1, **row})
            if self.on_row is not None:
                speed = {"audio_s_per_s": state.audio_s_per_s, "data_wait_share": state.data_wait_share}
                self.on_row({**state.history[-1], **speed})
        due = state.step % config.checkpoint_steps == 0 or self._stopping
        if due and self.directory is not None:
            save_state(self.directory, state, self.losses, self.optimizer)
        if progress is not None:
            progress.advance(plan.new_duration_s / 60, _note(state, row))
        if self._stopping:
            # Whoever started the ranks ends them all when the first leaves: none does before the state is saved.
            self.ranks.share(None)
            raise stopped_at(state.step)

    def _backward(self, batches: Sequence[Batch], step: int, progress: float) -> dict[str, Tensor]:
        """Leave the mean gradient over all batches of the step, of all ranks; give this rank's mean losses."""
        means: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            # A batch draws the same numbers whichever rank has it: its position in the step decides.
            seed_step(self.config.seed, step + POSITION_SEED_STRIDE * (number * self.ranks.size + self.ranks.rank))
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self.ranks.accumulate(self.parallel):
                losses = self._losses(self.parallel, batch, step, progress)
                (losses["loss"] / len(batches)).backward()  # type: ignore[no-untyped-call]  # as torch has it
            for name, value in losses.items():
                mean = value.detach() / len(batches)
                means[name] = means[name] + mean if name in means else mean
        return means

    def _losses(self, module: nn.Module, batch: Batch, step: int, progress: float) -> dict[str, Tensor]:
        chunk_frames = chunk_of_step(self.config.chunk_choices, self.config.seed, step)
        with self._autocast():
            losses: dict[str, Tensor] = module(batch, progress, chunk_frames)
        return losses

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def _skip(self, batches: Sequence[Batch], state: TrainerState, row: dict[str, float], progress: float) -> None:
        state.num_bad_batches += 1
        blamed = self.ranks.join_lists(
            cuts_to_blame(
                batches, lambda batch: self._losses(self.losses, batch, state.step, progress)["loss"], self.losses
            )
        )
        together = self.ranks.join_lists([str(cut.id) for batch in batches for cut in batch.cuts])
        names = describe(blamed, together)
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        if self.ranks.is_main:
            _LOG.warning("train-student: step %d skipped (%s), %s", state.step, values, names)
        if state.num_bad_batches > self.config.max_bad_batches:
            raise TrainingError(
                f"train-student, step {state.step}, {names}",
                expected=f"at most {self.config.max_bad_batches} batches without a finite loss and gradient",
                got=f"{state.num_bad_batches} ({values})",
                next_step="lower train-student.learning_rate or remove those cuts",
            )

    def _dev_loss(self, dev: BatchSource) -> float:
        """Transducer loss a student frame on the dev split, each rank with its share of the batches."""
        self.losses.eval()
        total = torch.zeros(2, device=self.device)
        with torch.inference_mode(), self._autocast():
            for cuts in dev.plan(0)[self.ranks.rank :: self.ranks.size]:
                total += self.losses.transducer_sum(dev.collate(cuts))
        loss, frames = self.ranks.sum(total).tolist()
        return float(loss / frames)

    def _progress(self, state: TrainerState) -> Progress:
        return Progress("train-student", total=self.total_s / 60, unit="audio-min", initial=state.seen_s / 60)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for, or where ``auto`` finds a processor that computes in it; None: float32."""
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else bfloat16_is_fast(device)
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if precision == "bfloat16" else None


def _parameter_groups(modules: nn.Module, config: TrainStudentConfig) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases and norms have no scale to keep small."""
    matrices = [parameter for parameter in modules.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in modules.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _last_row(state: TrainerState) -> dict[str, Any]:
    """The history's row of the step just done, new where that step was skipped."""
    if not state.history or state.history[-1]["step"] != state.step:
        state.history.append({"step": state.step, "epoch": state.epoch + 1})
    return state.history[-1]


def _note(state: TrainerState, row: dict[str, float]) -> str:
    shown = [f"epoch {state.epoch + 1}"]
    for name, label in (("transducer_loss", "transducer"), ("ctc_loss", "ctc"), ("distillation_loss", "distillation")):
        if name in row:
            shown.append(f"{label} {row[name]:.3f}")
    return ", ".join([*shown, f"{state.audio_s_per_s:.0f} audio-s/s", f"data {100 * state.data_wait_share:.0f} %"])
