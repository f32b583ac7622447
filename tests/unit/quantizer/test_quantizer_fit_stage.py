from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact, write_json
from mvqkd.config import FitQuantizerConfig
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError, ConfigError, DataError
from mvqkd.quantizer import Quantizer, fit_phase, fit_stage
from mvqkd.quantizer.embedding_shards import EmbeddingShards
from mvqkd.quantizer.embedding_source import EmbeddingStream
from mvqkd.quantizer.fit_stage import fit_quantizer, hold_out, read_report
from mvqkd.quantizer.fit_state import STATE_FILE

CONFIG = FitQuantizerConfig(num_codebooks=2, phase_1_steps=30, phase_2_steps=10, batch_size=64, device="cpu")


def embeddings_artifact(
    out: Path,
    *,
    frames: int = 500,
    cuts: int = 20,
    kind: str = "teacher-embeddings",
    speakers: list[str | None] | None = None,
    broken: float | None = None,
) -> Artifact:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(frames, 3, generator=generator) @ torch.randn(3, 10, generator=generator)).half()
    cut_index = torch.randint(0, cuts, (frames,), generator=generator)
    if broken is not None:
        x[frames // 2 + 7, 3] = broken
    partial = PartialArtifact(out, kind, stage="extract-teacher", config={})
    if speakers is not None:
        write_json(partial.path / "cuts.json", {"cut_ids": [str(cut) for cut in range(cuts)], "speakers": speakers})
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
    assert set(artifact.files) == {"quantizer.safetensors", "report.json", "report.png"}
    assert (artifact.path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert artifact.figures["steps"] == [30, 10]
    assert artifact.figures["fit_cpu_s"] > 0
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


def test_a_killed_stage_goes_on_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = embeddings_artifact(tmp_path / "e")
    config = CONFIG.model_copy(update={"checkpoint_every_s": 0})
    undisturbed = fit_quantizer(config, teacher_embeddings=parent.path, out=tmp_path / "undisturbed")
    real, done = fit_phase.step_losses, []

    def losses(*arguments: Any, **options: Any) -> Any:
        done.append(1)
        if len(done) == 36:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(fit_phase, "step_losses", losses)
    with pytest.raises(KeyboardInterrupt):
        fit_quantizer(config, teacher_embeddings=parent.path, out=tmp_path / "quantizer")
    assert not (tmp_path / "quantizer").exists()
    (partial,) = tmp_path.glob(".quantizer.partial-*")
    assert (partial / STATE_FILE).is_file()
    resumed = fit_quantizer(config, teacher_embeddings=parent.path, out=tmp_path / "quantizer")
    assert len(done) < 36 + 10
    assert resumed.id == undisturbed.id
    assert [path.name for path in resumed.path.iterdir() if path.name.startswith(".")] == []


def test_more_frames_than_the_buffer_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = embeddings_artifact(tmp_path / "e")
    given: list[object] = []
    real = fit_stage.fit

    def noting(source: Any, *arguments: Any, **options: Any) -> Any:
        given.append(source)
        return real(source, *arguments, **options)

    monkeypatch.setattr(fit_stage, "fit", noting)
    errors = []
    for buffer_frames in (100, 500):
        config = CONFIG.model_copy(update={"buffer_frames": buffer_frames})
        artifact = fit_quantizer(config, teacher_embeddings=parent.path, out=tmp_path / f"q{buffer_frames}")
        errors.append(artifact.figures["relative_error"])
        # The same frames, and none of those held out.
        shards = EmbeddingShards(parent)
        fitted_rows = ~hold_out(shards.cut_index, CONFIG.held_out_share, CONFIG.seed)
        expected = shards.gather(fitted_rows).double()
        torch.testing.assert_close(Quantizer.load(artifact.path).mean, expected.mean(0).float(), rtol=1e-5, atol=1e-6)
        assert artifact.figures["fitted_frames"] == len(expected)
    assert isinstance(given[0], EmbeddingStream)
    assert isinstance(given[1], Tensor)
    assert errors[0] == pytest.approx(errors[1], rel=0.15)


def test_errors_of_the_speakers(tmp_path: Path) -> None:
    # Ten cuts are held out, of about 100 frames each.
    speakers = ["anna", "ben"] * 9 + [None, None]
    parent = embeddings_artifact(tmp_path / "e", frames=2000, speakers=speakers)
    artifact = fit_quantizer(
        CONFIG.model_copy(update={"held_out_share": 0.5}), teacher_embeddings=parent.path, out=tmp_path / "quantizer"
    )
    document: Any = read_report(artifact)
    domains = {row["domain"]: row["frames"] for row in document["domains"]}
    assert {"anna", "ben"} <= set(domains) <= {"anna", "ben", "unknown"}
    assert sum(domains.values()) == document["held_out_frames"]
    curve = document["error_curve"]
    assert [(point["phase"], point["step"]) for point in curve] == [(1, 30), (2, 10)]
    assert all("wall_s" not in point for point in curve)
    assert [point["step"] for point in artifact.figures["error_curve"]] == [30, 10]


@pytest.mark.parametrize("speakers", [None, [None] * 20])
def test_without_speakers_there_are_no_domains(tmp_path: Path, speakers: list[str | None] | None) -> None:
    shards = EmbeddingShards(embeddings_artifact(tmp_path / "e", speakers=speakers))
    assert shards.speakers(shards.cut_index) is None


@pytest.mark.parametrize(("broken", "got"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_frame_that_is_not_finite_is_named_by_file_and_row(tmp_path: Path, broken: float, got: str) -> None:
    parent = embeddings_artifact(tmp_path / "e", broken=broken)
    with pytest.raises(DataError, match=rf"embeddings-00001.safetensors, frame 7: expected finite numbers, got {got}"):
        fit_quantizer(CONFIG, teacher_embeddings=parent.path, out=tmp_path / "quantizer")


def test_a_shard_with_fewer_embeddings_than_cuts(tmp_path: Path) -> None:
    partial = PartialArtifact(tmp_path / "e", "teacher-embeddings", stage="extract-teacher", config={})
    shard = {"embeddings": torch.zeros(4, 3), "cut_index": torch.zeros(5, dtype=torch.long)}
    save_file(shard, partial.path / "embeddings-00000.safetensors")
    shards = EmbeddingShards(partial.commit(facts={}))
    with pytest.raises(ArtifactCorruptError, match="5 embeddings, as there are in cut_index, got 4"):
        shards.gather(torch.ones(5, dtype=torch.bool))


def test_frames_are_gathered_up_to_a_limit(tmp_path: Path) -> None:
    shards = EmbeddingShards(embeddings_artifact(tmp_path / "e"))
    everything = torch.ones(500, dtype=torch.bool)
    every_third = torch.arange(500) % 3 == 0
    assert len(shards) == len(shards.gather(everything)) == 500
    assert torch.equal(shards.gather(every_third), shards.gather(everything)[every_third])
    assert torch.equal(shards.gather(every_third, 120), shards.gather(everything)[every_third][:120])
