"""Resumable state of a fit: what a killed one needs to end with the same bits as if nothing had happened."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mvqkd.artifacts import atomic_open
from mvqkd.quantizer.report import CurvePoint

# A hidden name: PartialArtifact removes it at commit, so that the state never becomes part of the artifact.
STATE_FILE = ".fit-state.safetensors"
METADATA_KEY = "mvqkd.fit_state"

_LOG = logging.getLogger(__name__)


@dataclass
class FitPosition:
    """How far a fit is.

    Attributes:
        phase: the one that runs, from 1 on; past the last one when the fit is done.
        step: steps done in it.
        steps_taken: by every phase that has ended.
        curve: held-out errors so far.
        best_error: the lowest of this phase that counts as an improvement; None before the first.
        stale_evaluations: evaluations since.
        stopped_early: a phase ended before its last step.
        wall_s, cpu_s: spent so far.
    """

    phase: int = 1
    step: int = 0
    steps_taken: list[int] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    best_error: float | None = None
    stale_evaluations: int = 0
    stopped_early: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0


class StateFile:
    """One atomic safetensors file, with the position as JSON in its header.

    Args:
        directory: where it lies.
        key: of the config and the data; a file with another key is left alone until it is overwritten.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._path = Path(directory) / STATE_FILE
        self._key = key

    def load(self) -> tuple[FitPosition, dict[str, Tensor]] | None:
        """What ``save`` wrote; None where there is nothing, or nothing that belongs to this fit."""
        if not self._path.is_file():
            return None
        try:
            with safe_open(self._path, "pt") as stream:
                header: dict[str, Any] = json.loads((stream.metadata() or {})[METADATA_KEY])
                if header["key"] != self._key:
                    _LOG.warning("%s belongs to a fit of another config or other data: starting anew", self._path)
                    return None
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  # not a mapping
            position = FitPosition(**header["position"])
            position.curve = [CurvePoint(**point) for point in header["position"]["curve"]]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            _LOG.warning("%s cannot be read (%s): starting anew", self._path, error)
            return None
        _LOG.info("fit-quantizer: going on at phase %d, step %d", position.phase, position.step)
        return position, tensors

    def save(self, position: FitPosition, tensors: dict[str, Tensor]) -> None:
        """Replace the file."""
        header = json.dumps({"key": self._key, "position": asdict(position)})
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(on_cpu, {METADATA_KEY: header})
        with atomic_open(self._path, "wb") as stream:
            stream.write(content)
