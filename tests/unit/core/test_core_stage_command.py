"""A stage's subcommand: params file, flags and artifact paths arrive at the stage's function as they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.cli import main
from mvqkd.config import Section, TrainStudentConfig, field_names
from mvqkd.stages import STAGES, Stage

CALLS: list[dict[str, Any]] = []


def record_call(config: Section, *, out: Path, **arguments: Any) -> Artifact:
    """A stage function that notes what it got; the rows under test name it by module and name."""
    CALLS.append({"config": config, "out": out, **arguments})
    stage = STAGES[config.section]
    partial = PartialArtifact(out, stage.output_kind, stage=stage.name, config=config.model_dump(mode="json"))
    return partial.commit(figures={"decision": "reject", "wer": 0.123456789, "curve": [1, 2]})


class RecordedStage(Stage):
    def load_function(self) -> Any:
        return record_call


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and every stage's function replaced by ``record_call``."""
    monkeypatch.chdir(tmp_path)
    CALLS.clear()
    for name, stage in STAGES.items():
        row = RecordedStage(**{field: getattr(stage, field) for field in stage.__dataclass_fields__})
        monkeypatch.setitem(STAGES, name, replace(row))
    return tmp_path


def test_defaults(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["fit-quantizer"]) == 0
    (call,) = CALLS
    assert call["out"] == Path("artifacts/quantizer")
    assert call["teacher_embeddings"] == Path("artifacts/teacher-embeddings")
    assert call["config"].num_codebooks == 8
    line = capsys.readouterr().out
    assert line.startswith("fit-quantizer: quantizer ")
    assert "wer 0.1235" in line
    assert "curve" not in line


def test_params_file_of_the_folder_and_flags_over_it(in_folder: Path) -> None:
    Path("params.yaml").write_text("train-student: {num_epochs: 3, seed: 5, model: {num_heads: 2}}\n")
    flags = ["--num-epochs", "7", "--speeds", "0.9,1.1", "--model.encoder-dim", "64", "--objective", "none"]
    assert main.run(["train-student", *flags, "--spec-augment", "false", "--distillation-layer", "2"]) == 0
    config = CALLS[0]["config"]
    assert isinstance(config, TrainStudentConfig)
    assert (config.num_epochs, config.seed, config.speeds, config.objective) == (7, 5, [0.9, 1.1], "none")
    assert (config.model.num_heads, config.model.encoder_dim) == (2, 64)
    assert (config.spec_augment, config.distillation_layer) == (False, 2)


def test_another_params_file(in_folder: Path) -> None:
    Path("params.yaml").write_text("gate: {max_wer: 0.9}\n")
    Path("other.yaml").write_text("gate: {max_wer: 0.2}\n")
    assert main.run(["gate", "--champion", "none", "--params", "other.yaml"]) == 0
    assert CALLS[0]["config"].max_wer == 0.2


def test_texts_that_look_like_numbers_stay_texts(in_folder: Path) -> None:
    assert main.run(["promote", "--model-name", "123", "--experiment", "no"]) == 0
    config = CALLS[0]["config"]
    assert (config.model_name, config.experiment) == ("123", "no")


def test_optional_inputs_are_passed_only_where_they_exist(in_folder: Path) -> None:
    main.run(["train-student"])
    assert CALLS[-1]["codebook_indexes"] is None
    Path("artifacts/codebook-indexes").mkdir(parents=True)
    main.run(["train-student"])
    assert CALLS[-1]["codebook_indexes"] == Path("artifacts/codebook-indexes")
    main.run(["train-student", "--codebook-indexes", "elsewhere", "--artifacts-dir", "work", "--out", "s"])
    assert CALLS[-1]["codebook_indexes"] == Path("elsewhere"), "a named path is passed on, so that its absence is told"
    assert (CALLS[-1]["data"], CALLS[-1]["out"]) == (Path("work/data"), Path("s"))


def test_extra_arguments_reach_encode_ci(in_folder: Path) -> None:
    main.run(["encode-ci", "--rank", "1", "--world-size", "2"])
    assert (CALLS[-1]["rank"], CALLS[-1]["world_size"]) == (1, 2)
    main.run(["encode-ci"])
    assert "rank" not in CALLS[-1]


def test_gate_strict_and_champion(in_folder: Path) -> None:
    assert main.run(["gate", "--champion", "none"]) == 0
    assert CALLS[-1]["champion"] is None
    assert main.run(["gate", "--champion", "some/bundle", "--strict"]) == 3
    assert CALLS[-1]["champion"] == Path("some/bundle")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit-quantizer", "--num-codebooks", "65"], "less than or equal to 64"),
        (["fit-quantizer", "--num-codebooks", "many"], "valid integer"),
        (["encode-ci", "--speeds", "fast"], "valid number"),
        (["gate", "--params", "none.yaml"], "a readable YAML file"),
    ],
)
def test_wrong_values_are_refused_before_the_stage_runs(
    in_folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 1
    assert CALLS == []
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", STAGES)
def test_every_field_is_a_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.run([name, "--help"])
    text = capsys.readouterr().out
    for field in field_names(STAGES[name].config_model):
        assert f"--{field.replace('_', '-')} " in text
