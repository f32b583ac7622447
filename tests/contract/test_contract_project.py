"""What the repository ships fits together: params files, pinned versions, fixed names, import contracts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mvqkd.config import load_section
from mvqkd.stages import STAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NUM_PARAMS_FILES = 1


def _tracked(pattern: str) -> list[Path]:
    skipped = {".venv", ".git", "artifacts", "node_modules"}
    return sorted(path for path in ROOT.rglob(pattern) if not skipped & set(path.relative_to(ROOT).parts))


def test_every_params_file_loads() -> None:
    files = _tracked("params*.yaml")
    assert len(files) == NUM_PARAMS_FILES, "count the params file that came or went here"
    for file in files:
        for stage in STAGES.values():
            load_section(stage.config_model, file)


def test_params_file_has_every_section_for_dvc() -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    sections = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    assert sections == list(STAGES), "dvc refuses a stage whose params key is absent"


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!_-]+", line) for line in pins), "exact versions, no paths"
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in pins}


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins, torch_pin = _pins("constraints.txt"), _pins("constraints-torch.txt")
    assert set(torch_pin) == {"torch"}
    assert "torch" not in pins, "a CUDA machine keeps its own"
    listed = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    for text in [*PROJECT["dependencies"], *listed]:
        requirement = Requirement(text)
        if requirement.name == "mvqkd":
            continue
        version = (pins | torch_pin).get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} excludes {version}"


@pytest.mark.parametrize("target", ["install", "demo", "test", "test-all", "lint", "ui", "clean"])
def test_make_help_names_every_fixed_target(target: str) -> None:
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^  make {target} +\S", shown, re.MULTILINE)


def test_ci_calls_the_readmes_test_command() -> None:
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "4 kept, 0 broken" in result.stdout


def test_nothing_acts_when_the_library_is_imported() -> None:
    heavy = {"torch", "numpy", "lhotse"}
    code = f"import sys, mvqkd, mvqkd.config, mvqkd.cli.main; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""
