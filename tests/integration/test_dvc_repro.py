"""`mvqkd demo` and DVC on a tiny corpus: everything once, nothing twice, and after a change only what depends on it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvqkd.artifacts import load_artifact
from mvqkd.stages import STAGES
from tests.checkout import Checkout

# A value other than the tiny one, for one parameter of each section.
CHANGES: dict[str, dict[str, Any]] = {
    "prepare-data": {"split_seed": 1},
    "extract-teacher": {"seed": 1},
    "fit-quantizer": {"seed": 1},
    "encode-ci": {"speeds": [0.9, 1.0]},
    "train-student": {"seed": 1},
    "evaluate": {"seed": 1},
    "export-onnx": {"max_difference": 0.01},
    "gate": {"tolerance": 0.5},
    "promote": {"experiment": "another"},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, subprocess.CompletedProcess[str]]:
    """A checkout in which the demo has run, and what it printed. Tests put params.yaml back."""
    checkout = Checkout(tmp_path_factory.mktemp("dvc") / "checkout", git=True)
    result = checkout.demo()
    assert result.returncode == 0, result.stdout + result.stderr
    return checkout, result


def test_demo_shows_every_stage_and_ends_with_the_summary(
    done: tuple[Checkout, subprocess.CompletedProcess[str]],
) -> None:
    checkout, result = done
    lines = result.stdout.splitlines()
    assert [line for line in lines if re.match(r"\[\d/9\]", line)] == [
        f"[{number}/9] {name} ..." for number, name in enumerate(STAGES, start=1)
    ]
    assert not [line for line in lines if "dvc" in line and "transcribe" not in line], "DVC's own advice is held back"
    summary = json.loads((checkout.folder / "artifacts" / "summary.json").read_text())
    assert summary["decision"] == "promote"
    assert summary["model_version"] == 1
    assert summary["wall_s"] >= sum(summary["stages"].values()) * 0.9
    assert set(checkout.ids()) == set(STAGES)


def test_git_sees_only_what_one_may_commit(done: tuple[Checkout, subprocess.CompletedProcess[str]]) -> None:
    seen = done[0].run("git", "status", "--short", "--untracked-files=all", "--", ".", ":!src", ":!corpus").stdout
    assert {line.split()[-1] for line in seen.splitlines()} == {
        *(".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "dvc.lock", "dvc.yaml", "params.yaml")
    }


def test_second_repro_does_nothing(done: tuple[Checkout, subprocess.CompletedProcess[str]]) -> None:
    checkout, _ = done
    before = checkout.ids()
    output = checkout.dvc("repro")
    assert checkout.stages_run(output) == []
    assert output.count("didn't change, skipping") == len(STAGES)
    assert checkout.ids() == before
    assert "up to date" in checkout.dvc("status")


@pytest.mark.parametrize("name", STAGES)
def test_a_parameter_touches_its_own_stage(name: str, done: tuple[Checkout, subprocess.CompletedProcess[str]]) -> None:
    checkout, _ = done
    checkout.write_params(**{name.replace("-", "_"): CHANGES[name]})
    try:
        changed = json.loads(checkout.dvc("status", "--json"))
    finally:
        checkout.write_params()
    assert list(changed) == [name]


def test_change_reaches_what_depends_on_it_and_nothing_else(
    done: tuple[Checkout, subprocess.CompletedProcess[str]],
) -> None:
    checkout, _ = done
    before = checkout.ids()
    checkout.write_params(evaluate=CHANGES["evaluate"])
    try:
        assert checkout.stages_run(checkout.dvc("repro")) == ["evaluate", "gate", "promote"]
        after = checkout.ids()
    finally:
        checkout.write_params()
    # The way back: the report is taken from the cache; the decision is made anew, as the champion may have moved.
    assert checkout.stages_run(checkout.dvc("repro")) == ["gate", "promote"]
    assert {name for name in STAGES if before[name] != after[name]} <= {"evaluate", "gate", "promote"}


def test_lost_registry_is_filled_again(done: tuple[Checkout, subprocess.CompletedProcess[str]]) -> None:
    checkout, _ = done
    (checkout.folder / "mlflow.db").unlink()
    result = checkout.demo()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[7/9] export-onnx: up to date" in result.stdout
    assert "[8/9] gate ..." in result.stdout
    assert "[9/9] promote ..." in result.stdout
    assert (checkout.folder / "mlflow.db").is_file()


def test_indexes_travel_over_a_verified_remote(
    done: tuple[Checkout, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    checkout, _ = done
    indexes = checkout.folder / "artifacts" / "codebook-indexes"
    before = load_artifact(indexes, "codebook-indexes")
    checkout.dvc("remote", "add", "--local", "--force", "--default", "store", str(tmp_path / "remote"))
    checkout.dvc("remote", "modify", "--local", "store", "verify", "true")
    checkout.dvc("push", "artifacts/codebook-indexes")
    shutil.rmtree(indexes)
    shutil.move(checkout.folder / ".dvc" / "cache", tmp_path / "cache")
    checkout.dvc("pull", "artifacts/codebook-indexes")
    assert load_artifact(indexes, "codebook-indexes").id == before.id

    shutil.rmtree(indexes)
    shutil.rmtree(checkout.folder / ".dvc" / "cache")
    stored = max((path for path in (tmp_path / "remote").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    stored.chmod(0o644)
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    refused = checkout.run(sys.executable, "-m", "dvc", "pull", "artifacts/codebook-indexes")
    assert refused.returncode != 0

    shutil.rmtree(checkout.folder / ".dvc" / "cache", ignore_errors=True)
    shutil.move(tmp_path / "cache", checkout.folder / ".dvc" / "cache")
    checkout.dvc("checkout", "--force", "artifacts/codebook-indexes")
    assert load_artifact(indexes).id == before.id


def test_failed_stage_is_named_without_git(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "unpacked", git=False)
    assert checkout.run("git", "rev-parse", "--is-inside-work-tree").returncode != 0
    checkout.write_params(extract_teacher={"split": "nowhere"})
    result = checkout.demo()
    assert result.returncode == 1
    assert "mvqkd demo: stage extract-teacher failed" in result.stderr
    assert "mvqkd extract-teacher: " in result.stderr
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr
    assert load_artifact(checkout.folder / "artifacts" / "data", "cut-manifest")


def test_killed_stage_goes_on_under_dvc(tmp_path: Path) -> None:
    """DVC removes the output before it runs a stage; what the killed stage left beside it stays."""
    checkout = Checkout(tmp_path / "checkout", git=False)
    script = """
