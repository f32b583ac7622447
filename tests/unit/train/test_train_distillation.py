"""Distillation objectives: alignment, chance levels, padding, refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from mvqkd.data.batches import Batch
from mvqkd.errors import FrameAlignmentError
from mvqkd.frames import IGNORE_INDEX, num_feature_frames, num_student_frames
from mvqkd.train.codebook_predictor import CodebookPredictor
from mvqkd.train.distillation import CodebookObjective, RegressionObjective

RATE_HZ = Fraction(50)


@dataclass
class Cut:
    id: str
    num_samples: int


def make_batch(*num_samples: int) -> Batch:
    frames = [num_student_frames(num_feature_frames(count)) for count in num_samples]
    empty = torch.empty(0)
    cuts = [Cut(f"cut-{number}", count) for number, count in enumerate(num_samples)]
    everything = torch.ones(len(cuts), dtype=torch.bool)
    return Batch(cuts, empty, empty, empty, empty, torch.tensor(frames), everything)


def indexes_of(cut: Cut, *, short_by: int = 0) -> np.ndarray:
    frames = round(cut.num_samples / 320) - short_by
    return np.stack([np.arange(frames) % 256, 255 - np.arange(frames) % 256], axis=1).astype(np.uint8)


def objective(read=indexes_of, delta_frames: int = 0) -> CodebookObjective:
    torch.manual_seed(0)
    return CodebookObjective(read, RATE_HZ, hidden_dim=8, num_codebooks=2, codebook_size=256, delta_frames=delta_frames)


def test_a_student_frame_predicts_the_two_teacher_frames_it_covers() -> None:
    targets = objective().targets(make_batch(16_000, 8_000))
    assert targets.shape == (2, 24, 4)
    assert targets[0, 5].tolist() == [10, 245, 11, 244]
    assert (targets[1, 12:] == IGNORE_INDEX).all()


def test_a_delay_shifts_targets_and_ignores_the_start() -> None:
    targets = objective(delta_frames=2).targets(make_batch(16_000))
    assert (targets[0, :2] == IGNORE_INDEX).all()
    assert targets[0, 2].tolist() == [0, 255, 1, 254]


def test_untrained_predictions_cost_the_chance_level() -> None:
    mvq = objective()
    mvq.predict.linear.weight.data.zero_()
    mvq.predict.linear.bias.data.zero_()
    loss = mvq(torch.randn(2, 24, 8), mvq.targets(make_batch(16_000, 8_000)))
    assert loss.item() == pytest.approx(mvq.chance_level) == pytest.approx(math.log(256))


def test_padding_frames_do_not_enter_the_loss() -> None:
    mvq = objective()
    targets = mvq.targets(make_batch(16_000, 8_000))
    hidden = torch.randn(2, 24, 8)
    disturbed = hidden.clone()
    disturbed[1, 12:] += 100
    torch.testing.assert_close(mvq(hidden, targets), mvq(disturbed, targets))


def test_indexes_that_do_not_fit_the_audio_are_refused_with_the_cut_id() -> None:
    with pytest.raises(FrameAlignmentError, match=r"cut cut-0: expected 50 .* got 45; re-run encode-ci"):
        objective(lambda cut: indexes_of(cut, short_by=5)).targets(make_batch(16_000))


@pytest.mark.parametrize(("distance", "chance"), [("l1", math.sqrt(2 / math.pi)), ("l2", 1.0)])
def test_regression_to_the_mean_costs_about_the_chance_level(distance: str, chance: float) -> None:
    rng = np.random.default_rng(0)
    embeddings = (rng.standard_normal((500, 6)) * 3 + 2).astype(np.float32)
    regression = RegressionObjective(
        distance,
        lambda cut: embeddings[: round(cut.num_samples / 320)],
        RATE_HZ,
        hidden_dim=8,
        mean=torch.from_numpy(embeddings.mean(0)),
        std=torch.from_numpy(embeddings.std(0)),
    )
    regression.predict.weight.data.zero_()
    regression.predict.bias.data.zero_()
    batch = make_batch(160_000, 80_000)
    loss = regression(torch.randn(2, int(batch.student_frames.max()), 8), regression.targets(batch))
    assert loss.item() == pytest.approx(chance, rel=0.05) == pytest.approx(regression.chance_level, rel=0.05)


@pytest.mark.parametrize("short_by", [1, -1])
def test_indexes_one_frame_short_are_refused_where_it_is_known_how_the_teacher_rounds(short_by: int) -> None:
    mvq = objective(lambda cut: indexes_of(cut, short_by=short_by))
    mvq.targets(make_batch(16_000))  # within the tolerance
    mvq.frame_offsets = (0, 319)
    with pytest.raises(FrameAlignmentError, match=rf"cut cut-0: expected 50 teacher frames .* got {50 - short_by}"):
        mvq.targets(make_batch(16_000))


@pytest.mark.parametrize(("layers", "joint"), [(1, False), (3, False), (1, True), (2, True)])
def test_every_parameter_of_the_predictor_learns(layers: int, joint: bool) -> None:
    predictor = CodebookPredictor(8, 4, 16, layers=layers, joint=joint)
    if predictor.joint is not None:  # it starts silent
        torch.nn.init.normal_(predictor.joint.output)
    indexes = torch.randint(0, 16, (10, 4))
    logits = predictor(torch.randn(10, 8), indexes)
    assert logits.shape == (10, 4, 16)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), indexes.flatten()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in predictor.parameters())


def test_joint_prediction_sees_the_codebooks_before_and_no_other() -> None:
    predictor = CodebookPredictor(8, 4, 16, joint=True)
    assert predictor.joint is not None
    torch.nn.init.normal_(predictor.joint.output)
    hidden, indexes = torch.randn(1, 8), torch.randint(0, 16, (1, 4))
    changed = indexes.clone()
    changed[0, 1] = (changed[0, 1] + 1) % 16
    same = torch.isclose(predictor(hidden, indexes), predictor(hidden, changed)).all(dim=2)[0]
    assert same.tolist() == [True, True, False, False]
