"""Resumable training state: what a killed run needs to go on as if nothing had happened."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mvqkd.artifacts import atomic_open

# Hidden names: PartialArtifact removes them at commit, so that the state never becomes part of the artifact.
STATE_FILE = ".trainer-state.pt"
EPOCH_FILE = ".epoch-{:05d}.safetensors"
HISTORY_FILE = "history.jsonl"
HISTORY_CSV_FILE = "history.csv"


@dataclass
class TrainerState:
    """Position of a training run.

    ``batch`` counts batches of the current epoch that are done by all ranks together, so that a run can go on with
    another number of them.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen_s: float = 0.0
    num_bad_batches: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    # Apart from the history, which is part of the artifact and must not depend on the machine's speed.
    step_times_s: list[float] = field(default_factory=list)
    # Sums of the time in steps, and of that in which a step waited for its batches.
    busy_s: float = 0.0
    data_wait_s: float = 0.0
    # One an epoch, where the dev split decides when training ends.
    dev_losses: list[float] = field(default_factory=list)

    @property
    def data_wait_share(self) -> float:
        """Share of the time in which a step waited for its batches."""
        return self.data_wait_s / max(1e-9, self.busy_s + self.data_wait_s)

    @property
    def audio_s_per_s(self) -> float:
        """Seconds of audio of all ranks trained on in a second."""
        return self.seen_s / max(1e-9, self.busy_s + self.data_wait_s)

    def last_epoch(self, num_epochs: int, patience: int) -> int | None:
        """0-based epoch whose weights are the best, once training is over; None before.

        Args:
            patience: epochs without a lower dev loss that end training; 0: none do, and the last epoch counts as best.
        """
        if not patience:
            return num_epochs - 1 if self.epoch >= num_epochs else None
        best = min(range(len(self.dev_losses)), key=self.dev_losses.__getitem__, default=0)
        return best if self.epoch >= num_epochs or self.epoch - 1 - best >= patience else None


def save_state(directory: Path, state: TrainerState, modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write position, weights and optimizer in one atomic file."""
    content = {"state": asdict(state), "modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_open(directory / STATE_FILE, "wb") as stream:
        torch.save(content, stream)


def read_state(directory: Path) -> dict[str, Any] | None:
    """What ``save_state`` wrote, on the CPU; None where there is nothing."""
    path = directory / STATE_FILE
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def restore_state(content: dict[str, Any] | None, modules: nn.Module, optimizer: torch.optim.Optimizer) -> TrainerState:
    """Put back what ``read_state`` read; a fresh state where there was nothing."""
    if content is None:
        return TrainerState()
    modules.load_state_dict(content["modules"])
    optimizer.load_state_dict(content["optimizer"])
    return TrainerState(**content["state"])


def save_epoch(directory: Path, epoch: int, student: nn.Module, keep: int) -> None:
    """Keep the weights at the end of an epoch, and only the last ``keep`` of them."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    with atomic_open(directory / EPOCH_FILE.format(epoch), "wb") as stream:
        stream.write(save(weights))
    (directory / EPOCH_FILE.format(epoch - keep)).unlink(missing_ok=True)


def average_epochs(directory: Path, last_epoch: int, count: int) -> dict[str, Tensor]:
    """Mean of the weights of the last ``count`` epochs (fewer where training was shorter)."""
    epochs = range(max(0, last_epoch - count + 1), last_epoch + 1)
    total: dict[str, Tensor] = {}
    for epoch in epochs:
        for name, tensor in load_file(directory / EPOCH_FILE.format(epoch)).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / len(epochs)).float() for name, tensor in total.items()}


def write_history(directory: Path, history: list[dict[str, Any]]) -> None:
    """Write the history as JSON lines, and as CSV for `dvc plots`."""
    with atomic_open(directory / HISTORY_FILE) as stream:
        stream.writelines(json.dumps(row, sort_keys=True) + "\n" for row in history)
    columns = dict.fromkeys(name for row in history for name in row)
    with atomic_open(directory / HISTORY_CSV_FILE) as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns) or ["step"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
