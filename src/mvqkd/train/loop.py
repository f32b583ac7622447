"""The training loop: batches in, averaged weights and a history out; survives kills and bad batches."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvqkd.config import TrainStudentConfig
from mvqkd.data.batches import Batch, BatchSource
from mvqkd.errors import TrainingError
from mvqkd.progress import Progress
from mvqkd.student.model import Student
from mvqkd.train.augment import SpecAugment, seed_step
from mvqkd.train.distillation import DistillationObjective
from mvqkd.train.state import TrainerState, average_epochs, load_state, save_epoch, save_state, write_history

_LOG = logging.getLogger("mvqkd.train")


class Trainer:
    """Trains a student and, beside it, the predictor of a distillation objective.

    Args:
        directory: the partial artifact; resumable state lies in it under hidden names.
        objective: None trains without distillation.
    """

    def __init__(
        self,
        config: TrainStudentConfig,
        student: Student,
        objective: DistillationObjective | None,
        source: BatchSource,
        directory: Path,
        device: torch.device,
    ) -> None:
        self.config, self.student, self.objective = config, student, objective
        self.source, self.directory, self.device = source, directory, device
        self.layer_index = (config.distillation_layer or math.ceil(config.model.num_encoder_layers / 2)) - 1
        self.modules = nn.ModuleDict({"student": student})
        if objective is not None:
            self.modules["objective"] = objective
        self.modules.to(device)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.modules, config), betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        self.augment = SpecAugment() if config.spec_augment else None
        self.autocast = autocast_dtype(config.precision, device)

    def run(self) -> tuple[dict[str, Tensor], TrainerState]:
        """Train to the end, from the last saved state where there is one; give the averaged weights."""
        config = self.config
        state = load_state(self.directory, self.modules, self.optimizer)
        if state.step:
            _LOG.info("train-student: resumed at step %d, epoch %d", state.step, state.epoch + 1)
        total_s = self.source.total_duration_s * config.num_epochs
        with Progress("train-student", total=total_s / 60, unit="audio-min", initial=state.seen_s / 60) as progress:
            while state.epoch < config.num_epochs:
                for batch in self.source.epoch(state.epoch, skip=state.batch):
                    row = self.step(batch, state, state.seen_s / total_s)
                    state.batch += 1
                    state.step += 1
                    state.seen_s += batch.duration_s
                    if row and (state.step % config.log_steps == 0 or state.step == 1):
                        state.history.append({"step": state.step, "epoch": state.epoch + 1, **row})
                    if state.step % config.checkpoint_steps == 0:
                        save_state(self.directory, state, self.modules, self.optimizer)
                    progress.advance(batch.duration_s / 60, _note(state, row))
                save_epoch(self.directory, state.epoch, self.student, config.num_checkpoints)
                state.epoch += 1
                state.batch = 0
            save_state(self.directory, state, self.modules, self.optimizer)
        write_history(self.directory, state.history)
        return average_epochs(self.directory, config.num_epochs - 1, config.num_checkpoints), state

    def step(self, batch: Batch, state: TrainerState, progress: float) -> dict[str, float]:
        """One optimizer step; {} when the batch had no finite loss and was skipped.

        Raises:
            TrainingError: more than ``max_bad_batches`` batches were skipped; the last one's cuts are named.
        """
        started = time.perf_counter()
        seed_step(self.config.seed, state.step)
        self.modules.train()
        learning_rate = self.config.learning_rate * schedule(progress, self.config.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            losses = self.losses(batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]  # as torch has it
        norm = nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.gradient_clip)
        if not (torch.isfinite(losses["loss"]) and torch.isfinite(norm)):
            self._skip(batch, state, losses)
            return {}
        self.optimizer.step()
        row = {name: value.item() for name, value in losses.items()}
        state.step_times_s.append(round(time.perf_counter() - started, 4))
        return {**row, "learning_rate": learning_rate, "gradient_norm": norm.item()}

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """All losses of a batch, per student frame in nats (regression objectives: per channel)."""
        config, device = self.config, self.device
        features = batch.features
        if self.augment is not None and self.student.training:
            features = self.augment(features, batch.feature_lengths)
        encoded, frames, layers = self.student(features.to(device), batch.feature_lengths.to(device))
        asr = self.student.asr_losses(
            encoded, frames, batch.symbols.to(device), batch.symbol_lengths.to(device), config.prune_range
        )
        num_frames = (frames * asr.usable).sum().clamp(min=1)
        simple, pruned, ctc = asr.simple / num_frames, asr.pruned / num_frames, asr.ctc / num_frames
        # The band is arbitrary until the simple joiner has learned: let the pruned loss in slowly.
        ramp = min(1.0, 0.1 + 0.9 * progress / config.warmup_share) if config.warmup_share else 1.0
        loss = config.simple_loss_scale * simple + ramp * pruned + config.ctc_scale * ctc
        losses = {"transducer_loss": pruned, "simple_loss": simple, "ctc_loss": ctc}
        if self.objective is not None:
            targets = self.objective.targets(batch).to(device)
            losses["distillation_loss"] = self.objective(layers[self.layer_index], targets)
            loss = loss + config.codebook_scale * losses["distillation_loss"]
        return {"loss": loss, **losses}

    def _skip(self, batch: Batch, state: TrainerState, losses: dict[str, Tensor]) -> None:
        state.num_bad_batches += 1
        names = ", ".join(str(cut.id) for cut in batch.cuts[:5])
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        _LOG.warning("train-student: step %d skipped (%s), cuts %s ...", state.step, values, names)
        if state.num_bad_batches > self.config.max_bad_batches:
            raise TrainingError(
                f"train-student, step {state.step}, cuts {names} ...",
                expected=f"at most {self.config.max_bad_batches} batches without a finite loss and gradient",
                got=f"{state.num_bad_batches} ({values})",
                next_step="lower train-student.learning_rate or remove those cuts",
            )


def schedule(progress: float, warmup_share: float) -> float:
    """Learning rate factor at a share of the training: linear warm-up, then half a cosine to 0."""
    if progress < warmup_share:
        return max(0.01, progress / warmup_share)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup_share) / (1 - warmup_share))))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for, or where ``auto`` finds a processor that computes in it; None: float32."""
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if precision == "bfloat16" else None


def _cpu_has_bfloat16() -> bool:
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _parameter_groups(modules: nn.Module, config: TrainStudentConfig) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases and norms have no scale to keep small."""
    matrices = [parameter for parameter in modules.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in modules.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _note(state: TrainerState, row: dict[str, float]) -> str:
    shown = [f"epoch {state.epoch + 1}"]
    for name, label in (("transducer_loss", "transducer"), ("ctc_loss", "ctc"), ("distillation_loss", "distillation")):
        if name in row:
            shown.append(f"{label} {row[name]:.3f}")
    return ", ".join(shown)
