"""Data-parallel training: the ranks of a run, what they tell each other, and which batches are whose.

torchrun, or whatever starts one process a rank, says so in the environment: RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Without WORLD_SIZE a process trains alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from mvqkd.errors import ConfigError, TrainingError
from mvqkd.train.preemption import TrainingStopped

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

# How long a rank waits for the others before it gives up: far longer than the slowest of steps, dev splits and disks.
# A rank that ends, by an error or a signal, is noticed at once; this is for one that hangs.
PEER_TIMEOUT_S = 900
# What torch's errors say when another rank has gone.
_BACKENDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run, and the collective operations that all of them call together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes artifacts, shows progress and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over all ranks, the same bits on each; not finite where it is not on one of them."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all ranks."""
        if self.size == 1:
            return values
        import torch.distributed as dist

        values = values.clone()
        dist.all_reduce(values)
        return values

    def share(self, value: T) -> T:
        """Rank 0's value on every rank; also the point where ranks wait for rank 0."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def join_lists(self, values: Sequence[T]) -> list[T]:
        """The lists of all ranks, one behind the other."""
        if self.size == 1:
            return list(values)
        import torch.distributed as dist

        lists: list[Any] = [None] * self.size
        dist.all_gather_object(lists, list(values))
        return [value for part in lists for value in part]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module in a form whose backward pass averages gradients over the ranks; all start with rank 0's weights.

        Every parameter must get a gradient in every step.
        """
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
        # The buffers, equal from here on, never change. (The argument has different names in different versions.)
        parallel.broadcast_buffers = False
        return parallel

    def accumulate(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """A block whose backward pass of a wrapped module leaves gradients to be averaged by the next one."""
        if self.size == 1:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[None] = module.no_sync()  # type: ignore[operator]  # what wrap gave
        return context


ALONE = Ranks()


def ranks_of_environment() -> Ranks:
    """Read which of how many ranks this process is.

    Raises:
        ConfigError: a variable is missing or is no number in its range.
    """
    size = _variable("WORLD_SIZE", 1, at_least=1)
    if size == 1:
        return ALONE
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise _bad_variable(name, "a value beside WORLD_SIZE", "none")
    rank = _variable("RANK", 0, below=size)
    local_size = _variable("LOCAL_WORLD_SIZE", 1, at_least=1)
    return Ranks(rank, size, _variable("LOCAL_RANK", 0, below=local_size), local_size)


@contextlib.contextmanager
def join_ranks(device: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Meet the other ranks of the environment; leave them when the block ends well.

    Args:
        device: a torch device; with several ranks on CUDA the local rank picks the card.
    Returns:
        The ranks and the device of this one.
    Raises:
        ConfigError: see ``ranks_of_environment``.
        TrainingError: another rank ended or did not answer for ``PEER_TIMEOUT_S``.
    """
    import torch

    ranks, here = ranks_of_environment(), torch.device(device)
    with _agent_is_told():
        if ranks.size == 1:
            yield ranks, here
        else:
            with _process_group(ranks, here) as card:
                yield ranks, card


@contextlib.contextmanager
def _process_group(ranks: Ranks, here: torch.device) -> Iterator[torch.device]:
    import torch
    import torch.distributed as dist

    if here.type == "cuda":
        here = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(here)
    # Objects and barriers take gloo on either device; gradients on cards take nccl.
    backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, rank=ranks.rank, world_size=ranks.size, timeout=timedelta(seconds=PEER_TIMEOUT_S)
        )
        yield here
    except TrainingStopped:
        dist.destroy_process_group()  # all ranks stop together
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(name in str(error).lower() for name in _BACKENDS)):
            raise
        raise TrainingError(
            f"train-student, rank {ranks.rank} of {ranks.size}",
            expected=f"an answer of every rank within {PEER_TIMEOUT_S} s",
            got=str(error).splitlines()[0],
            next_step="mend what ended the first rank that failed, then run the same command again to go on",
        ) from error
    # Not after an error: nccl would wait here for what the others no longer send, and the process ends anyway.
    dist.destroy_process_group()


@contextlib.contextmanager
def _agent_is_told() -> Iterator[None]:
    """Leave an error, with its time, where torchrun's agent looks for the first of its ranks that failed."""
    try:
        yield
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        raise


@dataclass(frozen=True)
class StepPlan:
    """The batches of one optimizer step, those of all ranks, in order of their position in the step."""

    batches: Sequence[list[Any]]
    # The others fill the last step of an epoch and were seen before.
    num_new: int

    @property
    def new_duration_s(self) -> float:
        """Audio of the batches that the epoch has not seen yet."""
        return sum(float(sum(cut.duration for cut in cuts)) for cuts in self.batches[: self.num_new])

    def of_rank(self, ranks: Ranks) -> Sequence[list[Any]]:
        """This rank's batches: those at positions rank, rank + size, ..."""
        return self.batches[ranks.rank :: ranks.size]


def plan_steps(plan: Sequence[list[Any]], start: int, step_batches: int) -> list[StepPlan]:
    """Group an epoch's batches into steps of ``step_batches``, from batch ``start`` on.

    The epoch's first batches fill the last step, so that each step is whole: means over a step weigh the same and
    no rank is left without work.
    """
    return [
        StepPlan(
            [plan[(first + offset) % len(plan)] for offset in range(step_batches)],
            num_new=min(step_batches, len(plan) - first),
        )
        for first in range(start, len(plan), step_batches)
    ]


def _variable(name: str, default: int, *, at_least: int = 0, below: int | None = None) -> int:
    text = os.environ.get(name, str(default))
    wanted = f"an integer from {at_least}" + (f" to {below - 1}" if below is not None else " on")
    if not text.isdigit() or int(text) < at_least or (below is not None and int(text) >= below):
        raise _bad_variable(name, wanted, text)
    return int(text)


def _bad_variable(name: str, expected: str, got: str) -> ConfigError:
    return ConfigError(
        f"environment variable {name}",
        expected=expected,
        got=got,
        next_step="start the ranks with torchrun, or unset WORLD_SIZE to train in one process",
    )
