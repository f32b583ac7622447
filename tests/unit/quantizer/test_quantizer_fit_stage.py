from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ConfigError, DataError
from mvqkd.quantizer import Quantizer
from mvqkd.quantizer.embedding_shards import EmbeddingShards
from mvqkd.quantizer.fit_stage import fit_quantizer, hold_out, read_report

CONFIG = FitQuantizerConfig(num_codebooks=2, phase_1_steps=30, phase_2_steps=10, batch_size=64, device="cpu")


def embeddings_artifact(out: Path, *, frames: int = 500, cuts: int = 20, kind: str = "teacher-embeddings") -> Artifact:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(frames, 3, generator=generator) @ torch.randn(3, 10, generator=generator)).half()
    cut_index = torch.randint(0, cuts, (frames,), generator=generator)
    partial = PartialArtifact(out, kind, stage="extract-teacher", config={})
    half = frames // 2
    for number, rows in enumerate((slice(0, half), slice(half, frames))):
        shard = {"embeddings": x[rows].clone(), "cut_index": cut_index[rows].clone()}
        save_file(shard, partial.path / f"embeddings-{number:05d}.safetensors")
    return partial.commit(facts={"teacher_id": "tiny-0", "layer": 2, "dim": 10, "rate_hz": "50/1"})


def test_a_quantizer_with_its_report_and_lineage(tmp_path: Path) -> None:
    parent = embeddings_artifact(tmp_path / "embeddings")
    artifact = fit_quantizer(CONFIG, teacher_embeddings=parent.path, out=tmp_path / "quantizer")
    artifact.require_parent(parent)
    quantizer = Quantizer.load(artifact.path)
    assert artifact.facts == {
        "dim": 10,
        "num_codebooks": 2,
        "codebook_size": 256,
        "bytes_per_frame": 2,
        "refine_iterations": 5,
        "codec_id": quantizer.id,
        "teacher_id": "tiny-0",
        "layer": 2,
        "rate_hz": "50/1",
    }
    assert 0 < artifact.figures["relative_error"] < 0.5
    assert artifact.figures["compression_ratio"] == 20
    document = read_report(artifact)
    assert document["relative_error"] == artifact.figures["relative_error"]
    assert len(document["relative_error_by_iteration"]) == 6
    again = fit_quantizer(CONFIG, teacher_embeddings=parent.path, out=tmp_path / "again")
    assert again.id == artifact.id


def test_the_error_is_measured_on_frames_that_were_not_fitted(tmp_path: Path) -> None:
    artifact = fit_quantizer(
        CONFIG, teacher_embeddings=embeddings_artifact(tmp_path / "e").path, out=tmp_path / "quantizer"
    )
    shards = EmbeddingShards(load_artifact(tmp_path / "e"))
    held_out = hold_out(shards.cut_index, CONFIG.held_out_share, CONFIG.seed)
    quantizer = Quantizer.load(artifact.path)
    expected_mean = shards.gather(~held_out).double().mean(0).float()
    torch.testing.assert_close(quantizer.mean, expected_mean)
    assert artifact.figures["held_out_frames"] == int(held_out.sum())
    assert artifact.figures["fitted_frames"] == int((~held_out).sum())


def test_whole_cuts_are_held_out() -> None:
    cut_index = torch.arange(1000) % 50
    chosen = hold_out(cut_index, 0.1, seed=3)
    assert len(cut_index[chosen].unique()) == 5
    assert not set(cut_index[chosen].tolist()) & set(cut_index[~chosen].tolist())
    assert torch.equal(chosen, hold_out(cut_index, 0.1, seed=3))
    assert not torch.equal(chosen, hold_out(cut_index, 0.1, seed=4))


@pytest.mark.parametrize("cut_index", [torch.zeros(40, dtype=torch.long), torch.arange(40) % 3])
def test_of_few_cuts_frames_are_held_out(cut_index: Tensor) -> None:
    assert int(hold_out(cut_index, 0.1, seed=0).sum()) == 4
    assert int(hold_out(cut_index, 1e-6, seed=0).sum()) == 1


def test_too_few_frames(tmp_path: Path) -> None:
    parent = embeddings_artifact(tmp_path / "e", frames=200)
    with pytest.raises(DataError, match="at least 256 frames"):
        fit_quantizer(CONFIG, teacher_embeddings=parent.path, out=tmp_path / "quantizer")
    assert not (tmp_path / "quantizer").exists()


def test_no_frames_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="embeddings to fit on"):
        EmbeddingShards(embeddings_artifact(tmp_path / "e", frames=0))


def test_another_kind_of_artifact(tmp_path: Path) -> None:
    other = embeddings_artifact(tmp_path / "e", kind="quantizer")
    with pytest.raises(ArtifactMismatchError, match="teacher-embeddings"):
        fit_quantizer(CONFIG, teacher_embeddings=other.path, out=tmp_path / "quantizer")


def test_a_flipped_byte_in_the_embeddings(tmp_path: Path) -> None:
    parent = embeddings_artifact(tmp_path / "e")
    shard = parent.path / "embeddings-00001.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-5] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ArtifactCorruptError, match="embeddings-00001"):
        fit_quantizer(CONFIG, teacher_embeddings=parent.path, out=tmp_path / "quantizer")


def test_a_shard_without_its_tensors(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "e", "teacher-embeddings", stage="extract-teacher", config={})
    save_file({"other": torch.zeros(2)}, partial.path / "embeddings-00000.safetensors")
    with pytest.raises(ArtifactCorruptError, match="cut_index"):
        EmbeddingShards(partial.commit(facts=json.loads("{}")))


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    parent = embeddings_artifact(tmp_path / "e")
    with pytest.raises(ConfigError, match="nonsense"):
        fit_quantizer(
            CONFIG.model_copy(update={"device": "nonsense"}), teacher_embeddings=parent.path, out=tmp_path / "q"
        )
