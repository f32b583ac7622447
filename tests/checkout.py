"""A copy of what a checkout has, in which the whole pipeline runs in seconds under DVC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mvqkd.artifacts import load_artifact
from mvqkd.stages import STAGES
from mvqkd.testing.corpus import make_corpus
from tests.pipeline_budget import tiny_params

ROOT = Path(__file__).parents[1]


class Checkout:
    """A copy of what a checkout has, with tiny parameters."""

    def __init__(self, folder: Path, *, git: bool) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder)
        (folder / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
        # Stages depend on the code's folders; what runs is the installed package.
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        manifest = make_corpus(folder / "corpus", num_utterances=24)
        self.params = tiny_params(manifest)
        self.write_params()
        if git:
            self.run("git", "init", "--quiet", ".")

    def write_params(self, **changes: dict[str, Any]) -> None:
        params = {name: values | changes.get(name.replace("-", "_"), {}) for name, values in self.params.items()}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        bin_folder = str(Path(sys.executable).parent)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]), "OMP_NUM_THREADS": "1"}
        environment |= {"DVC_NO_ANALYTICS": "1"}
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def demo(self) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "mvqkd", "demo")

    def dvc(self, *arguments: str) -> str:
        result = self.run(sys.executable, "-m", "dvc", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def stages_run(self, output: str) -> list[str]:
        return re.findall(r"^Running stage '([^']+)'", output, re.MULTILINE)

    def ids(self) -> dict[str, str]:
        root = self.folder / "artifacts"
        return {stage.name: load_artifact(root / stage.output_directory).id for stage in STAGES.values()}
