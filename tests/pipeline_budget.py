"""Parameters with which the whole pipeline runs in seconds: for tests of the wiring, not of what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.cluster import STEPS, ClusterConfig


def tiny_params(manifest: Path) -> dict[str, dict[str, Any]]:
    """Every section, for a manifest of ``mvqkd.testing.corpus.make_corpus``."""
    return {
        "prepare-data": {"source": "manifest", "manifest": str(manifest), "test_share": 0.3},
        "extract-teacher": {"num_frames": 600},
        "fit-quantizer": {"num_codebooks": 2, "phase_1_steps": 10, "phase_2_steps": 10, "batch_size": 64},
        "encode-ci": {"speeds": [1.0]},
        "train-student": {
            "num_epochs": 2,
            "speeds": [1.0],
            "batch_duration_s": 10.0,
            "num_checkpoints": 1,
            "log_steps": 1,
            "num_threads": 1,
            "model": {
                "encoder_dim": 32,
                "num_encoder_layers": 2,
                "num_heads": 2,
                "feedforward_dim": 32,
                "decoder_dim": 32,
                "joiner_dim": 32,
            },
        },
        "evaluate": {"decoders": ["greedy"], "bootstrap_samples": 100, "teacher_wer": False},
        "export-onnx": {"int8": False},
        # A student of two epochs knows nothing; more insertions than words are a WER above 1.
        "gate": {"max_wer": 100.0, "max_quantizer_error": 100.0, "min_test_utterances": 1},
        "promote": {"model_name": "tiny"},
    }


def tiny_cluster(**changes: Any) -> ClusterConfig:
    """Settings for a runner on this machine: the environment's registry, and no repetition of a step that fails."""
    return ClusterConfig(environment={}, steps={step: {"retry": None} for step in STEPS}, **changes)
