"""Save and load a student inside its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from mvqkd.artifacts import Artifact, atomic_open, load_artifact
from mvqkd.config import ModelConfig, parse_section
from mvqkd.errors import ArtifactCorruptError
from mvqkd.student.model import Student

WEIGHTS_FILE = "student.safetensors"


def save_student(student: Student, directory: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights (or ``state`` in their place) as float32 safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (state or student.state_dict()).items()}
    # Not save_file: it leaves the file readable by its owner only, and a next stage may be another user.
    with atomic_open(directory / WEIGHTS_FILE, "wb") as stream:
        stream.write(save(tensors))


def student_facts(student: Student) -> dict[str, Any]:
    """What is needed to build the module again; belongs into the artifact's facts."""
    return {"model": student.config.model_dump(mode="json"), "vocab_size": student.vocab_size}


def load_student(path: Path, device: str = "cpu") -> tuple[Student, Artifact]:
    """Load a student checkpoint for inference.

    Raises:
        ArtifactNotFoundError, ArtifactMismatchError, ArtifactCorruptError: see ``load_artifact``.
    """
    artifact = load_artifact(path, "student-checkpoint")
    config = parse_section(ModelConfig, artifact.facts["model"], f"student-checkpoint {path}")
    student = Student(config, int(artifact.facts["vocab_size"]))
    try:
        student.load_state_dict(load_file(path / WEIGHTS_FILE))
    except RuntimeError as error:
        raise ArtifactCorruptError(
            f"student-checkpoint {path} ({artifact.short_id})",
            expected="weights of the recorded model",
            got=str(error),
            next_step="re-run train-student",
        ) from error
    return student.to(device).eval(), artifact
