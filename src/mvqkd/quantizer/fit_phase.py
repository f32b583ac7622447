"""One phase of a fit: gradient steps on a quantizer, with evaluation, early stop and checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import TrainingError
from mvqkd.progress import Progress
from mvqkd.quantizer.embedding_source import EmbeddingSource, batches
from mvqkd.quantizer.fit_losses import held_out_error, step_losses
from mvqkd.quantizer.fit_state import FitPosition, StateFile
from mvqkd.quantizer.model import Quantizer
from mvqkd.quantizer.report import CurvePoint
from mvqkd.quantizer.tables import build_tables

ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-9
WEIGHT_DECAY = 1e-6
# The indexes to learn from are searched with centers up to so many steps old: their products cost a third of a step
# otherwise. Measured: no difference in the error.
TABLES_LIFETIME_STEPS = 4
EVALUATION_PASSES = 2


@dataclass(frozen=True)
class Phase:
    """What a phase is to do; ``number`` counts from 1, ``name`` is for messages."""

    number: int
    name: str
    steps: int
    learning_rate: float

    def learning_rate_at(self, step: int) -> float:
        """Half a cosine, from the learning rate at step 0 down to 0 after the last one."""
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / max(1, self.steps)))


@dataclass
class Training:
    """A fit under way.

    Attributes:
        quantizer: of the present phase.
        source, count: where batches come from, and how many frames it has.
        held_out: float32 (B, D) in the codec's own space, to evaluate on; None: no error curve.
        generator: of all random choices but the order of the batches.
        dtype: of the factors of the logits' products.
        store: where checkpoints go; None: none are written.
        restored: moments of Adam of a checkpoint, until the phase has taken them over.
        best: weights of the lowest held-out error of this phase, kept only where early stop needs them.
    """

    config: FitQuantizerConfig
    quantizer: Quantizer
    source: EmbeddingSource
    count: int
    held_out: Tensor | None
    generator: torch.Generator
    dtype: torch.dtype
    store: StateFile | None
    position: FitPosition = field(default_factory=FitPosition)
    restored: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = (time.monotonic(), time.process_time())
        self._last_checkpoint = time.monotonic()

    def note_time(self) -> None:
        """Add the time since the last call to the position."""
        now = (time.monotonic(), time.process_time())
        self.position.wall_s += now[0] - self._since[0]
        self.position.cpu_s += now[1] - self._since[1]
        self._since = now

    def checkpoint_due(self) -> bool:
        # Between these steps, the tables would have to be saved too.
        at_new_tables = self.position.step % TABLES_LIFETIME_STEPS == 0
        overdue = time.monotonic() - self._last_checkpoint >= self.config.checkpoint_every_s
        return self.store is not None and at_new_tables and overdue

    def checkpoint(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write all that a later run needs; without an optimizer, a phase begins with a fresh one."""
        if self.store is None:
            return
        self.note_time()
        tensors = {f"quantizer.{name}": tensor for name, tensor in self.quantizer.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors["generator"] = self.generator.get_state()
        if optimizer is not None:
            tensors |= _moments(optimizer)
        self.store.save(self.position, tensors)
        self._last_checkpoint = time.monotonic()


def run_phase(training: Training, phase: Phase) -> None:
    """Take the steps of a phase that are not done yet.

    Raises:
        TrainingError: a loss is not finite.
        DataError: the source gives fewer frames than it did before.
    """
    config, position, quantizer = training.config, training.position, training.quantizer
    optimizer = torch.optim.Adam(
        quantizer.parameters(), betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=WEIGHT_DECAY, fused=True
    )
    if training.restored:
        _restore_moments(optimizer, training.restored)
        training.restored = {}
    order_seed = (config.seed, phase.number)
    rows = batches(training.source, training.count, config.batch_size, order_seed, start=position.step)
    note = ""
    with Progress(phase.name, total=phase.steps, unit="step", initial=position.step) as progress:
        while position.step < phase.steps and not _is_stale(position, config):
            if position.step % TABLES_LIFETIME_STEPS == 0:
                tables = build_tables(quantizer.effective_centers(), precise=False)
            passes = 1 + int(torch.randint(0, 2, (), generator=training.generator))
            normalized = quantizer.normalize(next(rows).to(quantizer.mean.device))
            losses = step_losses(quantizer, normalized, tables, passes, training.dtype)
            loss = losses.total(config.entropy_scale)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"{phase.name}, step {position.step + 1}",
                    expected="a finite loss",
                    got=f"reconstruction {losses.reconstruction.item():g}, logprob {losses.logprob.item():g}",
                    next_step="lower fit-quantizer.learning_rate",
                )
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate_at(position.step)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            position.step += 1
            if training.held_out is not None and _evaluation_due(position.step, phase, config):
                error = _evaluate(training, phase)
                note = f", held-out error {error:.4f}"
            if training.checkpoint_due():
                training.checkpoint(optimizer)
            progress.advance(note=f"error {losses.reconstruction.item():.4f}{note}")
    if training.best:
        quantizer.load_state_dict(training.best)
    position.stopped_early |= position.step < phase.steps
    position.steps_taken.append(position.step)
    position.phase, position.step = phase.number + 1, 0
    position.best_error, position.stale_evaluations, training.best = None, 0, {}


def _evaluation_due(step: int, phase: Phase, config: FitQuantizerConfig) -> bool:
    return config.evaluate_every > 0 and (step % config.evaluate_every == 0 or step == phase.steps)


def _evaluate(training: Training, phase: Phase) -> float:
    """Measure the held-out error, note it, and keep the weights if early stop may come back to them."""
    config, position = training.config, training.position
    assert training.held_out is not None
    error = held_out_error(training.quantizer, training.held_out, EVALUATION_PASSES, training.dtype)
    training.note_time()
    position.curve.append(CurvePoint(phase.number, position.step, error, position.wall_s))
    if position.best_error is None or error < position.best_error * (1 - config.min_improvement):
        position.best_error, position.stale_evaluations = error, 0
        if config.patience:
            training.best = {name: tensor.clone() for name, tensor in training.quantizer.state_dict().items()}
    else:
        position.stale_evaluations += 1
    return error


def _is_stale(position: FitPosition, config: FitQuantizerConfig) -> bool:
    return 0 < config.patience <= position.stale_evaluations


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of Adam by the position of each parameter."""
    state = optimizer.state_dict()["state"]
    return {f"adam.{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def _restore_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in moments.items():
        _, index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
