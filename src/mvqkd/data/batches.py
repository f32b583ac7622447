"""Batches for training: lhotse samples cuts by duration, this module turns them into padded tensors.

Shapes: N batch, T feature frames, U symbols.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.data.audio import load_audio
from mvqkd.data.features import ArrayCache, log_mel
from mvqkd.data.tokens import Tokens
from mvqkd.errors import EmptyCutSetError
from mvqkd.frames import SUBSAMPLING_CONTEXT_FRAMES, num_feature_frames, num_student_frames

FEATURE_CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    features float32 (N, T, 80) padded with 0; feature_lengths int64 (N,); symbols int64 (N, U) padded with blank;
    symbol_lengths int64 (N,); student_frames int64 (N,); transcribed bool (N,): whether there is a text, be it empty;
    cuts: the lhotse cuts, in the same order.
    """

    cuts: list[Any]
    features: Tensor
    feature_lengths: Tensor
    symbols: Tensor
    symbol_lengths: Tensor
    student_frames: Tensor
    transcribed: Tensor

    @property
    def duration_s(self) -> float:
        return float(sum(cut.duration for cut in self.cuts))


class BatchSource:
    """Batches of a cut set, the same for the same seed and epoch, shuffled anew every epoch.

    Args:
        untranscribed: cuts without text, of which each epoch takes others, in turn.
        untranscribed_ratio: seconds of them in an epoch for a second of ``cuts``; at most each of them once.
    """

    def __init__(
        self,
        cuts: Any,
        tokens: Tokens,
        *,
        batch_duration_s: float,
        seed: int,
        untranscribed: Any = (),
        untranscribed_ratio: float = 0.0,
    ) -> None:
        self.tokens = tokens
        self.batch_duration_s = batch_duration_s
        self.seed = seed
        self.cuts, self.num_dropped = _usable(cuts, tokens)
        transcribed_s = float(sum(cut.duration for cut in self.cuts))
        self.untranscribed = _shuffled([cut for cut in untranscribed if _fits(cut, tokens)], seed)
        mean_s = sum(cut.duration for cut in self.untranscribed) / max(1, len(self.untranscribed))
        wanted = round(untranscribed_ratio * transcribed_s / mean_s) if self.untranscribed else 0
        self._untranscribed_an_epoch = min(wanted, len(self.untranscribed))
        # Of an epoch; of untranscribed cuts, epochs have equally many, not equally long ones.
        self.total_duration_s = transcribed_s + self._untranscribed_an_epoch * mean_s
        self._features: ArrayCache[Any] = ArrayCache(
            lambda cut: log_mel(load_audio(cut)), lambda cut: str(cut.id), FEATURE_CACHE_BYTES
        )

    def plan(self, epoch: int) -> list[list[Any]]:
        """Which cuts go together in an epoch, without loading anything: for all ranks alike, to take their parts of."""
        from lhotse.dataset import DynamicBucketingSampler

        cuts = self._cuts_of(epoch)
        with warnings.catch_warnings():
            # It advises lazy cuts; ours are in memory because they have been checked one by one.
            warnings.filterwarnings("ignore", message="You are using DynamicBucketingSampler with an eagerly")
            # A cut longer than a batch is a batch of its own, as it should be.
            warnings.filterwarnings("ignore", message="We have exceeded the max_duration constraint")
            sampler = DynamicBucketingSampler(
                cuts,
                max_duration=self.batch_duration_s,
                shuffle=True,
                drop_last=False,
                num_buckets=min(10, max(2, len(cuts) // 50)),
                seed=self.seed,
                rank=0,
                world_size=1,
            )
            sampler.set_epoch(epoch)
            return [list(batch) for batch in sampler]

    def _cuts_of(self, epoch: int) -> Any:
        """All cuts of an epoch: of the untranscribed ones, those whose turn it is."""
        from lhotse import CutSet

        count = self._untranscribed_an_epoch
        if not count:
            return self.cuts
        turn = [self.untranscribed[(epoch * count + i) % len(self.untranscribed)] for i in range(count)]
        return CutSet.from_cuts([*self.cuts, *turn])

    def collate(self, cuts: list[Any]) -> Batch:
        """Load features and symbols of some cuts and pad them."""
        features = [self.features(cut) for cut in cuts]
        symbols = [torch.tensor(self.tokens.encode(transcript(cut)), dtype=torch.int64) for cut in cuts]
        lengths = [len(item) for item in features]
        return Batch(
            cuts=cuts,
            features=pad([torch.from_numpy(item) for item in features]),
            feature_lengths=torch.tensor(lengths),
            symbols=pad(symbols),
            symbol_lengths=torch.tensor([len(item) for item in symbols]),
            student_frames=torch.tensor([num_student_frames(length) for length in lengths]),
            transcribed=torch.tensor([is_transcribed(cut) for cut in cuts]),
        )

    def features(self, cut: Any) -> NDArray[np.float32]:
        """Log-mel features (T, 80) of one cut."""
        return self._features(cut)


def pad(tensors: list[Tensor], value: float = 0) -> Tensor:
    """Stack tensors of unequal first dimension."""
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def transcript(cut: Any) -> str:
    """The normalised text of a cut; '' when it is untranscribed."""
    return " ".join(supervision.text or "" for supervision in cut.supervisions).strip()


def is_transcribed(cut: Any) -> bool:
    """Whether a cut has a text, be it empty."""
    return any(supervision.text is not None for supervision in cut.supervisions)


def _shuffled(cuts: list[Any], seed: int) -> list[Any]:
    order = torch.randperm(len(cuts), generator=torch.Generator().manual_seed(seed))
    return [cuts[position] for position in order]


def _usable(cuts: Any, tokens: Tokens) -> tuple[Any, int]:
    from lhotse import CutSet

    kept = [cut for cut in cuts if _fits(cut, tokens)]
    if not kept:
        raise EmptyCutSetError(
            "training cuts",
            expected="at least one cut whose symbols fit into its frames",
            got=f"none of {len(cuts)}",
            next_step="check transcripts and durations with `mvqkd inspect` of the data",
        )
    return CutSet.from_cuts(kept), len(cuts) - len(kept)


def _fits(cut: Any, tokens: Tokens) -> bool:
    feature_frames = num_feature_frames(cut.num_samples)
    # At most one symbol a frame, and a blank between equal symbols for CTC.
    symbols = tokens.encode(transcript(cut))
    needed = len(symbols) + sum(left == right for left, right in itertools.pairwise(symbols))
    return feature_frames >= SUBSAMPLING_CONTEXT_FRAMES and needed <= num_student_frames(feature_frames)
