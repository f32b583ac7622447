"""Four names, one body: library function, subcommand, dvc stage and component of a stage agree."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from mvqkd.artifacts import SCHEMA_VERSIONS
from mvqkd.config import SECTIONS
from mvqkd.stages import STAGES, Stage

ROOT = Path(__file__).parents[2]
DVC_STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Components that stand for no stage: what Kubeflow needs around them.
BETWEEN_STAGES = {"plan_shards", "merge_ci", "push_ci", "notify"}
# What a component has beside its stage's config, inputs, their content ids and the output.
EXTRA_INPUTS = {
    "prepare-data": {"source_id"},
    "encode-ci": {"rank", "world_size"},
    "train-student": {"launch"},
    "evaluate": {"split"},
    "gate": {"promote_config"},
    "promote": {"pipeline_run"},
}
EXTRA_OUTPUTS = {"gate": {"verdict", "page", "wer_report", "wer_report_id"}, "promote": {"page"}}
# What calls the stage; run_stage where nothing else has to be done.
CALLS = {"train-student": "run_training", "gate": "run_gate"}
# What gate reads beside its own section: whose champion is to be beaten.
EXTRA_PARAMS = {"gate": ["promote.model_name"]}
# Imported everywhere, without influence on what a stage writes.
WITHOUT_INFLUENCE = {"mvqkd", "mvqkd.errors", "mvqkd.progress"}

every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))


def component_function(stage: Stage) -> Any:
    name = stage.name.replace("-", "_")
    return getattr(importlib.import_module(f"components.{name}.component"), name)


def test_nine_stages_everywhere() -> None:
    assert len(STAGES) == 9
    assert list(STAGES) == list(SECTIONS) == list(DVC_STAGES)
    folders = sorted(path.parent.name for path in (ROOT / "components").glob("*/component.py"))
    assert folders == sorted({name.replace("-", "_") for name in STAGES} | BETWEEN_STAGES)
    assert [stage.output_kind for stage in STAGES.values()] == list(SCHEMA_VERSIONS)


def test_inputs_are_outputs_of_earlier_stages() -> None:
    made: dict[str, str] = {}
    for stage in STAGES.values():
        for item in stage.inputs:
            assert made.get(item.directory) == item.kind, f"{stage.name} reads {item.directory} before it is made"
        made[stage.output_directory] = stage.output_kind


@every_stage
def test_library_function_takes_what_the_table_says(stage: Stage) -> None:
    signature = inspect.signature(stage.load_function())
    parameters = dict(signature.parameters)
    assert next(iter(parameters)) == "config"
    parameters.pop("config")
    expected = {item.name for item in stage.inputs} | {"out", *stage.extra}
    # What the command line and components find out: the champion to beat, other test sets, where to send metrics while
    # training, which run of an orchestrator this is.
    found_out = {"gate": {"champion", "other_reports"}, "train-student": {"on_row"}, "promote": {"pipeline_run"}}
    expected |= found_out.get(stage.name, set())
    assert set(parameters) == expected
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    for item in stage.inputs:
        assert (parameters[item.name].default is inspect.Parameter.empty) == item.required


def plural(name: str, stage: Stage) -> str:
    """The gate takes the reports of all test sets, of which the stage's own is one."""
    return name.replace("wer_report", "wer_reports") if stage.name == "gate" else name


@every_stage
def test_component_takes_what_the_table_says(stage: Stage) -> None:
    component = component_function(stage).component_spec
    inputs = dict(component.inputs)
    assert inputs.pop("config").type == "String"
    for name in EXTRA_INPUTS.get(stage.name, set()):
        inputs.pop(name)
    expected = {}
    for item in stage.inputs:
        expected |= {plural(item.name, stage): not item.required, f"{item.name}_id": not item.required}
    if stage.name == "gate":
        expected["wer_report_ids"] = expected.pop("wer_report_id")
    assert {name: spec.optional for name, spec in inputs.items()} == expected
    outputs = set(component.outputs) - EXTRA_OUTPUTS.get(stage.name, set()) - {"metrics"}
    # The output has the name under which the next stages take it.
    taken = {item.name for other in STAGES.values() for item in other.inputs if item.kind == stage.output_kind}
    assert outputs == {"artifact_id", *(taken or {"promotion"})}


@every_stage
def test_component_makes_one_call_of_the_library(stage: Stage) -> None:
    function = ast.parse(inspect.getsource(component_function(stage).python_func)).body[0]
    assert isinstance(function, ast.FunctionDef)
    text = f"{stage.help[0].upper()}{stage.help[1:]}."
    assert (ast.get_docstring(function) or "").startswith(text)
    called = [node.func.id for node in ast.walk(function) if isinstance(node, ast.Call) and hasattr(node.func, "id")]
    body = [node for node in function.body[1:] if not isinstance(node, ast.Assign)]
    assert [type(node) for node in body] == [ast.ImportFrom, ast.Return], "import, call, return; no logic"
    expected = CALLS.get(stage.name, "run_stage")
    assert [name for name in called if name != "NamedTuple"] == [expected]
    names = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
    assert expected != "run_stage" or stage.name in names


@every_stage
def test_dvc_stage_is_the_subcommand_with_its_section_and_artifacts(stage: Stage) -> None:
    entry = DVC_STAGES[stage.name]
    assert entry["cmd"] == f"mvqkd {stage.name}"
    assert entry["params"] == [stage.name, *EXTRA_PARAMS.get(stage.name, [])]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in entry["outs"]]
    assert outs == [f"artifacts/{stage.output_directory}"]
    artifacts = [path for path in entry["deps"] if path.startswith("artifacts/")]
    assert artifacts == [f"artifacts/{item.directory}" for item in stage.inputs]


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("mvqkd", cache_dir=None)


@every_stage
def test_dvc_stage_lists_the_code_that_it_runs(stage: Stage, imports: grimp.ImportGraph) -> None:
    listed = [path for path in DVC_STAGES[stage.name]["deps"] if path.startswith("src/")]
    for path in listed:
        assert (ROOT / path).exists()
    module = stage.function.partition(":")[0]
    run = ({module} | imports.find_upstream_modules(module)) - WITHOUT_INFLUENCE
    covered = {path.removeprefix("src/").removesuffix(".py").replace("/", ".") for path in listed}
    assert {name for name in run if not any(f"{name}.".startswith(f"{prefix}.") for prefix in covered)} == set()
    assert {prefix for prefix in covered if not any(f"{name}.".startswith(f"{prefix}.") for name in run)} == set()


def test_decisions_stay_out_of_dvcs_run_cache() -> None:
    persisted = {
        name
        for name, entry in DVC_STAGES.items()
        if any(isinstance(out, dict) and out[next(iter(out))].get("persist") for out in entry["outs"])
    }
    assert persisted == {"gate", "promote"}
