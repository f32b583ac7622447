"""A tiny chain up to the codebook indexes, made once through the command line with the real embedded teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.cli.main import run
from mvqkd.testing.corpus import make_corpus

TINY_PARAMS = """
prepare-data: {split_by: prompt}
extract-teacher: {num_frames: 600}
fit-quantizer: {num_codebooks: 2, phase_1_steps: 3, phase_2_steps: 3, batch_size: 128}
encode-ci: {speeds: [1.0], shard_cuts: 6}
train-student:
  num_epochs: 2
  speeds: [1.0]
  batch_duration_s: 10
  model: {encoder_dim: 32, num_heads: 2, num_encoder_layers: 2, feedforward_dim: 64, decoder_dim: 32, joiner_dim: 32}
evaluate: {decoders: [greedy], bootstrap_samples: 100}
gate: {max_wer: 9.0, min_test_utterances: 1, max_quantizer_error: 9.0}
"""


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpus/, params.yaml and artifacts/ up to codebook-indexes; copy it before you damage it."""
    root = tmp_path_factory.mktemp("chain")
    make_corpus(root / "corpus", 16)
    (root / "params.yaml").write_text(TINY_PARAMS)
    common = ["--params", str(root / "params.yaml"), "--artifacts-dir", str(root / "artifacts")]
    manifest = str(root / "corpus" / "manifest.jsonl")
    assert run(["prepare-data", "--source", "manifest", "--manifest", manifest, *common]) == 0
    for stage in ("extract-teacher", "fit-quantizer", "encode-ci"):
        assert run([stage, *common]) == 0
    return root
