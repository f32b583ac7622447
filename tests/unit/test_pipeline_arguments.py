"""What params.yaml and --set make of a run's arguments, and what they refuse before a pod would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvqkd.config import SECTIONS, EncodeCiConfig, GateConfig, section_from_json
from mvqkd.errors import ConfigError
from pipelines.arguments import arguments_of
from pipelines.package import Package, package_from_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def golden() -> Package:
    return package_from_file(ROOT / "pipelines" / "distill.golden.yaml")


def _params(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_section_travels_complete(golden: Package) -> None:
    arguments = arguments_of(golden, ROOT / "params.yaml", {})
    for section, model in SECTIONS.items():
        text = arguments[f"{section.replace('-', '_')}_config"]
        assert json.loads(text) == section_from_json(model, text).model_dump(mode="json")
    assert json.loads(arguments["encode_ci_config"])["speeds"] == [0.9, 1.0, 1.1]
    assert json.loads(arguments["gate_config"])["tolerance"] == 0.005


def test_equal_settings_are_equal_arguments(golden: Package, tmp_path: Path) -> None:
    default = json.dumps(EncodeCiConfig().mode)
    one = arguments_of(golden, _params(tmp_path, f"gate: {{}}\nencode-ci: {{mode: {default}, shard_cuts: 9}}"), {})
    other = arguments_of(golden, _params(tmp_path, "encode-ci:\n  shard_cuts: 9  # nine"), {})
    assert one == other
    assert one != arguments_of(golden, None, {})


def test_a_typo_in_params_fails_here(golden: Package, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments_of(golden, _params(tmp_path, "gate:\n  tolerence: 0.1\n"), {})
    assert "gate.tolerence: expected a known key (nearest: tolerance)" in str(caught.value)


def test_a_typo_in_a_section_that_is_set_fails_as_well(golden: Package, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tolerence"):
        arguments_of(golden, _params(tmp_path, "gate:\n  tolerence: 0.1\n"), {"gate_config": "{}"})


def test_parameters_get_their_types(golden: Package) -> None:
    settings = {"num_shards": "8", "test_splits": '["test", "dev"]', "dvc_remote": "s3://bucket/ci", "source_id": "7"}
    arguments = arguments_of(golden, None, settings)
    assert {name: arguments[name] for name in settings} == {
        "num_shards": 8,
        "test_splits": ["test", "dev"],
        "dvc_remote": "s3://bucket/ci",
        "source_id": "7",
    }
    assert list(arguments) == [name for name in golden.parameters if name in arguments]


def test_sections_given_as_settings_are_checked_and_completed(golden: Package) -> None:
    arguments = arguments_of(golden, None, {"gate_config": '{"tolerance": 0.01}', "launch_config": "{}"})
    assert json.loads(arguments["gate_config"]) == GateConfig(tolerance=0.01).model_dump(mode="json")
    assert json.loads(arguments["launch_config"])["launcher"] == "inprocess"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "num_shard",
            "8",
            "expected a parameter of the pipeline (nearest: num_shards), got unknown parameter num_shard",
        ),
        ("zzz", "8", "expected one of"),
        ("num_shards", "many", "--set num_shards: expected a whole number, got 'many'"),
        ("num_shards", "1.5", "expected a whole number"),
        ("test_splits", "test", "expected a JSON list, got 'test'"),
        ("test_splits", '{"a": 1}', "expected a JSON list"),
        ("gate_config", '{"tolerance": -1}', "gate.tolerance"),
        ("launch_config", '{"launcher": "mpi"}', "launch.launcher"),
    ],
)
def test_what_the_server_or_a_pod_would_refuse_is_refused_here(
    golden: Package, name: str, text: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments_of(golden, None, {name: text})
    assert words in str(caught.value)


def _package(**parameters: dict[str, object]) -> Package:
    root = {"dag": {"tasks": {"one": {}}}, "inputDefinitions": {"parameters": parameters}}
    return Package({"pipelineInfo": {"name": "small"}, "root": root}, {})


def test_a_parameter_without_default_must_be_set() -> None:
    package = _package(needed={"parameterType": "STRING"}, open={"parameterType": "STRING", "isOptional": True})
    with pytest.raises(ConfigError) as caught:
        arguments_of(package, None, {})
    assert "expected a value for needed, got none, and no default; pass --set needed=VALUE" in str(caught.value)
    assert arguments_of(package, None, {"needed": ""}) == {"needed": ""}


@pytest.mark.parametrize(
    ("wanted", "text", "value"),
    [
        ("BOOLEAN", "true", True),
        ("BOOLEAN", "False", False),
        ("NUMBER_DOUBLE", "1e-3", 0.001),
        ("STRUCT", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_other_types(wanted: str, text: str, value: object) -> None:
    arguments = arguments_of(_package(it={"parameterType": wanted}), None, {"it": text})
    assert arguments == {"it": value}
    assert type(arguments["it"]) is type(value)


@pytest.mark.parametrize(
    ("wanted", "text", "words"),
    [
        ("BOOLEAN", "1", "expected true or false, got '1'"),
        ("NUMBER_DOUBLE", "nan", "expected a number, got 'nan'"),
        ("STRUCT", "[]", "expected a JSON object, got '[]'"),
        ("TASK_FINAL_STATUS", "x", "this one is TASK_FINAL_STATUS, got 'x'; leave it out"),
    ],
)
def test_values_of_other_types_are_refused(wanted: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments_of(_package(it={"parameterType": wanted}), None, {"it": text})
    assert words in str(caught.value)
