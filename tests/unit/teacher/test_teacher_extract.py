"""The stage: what it samples, writes, records and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import ExtractTeacherConfig, PrepareDataConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.cuts import load_cuts
from mvqkd.data.prepare import prepare_data
from mvqkd.errors import ArtifactMismatchError, ConfigError, EmptyCutSetError, FrameAlignmentError, TeacherError
from mvqkd.teacher import extract
from mvqkd.teacher.extract import extract_teacher, extract_with_teacher, teacher_of
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.teacher import TinyTeacher


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("data")
    manifest = make_corpus(folder / "corpus", num_utterances=12)
    config = PrepareDataConfig(source="manifest", manifest=str(manifest), split_by="speaker")
    return prepare_data(config, out=folder / "data")


def config(**fields: object) -> ExtractTeacherConfig:
    return ExtractTeacherConfig.model_validate({"num_frames": 150, "device": "cpu", **fields})


def rows_of(artifact: Artifact) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    shards = [load_file(path) for path in sorted(artifact.path.glob("embeddings-*.safetensors"))]
    return np.concatenate([s["embeddings"] for s in shards]), np.concatenate([s["cut_index"] for s in shards])


def every_frame(data: Artifact, teacher: TinyTeacher) -> dict[str, NDArray[np.float16]]:
    cuts = load_cuts(data, "train")
    return {cut.id: teacher.embed([load_audio(cut)])[0][0].numpy().astype(np.float16) for cut in cuts}


def test_a_sample_of_true_frames(data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "SHARD_FRAMES", 64)
    teacher = TinyTeacher()
    artifact = extract_with_teacher(teacher, config(), data=data, out=tmp_path / "out")
    assert artifact.parents == {"cut-manifest": data.id}
    # The tiny teacher leaves a recording's last, partial frame out, so a few chosen frames do not exist.
    num_frames = artifact.facts["num_frames"]
    assert 140 <= num_frames <= 150
    assert artifact.facts == {
        "teacher_licence": "MIT",
        "teacher": {"name": "whisper-tiny.en"},
        "teacher_id": teacher.id,
        "layer": 2,
        "dim": 16,
        "rate_hz": "50/1",
        "num_frames": num_frames,
    }
    assert sorted(artifact.files) == ["cuts.json", *(f"embeddings-0000{n}.safetensors" for n in range(3))]
    embeddings, cut_index = rows_of(artifact)
    assert (embeddings.dtype, embeddings.shape, cut_index.shape) == (np.float16, (num_frames, 16), (num_frames,))
    names = json.loads((artifact.path / "cuts.json").read_text())
    truth = every_frame(data, teacher)
    for row, index in zip(embeddings, cut_index, strict=True):
        frames = truth[names["cut_ids"][index]]
        assert (frames == row).all(axis=1).any()
    speaker_of = {cut.id: cut.supervisions[0].speaker for cut in load_cuts(data, "train")}
    assert names["speakers"] == [speaker_of[cut_id] for cut_id in names["cut_ids"]]
    assert len(np.unique(embeddings, axis=0)) == num_frames


def test_order_is_random_and_seeded_whatever_the_batches(data: Artifact, tmp_path: Path) -> None:
    def ids(name: str, **fields: object) -> tuple[Artifact, NDArray[np.float16]]:
        artifact = extract_with_teacher(TinyTeacher(), config(**fields), data=data, out=tmp_path / name)
        return artifact, rows_of(artifact)[0]

    first, rows = ids("a")
    again, _ = ids("b")
    other_batches, _ = ids("c", batch_duration_s=1.0)
    _, other_rows = ids("d", seed=1)
    assert first.id == again.id == other_batches.id
    assert not np.array_equal(rows, other_rows)
    _, cut_index = rows_of(first)
    changes = np.count_nonzero(np.diff(cut_index))
    assert changes > 60, "neighbours in the sample must not come from the same cut"


def test_fewer_frames_than_asked_for_give_all(data: Artifact, tmp_path: Path) -> None:
    teacher = TinyTeacher()
    artifact = extract_with_teacher(teacher, config(num_frames=10**6), data=data, out=tmp_path / "out")
    # A cut whose last, partial frame the teacher leaves out gives one less than its duration announces.
    total = sum(len(frames) for frames in every_frame(data, teacher).values())
    assert total - 9 <= artifact.facts["num_frames"] <= total


@pytest.mark.parametrize("split", ["test", "test-other"])
def test_the_test_split_is_refused(split: str, data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"split {split}.*must not be fitted on it"):
        extract_teacher(config(split=split), data=data.path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_is_refused(data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(EmptyCutSetError, match="split trian"):
        extract_with_teacher(TinyTeacher(), config(split="trian"), data=data, out=tmp_path / "out")


class Off(TinyTeacher):
    """A teacher with a fault."""

    def __init__(self, *, drop: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self._drop, self._scale = drop, scale

    def embed(self, audio: Sequence[NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, lengths = super().embed(audio)
        return self._scale * embeddings, (lengths - self._drop).clamp(min=0)


def test_frames_that_do_not_fit_the_duration_are_refused(data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(FrameAlignmentError, match="cut "):
        extract_with_teacher(Off(drop=5), config(), data=data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scale", [1e6, float("nan")])
def test_values_beyond_float16_are_refused(scale: float, data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="the range of float16"):
        extract_with_teacher(Off(scale=scale), config(), data=data, out=tmp_path / "out")


def test_the_stage_and_the_teacher_it_names(data: Artifact, tmp_path: Path) -> None:
    artifact = extract_teacher(config(layer=2), data=data.path, out=tmp_path / "out")
    assert load_artifact(tmp_path / "out", "teacher-embeddings").id == artifact.id
    assert (artifact.facts["teacher_id"], artifact.facts["layer"]) == ("whisper-tiny.en-1a5afae06a4d", 2)
    teacher = teacher_of(artifact, "cpu")
    embeddings, cut_index = rows_of(artifact)
    names = json.loads((artifact.path / "cuts.json").read_text())
    (cut,) = (cut for cut in load_cuts(data, "train") if cut.id == names["cut_ids"][cut_index[0]])
    frames = teacher.embed([load_audio(cut)])[0][0]
    assert (frames.half() == torch.from_numpy(embeddings[0])).all(dim=1).any()


def test_a_teacher_that_has_changed_is_refused(data: Artifact, tmp_path: Path) -> None:
    # Recorded with one teacher under another's name: as if the weights had been exchanged since.
    artifact = extract_with_teacher(TinyTeacher(), config(), data=data, out=tmp_path / "out")
    with pytest.raises(
        ArtifactMismatchError, match=r"expected teacher tiny-0, layer 2, .*got teacher whisper-tiny\.en"
    ):
        teacher_of(artifact, "cpu")
