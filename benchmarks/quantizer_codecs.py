"""Ours and the reference behind one interface: settings that fit, encode and decode; each at one byte a codebook.

Settings are frozen values, so that a fit can be found again by them. A fitted model stays opaque to the measurements.
"""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import mvqkd.quantizer
from mvqkd.config import FitQuantizerConfig
from mvqkd.progress import track

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
REFERENCE = "multi-quantization"
# Both implementations are compared at this many refine passes, the public one's default.
ITERATIONS = 5
ENTRIES = 256


@dataclass(frozen=True)
class Codec:
    """Base: what every codec can do. ``package`` is the distribution that it needs, None for ours."""

    package: ClassVar[str | None] = None
    # Settings that change how vectors are encoded, not what is fitted.
    encode_settings: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def budget(self) -> str:
        """How long it is fitted, for the table."""
        raise NotImplementedError

    @property
    def batch(self) -> int:
        """Vectors given to ``encode`` at once where its speed and memory are measured."""
        return 4096

    def fit_settings(self) -> dict[str, Any]:
        """All that decides about a fit, code and package versions included."""
        settings = {key: value for key, value in asdict(self).items() if key not in self.encode_settings}
        version = code_digest() if self.package is None else importlib.metadata.version(self.package)
        return settings | {"codec": type(self).__name__, "version": version}

    def before_fit(self, vectors: Floats, num_bytes: int) -> None:
        """What only the first fit on a machine pays."""

    def fit(self, vectors: Floats, num_bytes: int, seed: int) -> Any:
        raise NotImplementedError

    def save(self, model: Any, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> Any:
        raise NotImplementedError

    def encode(self, model: Any, vectors: Floats) -> Codes:
        """uint8 (B, bytes) of float32 (B, D)."""
        raise NotImplementedError

    def decode(self, model: Any, codes: Codes) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True)
class Ours(Codec):
    """mvqkd.quantizer with its default parameters but for ``changes``."""

    encode_settings = frozenset({"mode", "iterations"})
    mode: Literal["exact", "best", "fast"] = "exact"
    iterations: int = ITERATIONS
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"ours, {self.mode}"

    @property
    def budget(self) -> str:
        config = FitQuantizerConfig.model_validate(dict(self.changes))
        return f"{config.phase_1_steps} + {config.phase_2_steps} steps of {config.batch_size}"

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Of both phases."""
        config = FitQuantizerConfig.model_validate(dict(self.changes))
        return config.learning_rate, config.phase_2_learning_rate

    def fit_settings(self) -> dict[str, Any]:
        # An exported quantizer is the same fit.
        return super().fit_settings() | {"codec": Ours.__name__, "version": code_digest()}

    def before_fit(self, vectors: Floats, num_bytes: int) -> None:
        # Compiles the search.
        few = {**dict(self.changes), "phase_1_steps": 2, "phase_2_steps": 2}
        Ours(changes=tuple(few.items())).fit(vectors[:1024], num_bytes, 0)

    def fit(self, vectors: Floats, num_bytes: int, seed: int) -> mvqkd.quantizer.Quantizer:
        from mvqkd.quantizer.fit import fit

        parameters = {"num_codebooks": num_bytes, **dict(self.changes), "seed": seed, "device": "cpu"}
        return fit(torch.from_numpy(vectors), FitQuantizerConfig.model_validate(parameters)).quantizer

    def save(self, model: mvqkd.quantizer.Quantizer, folder: Path) -> None:
        model.save(folder)

    def load(self, folder: Path) -> Any:
        return mvqkd.quantizer.Quantizer.load(folder)

    def encode(self, model: Any, vectors: Floats) -> Codes:
        return model.encode(torch.from_numpy(vectors), self.mode, self.iterations).numpy()

    def decode(self, model: Any, codes: Codes) -> Floats:
        return model.decode(torch.from_numpy(codes)).numpy()


@dataclass(frozen=True)
class Reference(Codec):
    """The public implementation, its own trainer and its own encode."""

    package = REFERENCE
    encode_settings = frozenset({"block"})
    # Its learning rate is halved at quarters of a phase only where four divides the number of steps.
    phase_1_steps: int = 152
    phase_2_steps: int = 600
    batch_size: int = 512
    # Its default, 0.005, is made for 20,000 steps: after 320, it left 4 to 8 % more error than this.
    learning_rate: float = 0.02
    # It gathers megabytes a vector: of blocks of 8 to 128, small ones are its fastest.
    block: int = 16

    @property
    def name(self) -> str:
        return "reference"

    @property
    def budget(self) -> str:
        return f"{self.phase_1_steps} + {self.phase_2_steps} steps of {self.batch_size}, rate {self.learning_rate:g}"

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Of both phases: its trainer halves it between them."""
        return self.learning_rate, self.learning_rate / 2

    @property
    def batch(self) -> int:
        return self.block

    def fit(self, vectors: Floats, num_bytes: int, seed: int) -> Any:
        from multi_quantization import QuantizerTrainer

        random.seed(seed)
        torch.manual_seed(seed)
        trainer = QuantizerTrainer(
            vectors.shape[1],
            num_bytes,
            torch.device("cpu"),
            phase_one_iters=self.phase_1_steps,
            phase_two_iters=self.phase_2_steps,
            lr=self.learning_rate,
        )
        # One step more than it is told: that is how it counts.
        total = self.phase_1_steps + self.phase_2_steps + 1
        for rows in track(batches(len(vectors), self.batch_size, total, seed), "reference", total=total, unit="step"):
            trainer.step(torch.from_numpy(vectors[rows]))
        assert trainer.done()
        return trainer.get_quantizer().requires_grad_(False)

    def save(self, model: Any, folder: Path) -> None:
        torch.save(model.state_dict(), folder / "reference.pt")

    def load(self, folder: Path) -> Any:
        return reference_of(torch.load(folder / "reference.pt", weights_only=True))

    @torch.inference_mode()
    def encode(self, model: Any, vectors: Floats) -> Codes:
        blocks = torch.from_numpy(vectors).split(self.block)
        return torch.cat([model.encode(block, refine_indexes_iters=ITERATIONS) for block in blocks]).numpy()

    @torch.inference_mode()
    def decode(self, model: Any, codes: Codes) -> Floats:
        blocks = torch.from_numpy(codes).split(1024)
        return torch.cat([model.decode(block) for block in blocks]).numpy()