import os, signal, sys
from pathlib import Path
from mvqkd.artifacts import PartialArtifact
partial = PartialArtifact(Path("artifacts/codebook-indexes"), "codebook-indexes", stage="encode-ci", config={})
print("resumed" if partial.resumed else "fresh", flush=True)
(partial.path / f"shard-{len(list(partial.path.glob('shard-*')))}").write_bytes(b"x")
if not partial.resumed:
    os.kill(os.getpid(), signal.SIGKILL)
partial.commit()
"""
    (checkout.folder / "stage.py").write_text(script)
    stage = {"cmd": f"{sys.executable} stage.py", "deps": ["stage.py"], "outs": ["artifacts/codebook-indexes"]}
    (checkout.folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"encode-ci": stage}}))
    checkout.dvc("config", "--local", "core.no_scm", "true")
    killed = checkout.run(sys.executable, "-m", "dvc", "repro")
    assert killed.returncode != 0
    assert "fresh" in killed.stdout
    # The shell that DVC starts either becomes the stage (a negative status) or reports its death (128 + signal).
    statuses = f"exited with -{signal.SIGKILL.value}", f"exited with {128 + signal.SIGKILL.value}"
    assert any(status in killed.stderr for status in statuses), killed.stderr
    assert not (checkout.folder / "artifacts" / "codebook-indexes").exists()
    assert "resumed" in checkout.dvc("repro")
    assert sorted(load_artifact(checkout.folder / "artifacts" / "codebook-indexes").files) == ["shard-0", "shard-1"]
