"""A student in torch behind the search's interface.

Shapes: N batch, T feature frames, S student frames, C context symbols, D encoder, J joiner channels, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.student.model import Student

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class TorchTransducer:
    """Implements ``mvqkd.decode.search.Transducer``; the student is put into eval mode."""

    def __init__(self, student: Student, device: str = "cpu") -> None:
        self.student = student.to(device).eval()
        self.device = torch.device(device)

    @property
    def context_size(self) -> int:
        return self.student.config.context_size

    @torch.inference_mode()
    def hidden(self, features: Floats, lengths: Ids) -> tuple[Tensor, Ids]:
        """(N, T, 80), (N,) -> encoder output (N, S, D) on the device, student frames (N,), 0 for a length below 7."""
        output, frames, _ = self.student(
            torch.from_numpy(features).to(self.device), torch.from_numpy(lengths).to(self.device)
        )
        return output, frames.clamp(min=0).cpu().numpy()

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Floats:
        """Encoder output (N, S, D) -> (N, S, J), what the joiner adds."""
        return _numpy(self.student.joiner.encoder_proj(hidden))

    @torch.inference_mode()
    def ctc_log_probs(self, hidden: Tensor) -> Floats:
        """Encoder output (N, S, D) -> log-probabilities (N, S, V) of the CTC head."""
        return _numpy(self.student.ctc_log_probs(hidden))

    def encode(self, features: Floats, lengths: Ids) -> tuple[Floats, Ids]:
        """(N, T, 80), (N,) -> projected encoder output (N, S, J), student frames (N,)."""
        hidden, frames = self.hidden(features, lengths)
        return self.project(hidden), frames

    @torch.inference_mode()
    def predict(self, contexts: Ids) -> Floats:
        """See ``Transducer.predict``."""
        decoded = self.student.decoder(torch.from_numpy(contexts).to(self.device))  # (N, 1, decoder_dim)
        return _numpy(self.student.joiner.decoder_proj(decoded.squeeze(1)))

    @torch.inference_mode()
    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        """See ``Transducer.join``."""
        logits = self.student.joiner(
            torch.from_numpy(encoded).to(self.device), torch.from_numpy(predicted).to(self.device)
        )
        return _numpy(logits)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
