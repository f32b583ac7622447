"""Parts of the loop: steps of an epoch, ranks of the environment, prefetching, the end of training, its history."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvqkd.errors import ConfigError
from mvqkd.train.bad_batches import describe
from mvqkd.train.distributed import ALONE, Ranks, plan_steps, ranks_of_environment
from mvqkd.train.prefetch import prefetch
from mvqkd.train.state import HISTORY_CSV_FILE, TrainerState, write_history


def plan_of(count: int) -> list[list[SimpleNamespace]]:
    return [[SimpleNamespace(duration=1.0 + number)] for number in range(count)]


@given(count=st.integers(1, 40), size=st.integers(1, 4), accumulate=st.integers(1, 4), share=st.floats(0, 1))
def test_ranks_together_see_each_batch_once_and_all_work_in_each_step(
    count: int, size: int, accumulate: int, share: float
) -> None:
    plan, start = plan_of(count), int(share * count)
    steps = plan_steps(plan, start, size * accumulate)
    new = [batch for step in steps for batch in step.batches[: step.num_new]]
    assert [id(batch) for batch in new] == [id(batch) for batch in plan[start:]]
    assert sum(step.new_duration_s for step in steps) == pytest.approx(sum(cuts[0].duration for cuts in plan[start:]))
    for step in steps:
        parts = [step.of_rank(Ranks(rank, size)) for rank in range(size)]
        assert all(len(part) == accumulate for part in parts)
        # Position in the step: number of the batch on its rank x ranks + rank.
        assert [id(part[number]) for number in range(accumulate) for part in parts] == [id(b) for b in step.batches]


def test_the_last_step_is_filled_with_the_epochs_first_batches() -> None:
    plan = plan_of(5)
    last = plan_steps(plan, 0, 3)[-1]
    assert list(last.batches) == [plan[3], plan[4], plan[0]]
    assert last.num_new == 2


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in {**TORCHRUN, **MASTER}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, {**TORCHRUN, **MASTER})
    assert ranks_of_environment() == Ranks(rank=3, size=4, local_rank=1, local_size=2)
    assert not ranks_of_environment().is_main
    set_environment(monkeypatch, {})
    assert ranks_of_environment() == ALONE
    assert ALONE.is_main


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({**TORCHRUN}, "MASTER_ADDR: expected a value beside WORLD_SIZE, got none; start the ranks with torchrun"),
        ({**TORCHRUN, **MASTER, "RANK": "4"}, "RANK: expected an integer from 0 to 3, got 4"),
        ({**MASTER, "WORLD_SIZE": "2"}, "RANK: expected a value beside WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected an integer from 1 on, got two"),
    ],
)
def test_an_environment_that_is_not_whole_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    set_environment(monkeypatch, variables)
    with pytest.raises(ConfigError, match=message):
        ranks_of_environment()


def test_prefetch_keeps_the_order_and_is_one_item_ahead() -> None:
    begun: list[int] = []
    finished = [threading.Event() for _ in range(5)]

    def load(item: int) -> str:
        begun.append(item)
        finished[item].set()
        return str(item)

    loaded = prefetch(range(5), load)
    assert next(loaded) == "0"
    assert finished[1].wait(10), "the next item is loaded while the first is used"
    assert begun == [0, 1]
    assert [*loaded] == ["1", "2", "3", "4"]
    assert list(prefetch([], load)) == []


def test_the_loading_thread_computes_alone_and_the_caller_keeps_its_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loaded = prefetch(range(3), lambda item: torch.get_num_threads())
        assert next(loaded) == 1
        assert torch.get_num_threads() == 3
        assert [*loaded] == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_an_error_while_prefetching_comes_at_its_place_and_no_thread_is_left() -> None:
    def load(item: int) -> int:
        if item == 1:
            raise ValueError("item 1 cannot be read")
        return item

    loaded = prefetch(range(3), load)
    assert next(loaded) == 0
    with pytest.raises(ValueError, match="item 1 cannot be read"):
        next(loaded)
    abandoned = prefetch(range(3), load)
    next(abandoned)
    abandoned.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mvqkd-load")]


@pytest.mark.parametrize(
    ("dev_losses", "patience", "best"),
    [
        ([], 0, None),
        ([3.0, 2.0, 1.0], 2, None),
        ([3.0, 1.0, 2.0], 2, None),
        ([3.0, 1.0, 2.0, 1.0], 2, 1),  # as good is no better
        ([3.0, 1.0, 2.0, 2.0, 2.0, 0.5], 9, 5),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 9, 0),
    ],
)
def test_training_ends_with_its_epochs_or_its_patience(
    dev_losses: list[float], patience: int, best: int | None
) -> None:
    state = TrainerState(epoch=len(dev_losses), dev_losses=dev_losses)
    assert state.last_epoch(6, patience) == best


def test_without_patience_the_last_epoch_is_the_best() -> None:
    assert TrainerState(epoch=6, dev_losses=[1.0] * 6).last_epoch(6, 0) == 5
    assert TrainerState(epoch=5).last_epoch(6, 0) is None


def test_throughput_counts_steps_and_waiting() -> None:
    state = TrainerState(seen_s=100.0, busy_s=3.0, data_wait_s=1.0)
    assert state.audio_s_per_s == 25.0
    assert state.data_wait_share == 0.25
    assert TrainerState().data_wait_share == 0.0


def test_a_column_that_only_some_rows_have_is_in_the_table(tmp_path: Path) -> None:
    write_history(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "dev_loss": 1.5}])
    with (tmp_path / HISTORY_CSV_FILE).open() as stream:
        assert [row["dev_loss"] for row in csv.DictReader(stream)] == ["", "1.5"]


def test_names_of_cuts_in_a_message_are_few() -> None:
    assert describe(["a"], ["a", "b"]) == "cuts to blame: a"
    assert describe([], list("abcdefg")) == "no cut alone is to blame; in the batch: a, b, c, d, e and 2 more"
