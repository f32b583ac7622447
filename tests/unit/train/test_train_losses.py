"""The loss of a batch is the weighted sum of its parts, with weights that may change over the run."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mvqkd.config import TrainStudentConfig, load_section
from mvqkd.data.batches import Batch
from mvqkd.student.model import Student
from mvqkd.testing.student import TINY_TRAINING
from mvqkd.train.augment import seed_step
from mvqkd.train.distillation import CodebookObjective
from mvqkd.train.losses import TrainingLosses

TINY = {**TINY_TRAINING, "spec_augment": False, "model.dropout": 0.0}


@dataclass
class Cut:
    id: str
    num_samples: int


BATCH = Batch(
    cuts=[Cut("read", 16_000), Cut("heard", 16_000)],
    features=torch.randn(2, 100, 80, generator=torch.Generator().manual_seed(0)),
    feature_lengths=torch.tensor([100, 100]),
    symbols=torch.tensor([[1, 2, 3], [0, 0, 0]]),
    symbol_lengths=torch.tensor([3, 0]),
    student_frames=torch.tensor([24, 24]),
    transcribed=torch.tensor([True, False]),
)


def read_indexes(cut: Any) -> np.ndarray:
    return np.full((50, 2), 7 if cut.id == "read" else 9, dtype=np.uint8)


def losses_of(**changes: object) -> TrainingLosses:
    config = load_section(TrainStudentConfig, None, {**TINY, **changes})
    torch.manual_seed(0)
    student = Student(config.model, vocab_size=5)
    objective = CodebookObjective(read_indexes, Fraction(50), hidden_dim=32, num_codebooks=2, codebook_size=16)
    return TrainingLosses(config, student, objective, torch.device("cpu"))


@pytest.mark.parametrize(
    ("end", "progress", "scale"), [(None, 0.5, 0.8), (0.2, 0.0, 0.8), (0.2, 0.5, 0.5), (0.2, 1.0, 0.2), (0.2, 1.1, 0.2)]
)
def test_the_loss_is_the_weighted_sum_of_its_parts(end: float | None, progress: float, scale: float) -> None:
    module = losses_of(codebook_scale=0.8, codebook_scale_end=end, warmup_share=0)
    found = module(BATCH, progress)
    expected = (
        0.5 * found["simple_loss"]
        + found["transducer_loss"]
        + 0.3 * found["ctc_loss"]
        + scale * found["distillation_loss"]
    )
    torch.testing.assert_close(found["loss"], expected)


def test_speech_without_text_counts_in_distillation_alone() -> None:
    module = losses_of().eval()
    alone = Batch(
        BATCH.cuts[:1],
        *(getattr(BATCH, name)[:1] for name in ("features", "feature_lengths", "symbols", "symbol_lengths")),
        BATCH.student_frames[:1],
        BATCH.transcribed[:1],
    )
    with torch.no_grad():
        both, one = module(BATCH, 1.0), module(alone, 1.0)
    for name in ("transducer_loss", "simple_loss", "ctc_loss"):
        torch.testing.assert_close(both[name], one[name])
    assert not torch.isclose(both["distillation_loss"], one["distillation_loss"])


def test_training_hears_silence_and_evaluation_does_not() -> None:
    module = losses_of(silence_s=0.6)
    without = losses_of()
    seed_step(1, 0)
    with_silence = module.train()(BATCH, 0.5)
    assert all(torch.isfinite(value) for value in with_silence.values())
    assert with_silence["loss"] != without.train()(BATCH, 0.5)["loss"]
    assert torch.equal(module.eval()(BATCH, 0.5)["loss"], without.eval()(BATCH, 0.5)["loss"])


def test_with_a_stride_each_frame_has_the_distillation_loss_in_its_turn() -> None:
    every, second = losses_of(distillation_stride=1), losses_of(distillation_stride=2)
    with torch.no_grad():
        full = every(BATCH, 0.5)
        halves = []
        for step in range(12):
            seed_step(step, 0)
            found = second(BATCH, 0.5)
            torch.testing.assert_close(found["transducer_loss"], full["transducer_loss"])
            halves.append(found["distillation_loss"])
    first = halves[0]
    other = next(half for half in halves if not torch.isclose(half, first))
    assert all(torch.isclose(half, first) or torch.isclose(half, other) for half in halves)
    torch.testing.assert_close((first + other) / 2, full["distillation_loss"])
    with torch.no_grad():
        evaluated = second.eval()(BATCH, 0.5)["distillation_loss"]
    torch.testing.assert_close(evaluated, every.eval()(BATCH, 0.5)["distillation_loss"])


def test_a_stride_beyond_the_frames_leaves_one_of_them() -> None:
    with torch.no_grad():
        losses = [losses_of(distillation_stride=1000)(BATCH, 0.5)["distillation_loss"] for _ in range(5)]
    assert all(torch.isfinite(loss) for loss in losses)
