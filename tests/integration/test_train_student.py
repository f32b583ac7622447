"""train-student on real audio files: killed and resumed, bad batches, lineage."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import PrepareDataConfig, TrainStudentConfig, load_section
from mvqkd.data.batches import BatchSource
from mvqkd.data.cuts import load_cuts, speed_copies
from mvqkd.data.prepare import prepare_data
from mvqkd.data.tokens import Tokens
from mvqkd.errors import ArtifactMismatchError, ConfigError, TrainingError
from mvqkd.student.model import Student
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import TINY_TRAINING
from mvqkd.train.loop import Trainer
from mvqkd.train.stage import train_student
from mvqkd.train.state import STATE_FILE, TrainerState

TINY = {**TINY_TRAINING, "objective": "none", "num_epochs": 3, "checkpoint_steps": 2}


def tiny(**changes: object) -> TrainStudentConfig:
    return load_section(TrainStudentConfig, None, {**TINY, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("train")
    manifest = make_corpus(root / "corpus", 12)
    config = PrepareDataConfig(source="manifest", manifest=str(manifest), split_by="prompt")
    return prepare_data(config, out=root / "data")


def command(data: Artifact, out: Path) -> list[str]:
    flags = []
    for name, value in TINY.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    return [sys.executable, "-m", "mvqkd", "train-student", "--data", str(data.path), "--out", str(out), *flags]


@pytest.fixture(scope="module")
def undisturbed(data: Artifact) -> Artifact:
    # In a process of its own, as the killed one: what other tests have set in this one must not matter.
    out = data.path.parent / "undisturbed"
    subprocess.run(command(data, out), capture_output=True, timeout=300, check=True)
    return load_artifact(out)


def test_killed_and_resumed_equals_undisturbed(data: Artifact, undisturbed: Artifact) -> None:
    out = data.path.parent / "killed"
    process = subprocess.Popen(command(data, out), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.parent.glob(f".killed.partial-*/{STATE_FILE}")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()

    resumed = subprocess.run(command(data, out), capture_output=True, text=True, timeout=300, check=True)
    assert "resumed at step" in resumed.stderr
    first, second = (load_file(path / "student.safetensors") for path in (undisturbed.path, out))
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)
    assert histories(undisturbed.path) == histories(out)
    assert load_artifact(out).id == undisturbed.id
    assert not list(out.parent.glob(".killed.partial-*"))


def histories(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def test_history_and_figures_say_what_happened(undisturbed: Artifact) -> None:
    rows = histories(undisturbed.path)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == undisturbed.figures["num_steps"]
    # The total rises at first, because the pruned loss is let in slowly; its parts fall.
    assert rows[-1]["simple_loss"] < rows[0]["simple_loss"]
    assert undisturbed.figures["num_skipped_batches"] == 0
    assert "distillation_loss" not in rows[0]


def test_another_seed_gives_another_student(data: Artifact, undisturbed: Artifact) -> None:
    seen: list[Mapping[str, float]] = []
    other = train_student(tiny(seed=1), data=data.path, out=data.path.parent / "other-seed", on_row=seen.append)
    assert other.id != undisturbed.id
    # Whoever watches is given what the history will hold, and how fast it goes.
    kept = histories(other.path)
    assert [{name: row[name] for name in kept[0]} for row in seen] == kept
    assert all(row["audio_s_per_s"] > 0 and 0 <= row["data_wait_share"] < 1 for row in seen)


def trainer_of(data: Artifact, config: TrainStudentConfig, directory: Path) -> Trainer:
    tokens = Tokens.load(data.path)
    cuts = speed_copies(load_cuts(data, "train"), config.speeds)
    source = BatchSource(cuts, tokens, batch_duration_s=config.batch_duration_s, seed=0)
    torch.manual_seed(0)
    return Trainer(config, Student(config.model, tokens.vocab_size), None, source, directory, torch.device("cpu"))


def test_a_step_without_finite_loss_is_skipped_then_refused_with_the_cut_to_blame(
    data: Artifact, tmp_path: Path
) -> None:
    trainer = trainer_of(data, tiny(max_bad_batches=1), tmp_path)
    batch = trainer.source.collate(trainer.source.plan(0)[0])
    broken, *others = (str(cut.id) for cut in batch.cuts)
    batch.features[0, 3, 5] = float("nan")
    before = {name: tensor.clone() for name, tensor in trainer.student.state_dict().items()}
    state = TrainerState()
    assert trainer.step([batch], state, 0.5) == {}
    for name, tensor in trainer.student.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(TrainingError, match=f"cuts to blame: {broken}:") as caught:
        trainer.step([batch], state, 0.5)
    assert others
    assert not any(name in str(caught.value) for name in others)


def test_every_epoch_is_planned_alike_and_anew(data: Artifact, tmp_path: Path) -> None:
    source = trainer_of(data, tiny(), tmp_path).source
    first, again, other = ([[cut.id for cut in cuts] for cuts in source.plan(epoch)] for epoch in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(name for cuts in first for name in cuts) == sorted(cut.id for cut in source.cuts)


def test_training_ends_when_the_dev_loss_no_longer_falls(data: Artifact, tmp_path: Path) -> None:
    manifest = data.path.parent / "corpus" / "manifest.jsonl"
    config = PrepareDataConfig(source="manifest", manifest=str(manifest), split_by="prompt", dev_share=0.3)
    with_dev = prepare_data(config, out=tmp_path / "data")
    # So low a rate leaves every weight as it is.
    stuck = tiny(early_stop_epochs=2, num_epochs=6, learning_rate=1e-30, weight_decay=0, log_steps=1000)
    artifact = train_student(stuck, data=with_dev.path, out=tmp_path / "stuck")
    rows = [row for row in histories(artifact.path) if "dev_loss" in row]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len({row["dev_loss"] for row in rows}) == 1
    assert all("loss" in row for row in rows)
    assert artifact.figures["num_steps"] == rows[-1]["step"]

    learning = train_student(tiny(early_stop_epochs=1), data=with_dev.path, out=tmp_path / "learning")
    falling = [row["dev_loss"] for row in histories(learning.path) if "dev_loss" in row]
    assert len(falling) == 3
    assert falling == sorted(falling, reverse=True)


def test_an_early_stop_without_a_dev_split_says_how_to_get_one(data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected data with a split dev.*set prepare-data.dev_share above 0"):
        train_student(tiny(early_stop_epochs=1), data=data.path, out=tmp_path / "never")


def test_loading_ahead_changes_nothing_and_its_time_is_counted(data: Artifact, undisturbed: Artifact) -> None:
    assert 0 < undisturbed.figures["data_wait_share"] < 1
    assert undisturbed.figures["audio_s_per_s"] > 0


def test_mvq_without_indexes_says_what_to_do(data: Artifact) -> None:
    with pytest.raises(ConfigError, match="expected a quantizer artifact, got none; pass --quantizer DIR"):
        train_student(tiny(objective="mvq"), data=data.path, out=data.path.parent / "never")


def test_a_layer_beyond_the_encoder_is_refused(data: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"distillation_layer: expected a layer in 1 .. 2, got 5"):
        train_student(tiny(distillation_layer=5), data=data.path, out=data.path.parent / "never")


def write(root: Path, kind: str, parents: list[Artifact], **facts: object) -> Artifact:
    partial = PartialArtifact(
        root / f"{kind}-{len(list(root.iterdir()))}", kind, stage="test", config={}, parents=parents
    )
    (partial.path / "payload").write_text(kind)
    return partial.commit(facts=facts)


def test_indexes_of_another_quantizer_or_speed_are_refused(data: Artifact, tmp_path: Path) -> None:
    mine, other = write(tmp_path, "quantizer", [], n=1), write(tmp_path, "quantizer", [], n=2)
    indexes = write(tmp_path, "codebook-indexes", [data, mine], speeds=[1.0])
    inputs = {"data": data.path, "codebook_indexes": indexes.path, "out": tmp_path / "never"}
    with pytest.raises(
        ArtifactMismatchError, match=f"expected quantizer {mine.short_id}.*got quantizer {other.short_id}"
    ):
        train_student(tiny(objective="mvq"), quantizer=other.path, **inputs)
    with pytest.raises(ArtifactMismatchError, match=r"got none for 1.1; add them to encode-ci.speeds"):
        train_student(tiny(objective="mvq"), quantizer=mine.path, **inputs)
    assert load_artifact(mine.path).id == mine.id
