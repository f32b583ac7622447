"""A student in torch behind the search's interface.

Shapes: N batch, T feature frames, S student frames, C context symbols, D encoder, J joiner channels, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvqkd.artifacts import Artifact
from mvqkd.data.tokens import TOKENS_FILE, Tokens
from mvqkd.errors import ArtifactMismatchError
from mvqkd.student.checkpoint import load_student
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
    def hidden(self, features: Floats, lengths: Ids, *, chunk_frames: int | None = None) -> tuple[Tensor, Ids]:
        """(N, T, 80), (N,) -> encoder output (N, S, D) on the device, student frames (N,), 0 for a length below 7.

        Args:
            chunk_frames: student frames a chunk of attention, 0: the whole utterance, None: the model's own.
        """
        output, frames, _ = self.student(
            torch.from_numpy(features).to(self.device),
            torch.from_numpy(lengths).to(self.device),
            chunk_frames=chunk_frames,
        )
        return output, frames.clamp(min=0).cpu().numpy()

    @torch.inference_mode()
    def project(self, hidden: Tensor) -> Floats:
        """Encoder output (N, S, D) -> (N, S, J), what the joiner adds."""
        return _numpy(self.student.joiner.encoder_proj(hidden))

    @torch.inference_mode()
    def ctc_log_probs(self, hidden: Tensor) -> Floats:
        """Encoder output (N, S, D) -> log-probabilities (N, S, V) of the CTC head, without <unk>."""
        return _numpy(self.student.ctc_scores(hidden))

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


def load_transducer(path: Path, device: str = "cpu") -> tuple[TorchTransducer, Tokens, Artifact]:
    """Load a student-checkpoint with the tokens that its outputs stand for.

    Raises:
        ArtifactError: see ``load_student``; also when tokens.txt has another size than the student's vocabulary.
        DataError: tokens.txt is missing or malformed.
    """
    student, artifact = load_student(path, device)
    tokens = Tokens.load(path)
    if tokens.vocab_size != student.vocab_size:
        raise ArtifactMismatchError(
            f"student-checkpoint {path} ({artifact.short_id})",
            expected=f"{student.vocab_size} symbols in {TOKENS_FILE}, as the student has outputs",
            got=str(tokens.vocab_size),
            next_step="re-run train-student",
        )
    return TorchTransducer(student, device), tokens, artifact


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array
