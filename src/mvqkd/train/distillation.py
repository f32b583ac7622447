"""What the student learns from the teacher: one interface, three objectives.

Each objective owns its predictor on a hidden layer of the student; none of it ships. ``none`` is no objective at
all, so that it owns no parameters.

Shapes: N batch, S student frames (25 Hz), R teacher frames a student frame, K codebooks, C entries a codebook,
D teacher channels, H student channels.
Source: Guo et al. 2022, arXiv 2211.00508, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mvqkd.data.batches import Batch, pad
from mvqkd.errors import FrameAlignmentError
from mvqkd.frames import IGNORE_INDEX, align_teacher_to_student, check_teacher_frames, teacher_frames_per_student_frame
from mvqkd.train.codebook_predictor import CodebookPredictor

# Teacher frames that a cut may lack before its indexes are refused: the last window of the audio.
MAX_MISSING_FRAMES = 2


class DistillationObjective(nn.Module):
    """Base of the objectives: aligns teacher frames to student frames and averages a loss over real frames.

    Args:
        read_teacher: cut -> array (teacher frames, channels): stored indexes, or embeddings of a live teacher.
        rate_hz: frame rate of the teacher.
        delta_frames: student frames by which targets are delayed.
        frame_offsets: how the teacher rounds durations, see ``mvqkd.frames``; None: counts near the nominal one pass.

    ``missing`` is what stands in targets where the teacher has no frame.
    """

    name: str
    chance_level: float
    missing: float
    _dtype: torch.dtype

    def __init__(
        self,
        read_teacher: Callable[[Any], NDArray[Any]],
        rate_hz: Fraction,
        delta_frames: int,
        frame_offsets: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.read_teacher = read_teacher
        self.frame_offsets = frame_offsets
        self.rate_hz = rate_hz
        self.delta_frames = delta_frames
        self.frames_per_student_frame = teacher_frames_per_student_frame(rate_hz)

    def targets(self, batch: Batch) -> Tensor:
        """Teacher targets of a batch: (N, S, R * channels); IGNORE_INDEX or NaN where there is none.

        Raises:
            FrameAlignmentError: a cut's teacher frames do not fit its duration; the cut is named.
        """
        return pad(
            [self._aligned(cut, int(frames)) for cut, frames in zip(batch.cuts, batch.student_frames, strict=True)],
            value=self.missing,
        )

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the batch's real frames."""
        raise NotImplementedError

    def _aligned(self, cut: Any, student_frames: int) -> Tensor:
        teacher = self.read_teacher(cut)
        check_teacher_frames(f"cut {cut.id}", len(teacher), cut.num_samples, self.rate_hz, self.frame_offsets)
        index = align_teacher_to_student(student_frames, len(teacher), self.rate_hz, delta_frames=self.delta_frames)
        missing = int((index[max(0, self.delta_frames) :] < 0).sum())
        if self.delta_frames >= 0 and missing > MAX_MISSING_FRAMES:
            raise FrameAlignmentError(
                f"cut {cut.id}",
                expected=f"teacher frames for {student_frames} student frames",
                got=f"{len(teacher)} teacher frames, {missing} too few",
                next_step="re-run encode-ci",
            )
        values = torch.from_numpy(np.asarray(teacher)[np.maximum(index, 0)]).to(self._dtype)
        values[torch.from_numpy(index < 0)] = self.missing
        return values.flatten(1)


class CodebookObjective(DistillationObjective):
    """Cross-entropy of predicted codebook indexes, mean over frames and codebooks; chance level ln C."""

    name = "mvq"
    missing = IGNORE_INDEX
    _dtype = torch.int64

    def __init__(
        self,
        read_indexes: Callable[[Any], NDArray[np.uint8]],
        rate_hz: Fraction,
        *,
        hidden_dim: int,
        num_codebooks: int,
        codebook_size: int,
        predictor_layers: int = 1,
        joint_prediction: bool = False,
        delta_frames: int = 0,
        frame_offsets: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(read_indexes, rate_hz, delta_frames, frame_offsets)
        self.chance_level = math.log(codebook_size)
        self.predict = CodebookPredictor(
            hidden_dim,
            num_codebooks * self.frames_per_student_frame,
            codebook_size,
            layers=predictor_layers,
            joint=joint_prediction,
        )

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Predict targets (N, S, R * K) from hidden (N, S, H); padding is never projected."""
        real = (targets != IGNORE_INDEX).all(dim=-1)
        return self.predict.loss(hidden[real], targets[real])


class RegressionObjective(DistillationObjective):
    """L1 or L2 distance to the teacher's embeddings, each channel normalised to mean 0 and deviation 1."""

    missing = math.nan
    _dtype = torch.float32
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        distance: Literal["l1", "l2"],
        embed: Callable[[Any], NDArray[np.float32]],
        rate_hz: Fraction,
        *,
        hidden_dim: int,
        mean: Tensor,
        std: Tensor,
        delta_frames: int = 0,
    ) -> None:
        super().__init__(embed, rate_hz, delta_frames)
        self.name = distance
        # E|z| and E z^2 of a standard normal: the loss of always predicting the mean.
        self.chance_level = math.sqrt(2 / math.pi) if distance == "l1" else 1.0
        self.distance = F.l1_loss if distance == "l1" else F.mse_loss
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().clamp(min=1e-5))
        self.predict = nn.Linear(hidden_dim, self.frames_per_student_frame * mean.numel())

    def forward(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Regress targets (N, S, R * D) from hidden (N, S, H)."""
        real = ~targets.isnan().any(dim=-1)
        wanted = (targets[real].view(-1, self.mean.numel()) - self.mean) / self.std
        return self.distance(self.predict(hidden[real]).float().view_as(wanted), wanted)
