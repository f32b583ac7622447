"""Learning-rate schedules: what every one of them must be, over all shares, and where each of them ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.config import Schedule, TrainStudentConfig, literal_choices, load_section
from mvqkd.errors import ConfigError
from mvqkd.train.schedule import EDEN_TURN, learning_rate_factor

SCHEDULES: tuple[Schedule, ...] = literal_choices(Schedule)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
shares = st.floats(0, 1)
warm_ups = st.floats(0.01, 0.9)


@every_schedule
@given(progress=shares, warmup_share=warm_ups)
def test_positive_until_the_end_and_at_most_one(schedule: Schedule, progress: float, warmup_share: float) -> None:
    factor = learning_rate_factor(schedule, progress, warmup_share)
    assert 0 <= factor <= 1
    assert factor > 0 or progress > 0.99


@every_schedule
@given(progress=shares, warmup_share=warm_ups)
def test_continuous(schedule: Schedule, progress: float, warmup_share: float) -> None:
    # No schedule is steeper than its warm-up, but cosine right behind a warm-up that leaves it little room.
    steepest = max(1 / warmup_share, math.pi / 2 / (1 - warmup_share))
    step = 1e-4
    change = learning_rate_factor(schedule, progress + step, warmup_share) - learning_rate_factor(
        schedule, progress, warmup_share
    )
    assert abs(change) <= 1.01 * steepest * step


@every_schedule
@given(share=shares, warmup_share=warm_ups)
def test_the_warm_up_never_falls_and_what_follows_never_rises(
    schedule: Schedule, share: float, warmup_share: float
) -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor(schedule, progress, warmup_share)

    rising, falling = share * warmup_share, warmup_share + share * (1 - warmup_share)
    # Eden's decay acts from the start, also on the floor of the warm-up.
    assert factor(rising) <= factor(warmup_share) + 1e-12 or rising < 0.02 * warmup_share
    assert factor(falling) <= factor(warmup_share) + 1e-12
    assert factor(1.0) <= factor(falling) + 1e-12


@every_schedule
def test_no_schedule_wastes_its_first_step(schedule: Schedule) -> None:
    assert 0 < learning_rate_factor(schedule, 0.0, 0.1) < 0.02


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.0), ("noam", math.sqrt(0.1)), ("eden", 101**-0.5)])
def test_where_it_ends(schedule: Schedule, end: float) -> None:
    assert learning_rate_factor(schedule, 1.0, 0.1) == pytest.approx(end)


@given(progress=st.floats(0.1, 1))
def test_eden_is_icefalls_formula_in_shares(progress: float) -> None:
    steps = ((progress**2 + EDEN_TURN**2) / EDEN_TURN**2) ** -0.25
    epochs = ((progress**2 + EDEN_TURN**2) / EDEN_TURN**2) ** -0.25
    assert learning_rate_factor("eden", progress, 0.1) == pytest.approx(steps * epochs)


def test_noam_without_a_warm_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="noam needs a warmup_share above 0"):
        load_section(TrainStudentConfig, None, {"schedule": "noam", "warmup_share": 0})
    assert learning_rate_factor("eden", 0.0, 0.0) == learning_rate_factor("cosine", 0.0, 0.0) == 1.0
