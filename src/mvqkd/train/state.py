"""Resumable training state: what a killed run needs to go on as if nothing had happened."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mvqkd.artifacts import atomic_open

# Hidden names: PartialArtifact removes them at commit, so that the state never becomes part of the artifact.
STATE_FILE = ".trainer-state.pt"
EPOCH_FILE = ".epoch-{:05d}.safetensors"
HISTORY_FILE = "history.jsonl"
HISTORY_CSV_FILE = "history.csv"


@dataclass
class TrainerState:
    """Position of a training run; ``batch`` counts batches of the current epoch that are done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen_s: float = 0.0
    num_bad_batches: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    # Apart from the history, which is part of the artifact and must not depend on the machine's speed.
    step_times_s: list[float] = field(default_factory=list)


def save_state(directory: Path, state: TrainerState, modules: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write position, weights and optimizer in one atomic file."""
    content = {"state": asdict(state), "modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_open(directory / STATE_FILE, "wb") as stream:
        torch.save(content, stream)


def load_state(directory: Path, modules: nn.Module, optimizer: torch.optim.Optimizer) -> TrainerState:
    """Restore what ``save_state`` wrote; a fresh state where there is none."""
    path = directory / STATE_FILE
    if not path.is_file():
        return TrainerState()
    content = torch.load(path, map_location="cpu", weights_only=True)
    modules.load_state_dict(content["modules"])
    optimizer.load_state_dict(content["optimizer"])
    return TrainerState(**content["state"])


def save_epoch(directory: Path, epoch: int, student: nn.Module, keep: int) -> None:
    """Keep the weights at the end of an epoch, and only the last ``keep`` of them."""
    path = directory / EPOCH_FILE.format(epoch)
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}, temporary)
    temporary.replace(path)
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
    with atomic_open(directory / HISTORY_CSV_FILE) as stream:
        writer = csv.DictWriter(stream, fieldnames=list(history[0]) if history else ["step"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