@dataclass(frozen=True)
class ReferenceOfOurs(Ours):
    """The public implementation's encode with the quantizer that we fitted, exported to it."""

    package = REFERENCE
    block: int = Reference.block
    encode_settings = Ours.encode_settings | {"block"}

    @property
    def name(self) -> str:
        return "reference, our quantizer"

    @property
    def batch(self) -> int:
        return self.block

    def load(self, folder: Path) -> Any:
        from mvqkd.quantizer.interop import to_multi_quantization

        ours = super().load(folder)
        return ours, reference_of(to_multi_quantization(ours, normalized_input=True))

    def encode(self, model: Any, vectors: Floats) -> Codes:
        ours, reference = model
        return Reference(block=self.block).encode(reference, ours.normalize(torch.from_numpy(vectors)).numpy())

    def decode(self, model: Any, codes: Codes) -> Floats:
        return super().decode(model[0], codes)


def reference_of(state: dict[str, torch.Tensor]) -> Any:
    """The public implementation's quantizer with these tensors."""
    from multi_quantization import Quantizer

    num_codebooks, size, dim = state["centers"].shape
    model = Quantizer(dim, size, num_codebooks)
    model.load_state_dict(state)
    return model.requires_grad_(False)


def missing_package(codec: Codec) -> str | None:
    """The distribution that a codec needs and that is not installed."""
    if codec.package is None:
        return None
    try:
        importlib.metadata.version(codec.package)
    except importlib.metadata.PackageNotFoundError:
        return codec.package
    return None


def code_digest() -> str:
    """First digits of the hash of our codec's sources: figures of other sources are not reused."""
    digest = sha256()
    for path in sorted(Path(mvqkd.quantizer.__file__).parent.glob("*.py")):
        if not path.name.startswith(("report", "fit_stage")):
            digest.update(path.read_bytes())
    digest.update(str({key: repr(value) for key, value in FitQuantizerConfig().model_dump().items()}).encode())
    return digest.hexdigest()[:12]


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each step: a fresh permutation an epoch, the last short batch dropped."""
    generator = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < size:
            order = generator.permutation(count)
        yield order[:size]
        order = order[size:]
