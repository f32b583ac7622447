"""The images under the restrictions of a careful cluster: who runs, what can be written, what is in them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import UID, Engine
from tests.containers.requirement import required_engine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
_PROBE = """
import json, os, pathlib

def can_write(folder):
    try:
        with open(os.path.join(folder, "probe"), "w"):
            return True
    except OSError:
        return False

status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "user": [os.getuid(), os.getgid(), os.getgroups()],
    "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "writable": [folder for folder in ("/", "/etc", "/opt/mvqkd", "/run", "/tmp", "/usr/bin", "/var/tmp", "/data")
                 if can_write(folder)],
    "network": os.listdir("/sys/class/net"),
}))
"""
_CONTENT = """
import importlib.util, json, pathlib, shutil, sys

wheels = [str(path) for path in pathlib.Path("/opt").rglob("*.whl")]
print(json.dumps({
    "programs": [name for name in ("cc", "gcc", "g++", "clang", "ld", "as", "make", "git") if shutil.which(name)],
    "modules": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
    "leftovers": [path for path in ("/build", "/wheels", "/overlay", "/opt/pip") if pathlib.Path(path).exists()],
    "wheels": wheels,
    "set_uid_in_opt": [str(p) for p in pathlib.Path("/opt").rglob("*") if p.lstat().st_mode & 0o6000],
    "not_roots": [str(p) for p in pathlib.Path("/opt").rglob("*") if p.lstat().st_uid or p.lstat().st_mode & 0o22
                  and not p.is_symlink()],
}))
"""
# MLflow's client fetches bundles; its server and what that needs are no part of the smaller image.
_CLIENT = ("mlflow", "mlflow.tracking")
_PIPELINE = (
    "sqlalchemy",
    "flask",
    "pandas",
    "torch",
    "torchaudio",
    "lhotse",
    "dvc",
    "numba",
    "onnx",
    "matplotlib",
    "av",
    "sentencepiece",
)
_KFP_AND_REGISTRY = ("kfp", "kubernetes", "psycopg2", "boto3", "dvc_s3", "transformers")
_RUNTIME = ("mvqkd", "onnxruntime", "kaldi_native_fbank", "soundfile", "soxr", "starlette", "uvicorn", "websockets")


@dataclass(frozen=True)
class Box:
    """An image and what starts containers of it."""

    target: str
    engine: Engine
    image: str

    def python(self, code: str, *arguments: str) -> Any:
        done = self.engine.run(self.image, "-c", code, *arguments, entrypoint="python3")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.call("image", "inspect", self.image).stdout)
        return found


@pytest.fixture(params=["cpu", "serve"])
def box(request: pytest.FixtureRequest) -> Box:
    return Box(request.param, *required_engine(request.param))


def test_an_unprivileged_user_may_write_to_tmp_alone(box: Box) -> None:
    found = box.python(_PROBE)
    assert found == {
        "user": [UID, UID, [UID]],
        "capabilities": ["0000000000000000"] * 5,
        "no_new_privileges": "1",
        "writable": ["/tmp"],
        "network": ["lo"],
    }


def test_what_is_in_it_and_what_is_not(box: Box) -> None:
    found = box.python(_CONTENT, *_RUNTIME, *_CLIENT, *_PIPELINE, *_KFP_AND_REGISTRY, "pip", "pytest")
    wanted = [*_RUNTIME, *_CLIENT, *(() if box.target == "serve" else (*_PIPELINE, *_KFP_AND_REGISTRY))]
    assert found == {
        "programs": [],
        "modules": wanted,
        "leftovers": [],
        "wheels": [],
        "set_uid_in_opt": [],
        "not_roots": [],
    }


def test_help_lists_the_stages(box: Box) -> None:
    done = box.engine.run(box.image, "--help")
    assert done.returncode == 0
    assert "prepare-data" in done.stdout
    assert done.stderr == ""


def test_doctor(box: Box, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / ".dvc").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "constraints.txt", ".dvc/config"):
        shutil.copy(ROOT / name, checkout / name)
    done = box.engine.run(box.image, "doctor", volumes=[f"{checkout}:/data:ro"])
    assert done.stderr == ""
    if box.target == "cpu":
        assert done.returncode == 0, done.stdout
        assert "all that the demo needs is here" in done.stdout
        assert "tested with" not in done.stdout, "versions are the locked ones"
    else:
        assert done.returncode == 1
        assert "ok      extra serve" in done.stdout
        assert "MISSING torch" in done.stdout


def test_what_the_image_says_of_itself(box: Box) -> None:
    image = box.inspect()
    config, labels = image["Config"], image["Labels"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["mvqkd"]
    assert config["WorkingDir"] == "/data"
    assert labels["org.opencontainers.image.title"] == "mvqkd"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == environment["MVQKD_GIT_SHA"]
    assert not [name for name in environment if name.startswith("PIP_")]
    if box.target == "serve":
        assert set(config["ExposedPorts"]) == {"8470/tcp"}
        assert "healthz" in " ".join(image["Healthcheck"]["Test"])
    else:
        assert "ExposedPorts" not in config


def test_version_label_is_the_packages(box: Box) -> None:
    version = box.python("import importlib.metadata as m, json; print(json.dumps(m.version('mvqkd')))")
    assert box.inspect()["Labels"]["org.opencontainers.image.version"] == version
