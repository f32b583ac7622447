"""The compiled pipeline is the golden file, and compiling needs kfp alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.image import IMAGE
from mvqkd.stages import STAGES
from pipelines.compile import GOLDEN_FILE, compiled, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def specification() -> dict[str, Any]:
    documents = list(yaml.safe_load_all(GOLDEN_FILE.read_text(encoding="utf-8")))
    assert isinstance(documents[0], dict)
    return documents[0]


def test_golden_file_is_up_to_date() -> None:
    assert compiled() == GOLDEN_FILE.read_text(encoding="utf-8"), "run python -m pipelines.compile, look at the diff"


def test_check_notices_a_difference(tmp_path: Path) -> None:
    other = tmp_path / "pipeline.yaml"
    assert main(["--check", "--out", str(other)]) == 1
    assert main(["--out", str(other)]) == 0
    assert main(["--check", "--out", str(other)]) == 0
    other.write_text(other.read_text().replace("train-student", "train-pupil"))
    assert main(["--check", "--out", str(other)]) == 1


def test_another_image_reaches_every_component() -> None:
    executors = yaml.safe_load(compiled("registry.example/mvqkd:2"))["deploymentSpec"]["executors"]
    assert len(executors) == len(STAGES) + 1, "promote stands in both branches"
    assert {executor["container"]["image"] for executor in executors.values()} == {"registry.example/mvqkd:2"}


def test_every_stage_gets_its_section(specification: dict[str, Any]) -> None:
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {f"{name.replace('-', '_')}_config" for name in STAGES}
    assert all(entry["defaultValue"] == "{}" for entry in parameters.values())
    tasks = specification["root"]["dag"]["tasks"]
    for name in set(STAGES) - {"promote"}:
        wanted = {"componentInputParameter": f"{name.replace('-', '_')}_config"}
        assert tasks[name]["inputs"]["parameters"]["config"] == wanted


def test_artifacts_come_from_the_stage_that_makes_them(specification: dict[str, Any]) -> None:
    tasks = specification["root"]["dag"]["tasks"]
    producer = {stage.output_kind: stage.name for stage in STAGES.values()}
    for stage in STAGES.values():
        if stage.name == "promote":
            continue
        wired = tasks[stage.name].get("inputs", {}).get("artifacts", {})
        for item in stage.inputs:
            assert wired[item.name]["taskOutputArtifact"]["producerTask"] == producer[item.kind]
    branches = [task for task in tasks.values() if task["componentRef"]["name"].startswith("comp-condition")]
    assert len(branches) >= 1
    assert all("gate" in task["dependentTasks"] for task in branches)


def test_image_and_caching(specification: dict[str, Any]) -> None:
    executors = specification["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {IMAGE}
    text = GOLDEN_FILE.read_text(encoding="utf-8")
    assert "pip install" not in text
    tasks = dict(specification["root"]["dag"]["tasks"])
    for component in specification["components"].values():
        tasks |= {f"inner {name}": task for name, task in component.get("dag", {}).get("tasks", {}).items()}
    for name, task in tasks.items():
        if task["componentRef"]["name"].startswith(("comp-gate", "comp-promote")):
            assert not task.get("cachingOptions", {}).get("enableCache"), f"{name} depends on the registry's state"


@pytest.mark.parametrize("seed", ["1", "2"])
def test_compiles_alike_with_kfp_alone(seed: str, tmp_path: Path) -> None:
    """In a process that can import neither the library nor what it stands on."""
    code = """
import sys
for name in ("mvqkd", "torch", "lhotse", "mlflow", "dvc", "numpy"):
    sys.modules[name] = None
from pipelines.compile import main
sys.exit(main(["--check"]))
"""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "HOME": str(tmp_path), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
