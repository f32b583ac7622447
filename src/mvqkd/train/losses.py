"""Student and objective as one module whose forward gives all losses of a batch: what data-parallel training wraps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mvqkd.config import TrainStudentConfig
from mvqkd.data.batches import Batch
from mvqkd.student.model import AsrLosses, Student
from mvqkd.train.augment import build_augment
from mvqkd.train.distillation import DistillationObjective
from mvqkd.train.silence import add_silence, delay_targets


class TrainingLosses(nn.Module):
    """Losses of a batch; in training mode with altered features.

    Args:
        objective: None trains without distillation; no parameter is then without gradient.
        device: where student and objective are moved to.
    """

    def __init__(
        self,
        config: TrainStudentConfig,
        student: Student,
        objective: DistillationObjective | None,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config, self.device = config, device
        self.layer_index = (config.distillation_layer or math.ceil(config.model.num_encoder_layers / 2)) - 1
        self.augment = build_augment(config)
        self.student = student
        self.objective = objective
        self.student.encoder.checkpoint_activations = config.checkpoint_activations
        self.to(device)

    def forward(self, batch: Batch, progress: float, chunk_frames: int | None = None) -> dict[str, Tensor]:
        """All losses of a batch, per student frame in nats (regression objectives: per channel).

        Args:
            progress: share of the run that is done, 0 .. 1.
            chunk_frames: student frames a chunk of attention; None: the model's own.
        """
        config = self.config
        asr, num_frames, layers, silence = self._asr(batch, chunk_frames)
        simple, pruned, ctc = asr.simple / num_frames, asr.pruned / num_frames, asr.ctc / num_frames
        # The band is arbitrary until the simple joiner has learned: let the pruned loss in slowly.
        ramp = min(1.0, 0.1 + 0.9 * progress / config.warmup_share) if config.warmup_share else 1.0
        loss = config.simple_loss_scale * simple + ramp * pruned + config.ctc_scale * ctc
        losses = {"transducer_loss": pruned, "simple_loss": simple, "ctc_loss": ctc}
        if self.objective is not None:
            # A teacher in the loop, and lhotse's resampling before it, compute as they do where indexes are stored.
            with torch.autocast(self.device.type, enabled=False):
                targets = self.objective.targets(batch)
            if silence is not None:
                targets = delay_targets(targets, silence, self.objective.missing)
            targets = targets[:, : layers[0].size(1)].to(self.device)
            chosen = self._frames_with_a_loss(targets.size(1))
            losses["distillation_loss"] = self.objective(layers[self.layer_index][:, chosen], targets[:, chosen])
            loss = loss + self.distillation_scale(progress) * losses["distillation_loss"]
        return {"loss": loss, **losses}

    def _frames_with_a_loss(self, num_frames: int) -> slice:
        """Student frames with a distillation loss: all of them in evaluation; nothing is drawn where all have one."""
        stride = self.config.distillation_stride if self.training else 1
        choices = min(stride, num_frames)
        return slice(int(torch.randint(choices, ())) if choices > 1 else 0, None, stride)

    def distillation_scale(self, progress: float) -> float:
        """Weight of the distillation loss at a share of the run."""
        start, end = self.config.codebook_scale, self.config.codebook_scale_end
        return start if end is None else start + (end - start) * min(1.0, progress)

    def transducer_sum(self, batch: Batch) -> Tensor:
        """Transducer loss of a batch and the student frames that it is the sum over: float (2,)."""
        asr, num_frames, _, _ = self._asr(batch, None)
        return torch.stack([asr.pruned.float(), num_frames.float()])

    def _asr(self, batch: Batch, chunk_frames: int | None) -> tuple[AsrLosses, Tensor, list[Tensor], Tensor | None]:
        """ASR losses, frames that they are sums over, hidden layers, and student frames of silence put before each."""
        features, lengths, silence, device = batch.features, batch.feature_lengths, None, self.device
        if self.config.silence_s and self.training:
            features, lengths, silence = add_silence(features, lengths, self.config.silence_s)
        if self.augment is not None and self.training:
            features = self.augment(features, lengths)
        encoded, frames, layers = self.student(features.to(device), lengths.to(device), chunk_frames=chunk_frames)
        asr = self.student.asr_losses(
            encoded,
            frames,
            batch.symbols.to(device),
            batch.symbol_lengths.to(device),
            self.config.prune_range,
            batch.transcribed.to(device),
        )
        return asr, (frames * asr.usable).sum().clamp(min=1), layers, silence
