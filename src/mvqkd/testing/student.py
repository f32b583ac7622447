"""Students small enough for tests: sizes, parameters of a short training, and one that says something untrained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.config import ModelConfig
from mvqkd.student.checkpoint import save_student, student_facts
from mvqkd.student.model import Student

TINY_SIZES: dict[str, Any] = {
    "encoder_dim": 32,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "feedforward_dim": 64,
    "conv_kernel": 5,
    "decoder_dim": 32,
    "joiner_dim": 32,
}
# Overrides of the section train-student.
TINY_TRAINING: dict[str, Any] = {
    "speeds": [1.0, 1.1],
    "batch_duration_s": 6.0,
    "log_steps": 1,
    "precision": "float32",
    "num_threads": 1,
    "device": "cpu",
    **{f"model.{name}": value for name, value in TINY_SIZES.items()},
}


def talkative_student(vocab_size: int, **sizes: int) -> Student:
    """Untrained weights, scaled so that decoding emits many different symbols and is rarely near a tie.

    Args:
        sizes: of the model, where they differ from one layer and attention in chunks of 4 frames and 2 before.
    """
    torch.manual_seed(3)
    own = {"num_encoder_layers": 1, "chunk_frames": 4, "left_context_chunks": 2}
    config = ModelConfig(**{**TINY_SIZES, **own, **sizes})
    student = Student(config, vocab_size).eval()
    with torch.no_grad():
        student.encoder.feature_mean.fill_(-10.0)
        student.encoder.feature_std.fill_(3.0)
        student.joiner.output.weight.mul_(12)
        student.joiner.output.bias.normal_()
    return student


def commit_student(student: Student, out: Path, data: Artifact) -> Artifact:
    """A student-checkpoint at ``out``, as if train-student had made it from ``data``."""
    partial = PartialArtifact(out, "student-checkpoint", stage="train-student", config={}, parents=[data])
    save_student(student, partial.path)
    shutil.copyfile(data.path / "tokens.txt", partial.path / "tokens.txt")
    return partial.commit(facts={**student_facts(student), "objective": "none", "text_normalizer": "upper-ascii-1"})
