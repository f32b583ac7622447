from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mvqkd.artifacts import Artifact
from mvqkd.config import PrepareDataConfig
from mvqkd.data.prepare import prepare_data
from mvqkd.testing.corpus import make_corpus

Rows = list[dict[str, Any]]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Manifest of 12 synthetic utterances by 4 speakers."""
    return make_corpus(tmp_path / "corpus", 12, seed=1)


@pytest.fixture
def edit(corpus: Path) -> Callable[[Callable[[Rows], None]], Path]:
    """Change the manifest's rows in place."""

    def apply(change: Callable[[Rows], None]) -> Path:
        rows = [json.loads(line) for line in corpus.read_text().splitlines()]
        change(rows)
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return corpus

    return apply


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Artifact]:
    """Run prepare-data on a manifest; keywords are parameters."""

    def run(manifest: Path, *, name: str = "data", **parameters: Any) -> Artifact:
        config = PrepareDataConfig(source="manifest", manifest=str(manifest), **parameters)
        return prepare_data(config, out=tmp_path / name)

    return run


@pytest.fixture
def tone() -> Callable[..., None]:
    """Write a noisy tone: write(path, duration_s, rate_hz, channels, gain)."""

    def write(path: Path, duration_s: float = 1.0, rate_hz: int = 16_000, channels: int = 1, gain: float = 0.2) -> None:
        time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
        samples = gain * np.sin(2 * np.pi * 440 * time_s)
        soundfile.write(path, np.stack([samples] * channels, axis=1), rate_hz)

    return write
