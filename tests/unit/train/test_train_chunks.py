"""Which chunk size a step trains with: drawn from seed and step, and from nothing else."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from mvqkd.config import EvaluateConfig, Section, TrainStudentConfig, load_section
from mvqkd.errors import ConfigError
from mvqkd.train.chunks import chunk_of_step

CHOICES = [8, 16, 32, 0]


def test_without_choices_the_model_keeps_its_own() -> None:
    assert chunk_of_step([], 0, 0) is None


def test_a_step_always_draws_the_same_and_other_steps_and_seeds_others() -> None:
    drawn = [chunk_of_step(CHOICES, 3, step) for step in range(50)]
    assert drawn == [chunk_of_step(CHOICES, 3, step) for step in range(50)]
    assert drawn != [chunk_of_step(CHOICES, 4, step) for step in range(50)]
    # Equal in every version of Python: what a resumed run and its ranks rely on.
    assert drawn[:8] == [32, 8, 8, 16, 0, 0, 8, 8]


def test_every_choice_is_as_likely() -> None:
    counts = Counter(chunk_of_step(CHOICES, 0, step) for step in range(4000))
    assert set(counts) == set(CHOICES)
    assert all(900 < count < 1100 for count in counts.values())


def test_no_other_random_number_moves() -> None:
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(2).tolist()
    random.seed(1)
    torch.manual_seed(1)
    chunk_of_step(CHOICES, 1, 1)
    assert (random.random(), torch.rand(2).tolist()) == expected


@pytest.mark.parametrize(("model", "field"), [(TrainStudentConfig, "chunk_choices"), (EvaluateConfig, "chunk_frames")])
@pytest.mark.parametrize("chunks", [[-1], [8, 8], ["many"]])
def test_impossible_chunks_are_refused(model: type[Section], field: str, chunks: list[object]) -> None:
    with pytest.raises(ConfigError, match=field):
        load_section(model, None, {field: chunks})
    assert getattr(load_section(model, None, {field: [0, 8]}), field) == [0, 8]
