"""Sections: defaults hold, unknown keys name the nearest known one, ranges name the field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mvqkd.config import (
    SECTIONS,
    EncodeCiConfig,
    FitQuantizerConfig,
    GateConfig,
    Params,
    PrepareDataConfig,
    Section,
    TrainStudentConfig,
    field_names,
    literal_choices,
    load_section,
    section_from_json,
)
from mvqkd.errors import ConfigError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_one_section_a_stage() -> None:
    assert len(SECTIONS) == 9
    assert [info.alias or name for name, info in Params.model_fields.items()] == list(SECTIONS)


@pytest.mark.parametrize("model", SECTIONS.values(), ids=list(SECTIONS))
def test_defaults_are_valid_and_explained(model: type[Section]) -> None:
    assert model.model_validate(load_section(model).model_dump()) == load_section(model)
    for name, info in model.model_fields.items():
        assert info.description, f"{model.section}.{name} gives no reason"


def test_file_and_overrides(tmp_path: Path) -> None:
    params = _file(tmp_path, "fit-quantizer: {num_codebooks: 4}\ntrain-student: {model: {num_heads: 2}}\n")
    assert load_section(FitQuantizerConfig, params).num_codebooks == 4
    assert load_section(FitQuantizerConfig, params, {"num_codebooks": 16}).num_codebooks == 16
    train = load_section(TrainStudentConfig, params, {"model.encoder_dim": 64})
    assert (train.model.num_heads, train.model.encoder_dim) == (2, 64)
    assert load_section(GateConfig, params) == GateConfig()


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GateConfig().max_wer = 2.0


@pytest.mark.parametrize(
    ("text", "model", "parts"),
    [
        ("fit-quantiser: {}\n", FitQuantizerConfig, ["key fit-quantiser", "nearest: fit-quantizer"]),
        ("gate: {max_wor: 1}\n", GateConfig, ["gate.max_wor", "nearest: max_wer", "rename it to max_wer"]),
        ("train-student: {model: {num_head: 2}}\n", TrainStudentConfig, ["nearest: num_heads"]),
        ("gate: {zzzz: 1}\n", GateConfig, ["one of max_wer", "unknown key zzzz"]),
        ("gate: {max_wer: -1}\n", GateConfig, ["gate.max_wer", "greater than 0", "got -1"]),
        ("fit-quantizer: {num_codebooks: 0}\n", FitQuantizerConfig, ["num_codebooks", "got 0"]),
        ("fit-quantizer: {codebook_size: 100}\n", FitQuantizerConfig, ["codebook_size", "16 or 256"]),
        ("prepare-data: {source: manifest}\n", PrepareDataConfig, ["source manifest needs manifest"]),
        ("prepare-data: {test_share: 0.6, dev_share: 0.5}\n", PrepareDataConfig, ["leave something to train on"]),
        ("prepare-data: {min_duration_s: 30}\n", PrepareDataConfig, ["below max_duration_s"]),
        ("encode-ci: {speeds: []}\n", EncodeCiConfig, ["non-empty list"]),
        ("encode-ci: {speeds: [1.0, 1.0]}\n", EncodeCiConfig, ["must not repeat"]),
        ("train-student: {model: {encoder_dim: 50, num_heads: 4}}\n", TrainStudentConfig, ["multiple of num_heads"]),
        ("gate: [1]\n", GateConfig, ["mapping"]),
        ("gate: 3\n", GateConfig, ["mapping"]),
        ("[1, 2]\n", GateConfig, ["a mapping of sections", "list"]),
        ("gate: {max_wer: [\n", GateConfig, ["valid YAML"]),
    ],
)
def test_wrong_params_are_refused_on_one_line(
    tmp_path: Path, text: str, model: type[Section], parts: list[str]
) -> None:
    params = _file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_section(model, params)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(params), *parts]:
        assert part in message


def test_override_inside_a_malformed_nested_section_is_refused(tmp_path: Path) -> None:
    params = _file(tmp_path, "train-student: {model: 3}\n")
    with pytest.raises(ConfigError, match=r"train-student\.model: expected a mapping of parameters, got 3"):
        load_section(TrainStudentConfig, params, {"model.encoder_dim": 64})


def test_absent_params_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a readable YAML file"):
        load_section(GateConfig, tmp_path / "none.yaml")


def test_json_is_the_same_loader() -> None:
    text = json.dumps({"num_codebooks": 4, "seed": 3})
    assert section_from_json(FitQuantizerConfig, text) == FitQuantizerConfig(num_codebooks=4, seed=3)
    with pytest.raises(ConfigError, match=r"nearest: num_codebooks"):
        section_from_json(FitQuantizerConfig, '{"num_codebook": 4}')
    for text in ("[1]", "{", ""):
        with pytest.raises(ConfigError, match="a JSON object"):
            section_from_json(FitQuantizerConfig, text)


def test_field_names_reach_into_nested_sections() -> None:
    names = field_names(TrainStudentConfig)
    assert "model.encoder_dim" in names
    assert "model" not in names
    assert literal_choices(TrainStudentConfig.model_fields["objective"].annotation) == ("none", "l1", "l2", "mvq")
    assert literal_choices(int) == ()


@pytest.mark.parametrize(
    ("num_epochs", "averaged"), [(1, 1), (4, 1), (7, 1), (8, 2), (14, 3), (20, 5), (30, 5), (100, 5)]
)
def test_checkpoints_of_the_last_quarter_are_averaged(num_epochs: int, averaged: int) -> None:
    assert TrainStudentConfig(num_epochs=num_epochs).averaged_checkpoints == averaged
    assert TrainStudentConfig(num_epochs=num_epochs, num_checkpoints=4).averaged_checkpoints == 4
