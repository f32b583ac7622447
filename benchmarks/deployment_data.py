"""The test audio: the scored split of a data artifact, and any manifest of JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.artifacts import content_hash, load_artifact
from mvqkd.data.audio import load_audio, read_audio
from mvqkd.data.text import normalize_text
from mvqkd.decode.scored_split import load_scored_split
from mvqkd.frames import SAMPLE_RATE_HZ

NORMALIZER = "upper-ascii-1"
ONSET_WINDOW_S = 0.01
# Below the loudest of the recording: over the noise floor of all our test speech, under its quietest sounds.
ONSET_RANGE_DB = 30


@dataclass(frozen=True)
class TestSet:
    """Utterances: float32 (num_samples,) each at 16 kHz, and normalised references.

    Attributes:
        train_minutes: of the speech of this kind that the student has heard; 0 for a manifest.
    """

    name: str
    audio: list[Any]
    refs: list[str]
    sha256: str
    train_minutes: float = 0.0

    @property
    def durations_s(self) -> list[float]:
        return [len(samples) / SAMPLE_RATE_HZ for samples in self.audio]

    def facts(self) -> dict[str, Any]:
        """What the results say of it."""
        return {
            **{"utterances": len(self.audio), "duration_s": sum(self.durations_s)},
            **{"words": sum(len(ref.split()) for ref in self.refs), "sha256": self.sha256},
            "train_minutes": self.train_minutes,
            "median_utterance_s": float(np.median(self.durations_s)),
        }


def load_split(data_dir: Path, limit: int | None) -> TestSet:
    """The test split of a prepare-data artifact."""
    data = load_artifact(data_dir, "cut-manifest")
    split = load_scored_split(data, "test")
    audio = [load_audio(cut) for cut in split.cuts[:limit]]
    train_minutes = 60 * data.facts["hours"]["train"]
    return TestSet("test split", audio, list(split.refs[:limit]), split.sha256, train_minutes)


def load_manifest(path: Path, limit: int | None) -> TestSet:
    """A manifest of JSON lines: audio (relative to it) and text; named by its folder and file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:limit]
    audio = [read_audio(path.parent / row["audio"]) for row in rows]
    refs = [normalize_text(row["text"], NORMALIZER) for row in rows]
    name = f"{path.resolve().parent.name}, {path.stem}"
    return TestSet(name, audio, refs, content_hash([[row["audio"], row["text"]] for row in rows]))


def onset_s(samples: Any) -> float:
    """Where speech begins: the first 10 ms within 30 dB of the loudest 10 ms."""
    size = round(ONSET_WINDOW_S * SAMPLE_RATE_HZ)
    whole = samples[: len(samples) // size * size].reshape(-1, size)
    if not len(whole):
        return 0.0
    energy = np.square(whole, dtype=np.float64).mean(axis=1)
    return float(np.argmax(energy >= energy.max() * 10 ** (-ONSET_RANGE_DB / 10)) * ONSET_WINDOW_S)
