"""Real prompts, a real teacher, a quantizer fitted here: prompts that it has not seen are no drift, other sound is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray

from mvqkd.codebook.encode import encode_ci
from mvqkd.config import EncodeCiConfig, ExtractTeacherConfig, FitQuantizerConfig, PrepareDataConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.data.prepare import prepare_data
from mvqkd.errors import MvqkdError
from mvqkd.quantizer.drift import compare_errors, compare_usage, joined
from mvqkd.quantizer.fit_stage import fit_quantizer
from mvqkd.report.baseline import Baseline, load_baseline
from mvqkd.report.listening import listen_to
from mvqkd.report.monitor import Limits, monitor
from mvqkd.report.recordings import Recording
from mvqkd.teacher.extract import extract_teacher

pytestmark = pytest.mark.slow

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("speech") / "data"
    try:
        return prepare_data(PrepareDataConfig(), out=out).path
    except MvqkdError as error:
        pytest.skip(f"no real speech on this machine: {error}")


@pytest.fixture(scope="module")
def prompts(data: Path) -> list[Floats]:
    """The test split: prompts that neither sample nor quantizer have seen."""
    from mvqkd.artifacts import load_artifact

    return [load_audio(cut) for cut in load_cuts(load_artifact(data), "test")]


@pytest.fixture(scope="module")
def baseline(data: Path) -> Baseline:
    root = data.parent
    embeddings = extract_teacher(
        ExtractTeacherConfig(num_frames=30_000), data=data, out=root / "teacher-embeddings"
    ).path
    fitting = FitQuantizerConfig(phase_1_steps=60, phase_2_steps=120)
    quantizer = fit_quantizer(fitting, teacher_embeddings=embeddings, out=root / "quantizer").path
    indexes = encode_ci(
        EncodeCiConfig(speeds=[1.0]), data=data, teacher_embeddings=embeddings, quantizer=quantizer, out=root / "ci"
    ).path
    return load_baseline(quantizer=quantizer, teacher_embeddings=embeddings, codebook_indexes=indexes)


def recordings(audio: list[Floats]) -> list[Recording]:
    return [Recording(str(number), lambda samples=samples: samples) for number, samples in enumerate(audio)]


def test_unseen_prompts_are_no_drift_however_they_are_drawn(baseline: Baseline, prompts: list[Floats]) -> None:
    """60 draws of 25 to 75 prompts, with the limits as they are by default: at most 3 alarms."""
    heap, limits = listen_to(recordings(prompts), baseline, None, 3600.0), Limits()
    rng, alarms = np.random.default_rng(0), 0
    options = {"resamples": 400, "significance": limits.max_false_alarms / 2}
    for _ in range(60):
        drawn = rng.permutation(len(heap.pieces))[: rng.integers(25, 76)]
        usage, errors = joined([heap.pieces[place] for place in drawn], baseline.quantizer.codebook_size)
        error = compare_errors(errors, baseline.errors, **options)
        used = compare_usage(usage, baseline.usage, **options)
        alarms += (error.chance <= 0.005 and abs(error.change / error.reference) > limits.max_error_change) or (
            used.chance <= 0.005 and used.change > limits.max_usage_divergence
        )
    assert alarms <= 3


def band(samples: Floats) -> Floats:
    """As a telephone of 8 kHz gives it."""
    return np.asarray(soxr.resample(soxr.resample(samples, 16_000, 8_000), 8_000, 16_000), dtype=np.float32)


def noise(samples: Floats) -> Floats:
    """White noise at 20 dB."""
    level = np.sqrt(np.mean(samples**2) / 100)
    return (samples + level * np.random.default_rng(0).standard_normal(len(samples))).astype(np.float32)


CHANGES: dict[str, Callable[[Floats], Floats]] = {
    "a telephone band": band,
    "noise": noise,
    "speech backwards": lambda samples: samples[::-1].copy(),
    "silence": lambda samples: np.zeros_like(samples),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_prompts_changed_are_drift(baseline: Baseline, prompts: list[Floats], change: str) -> None:
    found = monitor(recordings([CHANGES[change](samples) for samples in prompts]), baseline, Limits())
    assert found.drift, [check.explanation for check in found.checks]
