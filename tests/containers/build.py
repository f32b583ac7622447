"""Base image, wheels and images for the tests; what is there and up to date stays.

The build has no network: it takes every package from a folder of wheels, which pip fills before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.containers.engine import IMAGES, Engine, EngineError, find_engine

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ.get("MVQKD_CONTAINERS_DIR", "/var/tmp/mvqkd-containers"))
OWN_BASE = "localhost/mvqkd-base:bookworm"
BASE = os.environ.get("MVQKD_BASE_IMAGE", OWN_BASE)
# Without one debootstrap takes its own.
_MIRROR = os.environ.get("MVQKD_DEBIAN_MIRROR")
_EXTRAS = "pipeline,teacher,registry,kfp,serve"
_LOCKED = ("constraints.txt", "constraints-torch.txt", "pyproject.toml")
# An image of these tests carries a digest of what it was made from.
_LABEL = "mvqkd.test.inputs"


def build() -> None:
    """Make what is missing.

    Raises:
        EngineError: something could not be made; the message says what to do.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    podman = Engine(os.environ)
    if not podman.has_image(BASE):
        with step("base image by debootstrap"):
            _make_base()
    engine = find_engine(BASE)
    digest, revision = _inputs(engine), _revision()
    for target, image in IMAGES.items():
        with step(f"image {target}"):
            label = f'--format={{{{index .Labels "{_LABEL}"}}}}'
            if engine.call("image", "inspect", label, image, check=False).stdout.strip() == digest:
                print("  is up to date", flush=True)
                continue
            wheels = _wheels(engine)
            engine.call(
                *("build", "--format=docker", "--pull=never", "--network=none", f"--target={target}", f"--tag={image}"),
                *(f"--build-context=wheels={wheels}", "--build-arg=PIP_ARGS=--no-index --find-links=/wheels"),
                *(f"--build-arg=BASE_IMAGE={BASE}", f"--build-arg=REVISION={revision}", f"--label={_LABEL}={digest}"),
                str(ROOT),
                timeout_s=3600,
            )
        size = int(engine.call("image", "inspect", "--format={{.Size}}", image).stdout)
        print(f"  {image}: {size / 1e6:,.0f} MB", flush=True)


def clean() -> None:
    """Remove images, base and wheels; layers of the builds remain podman's."""
    for image in (*IMAGES.values(), OWN_BASE):
        Engine(os.environ).call("image", "rm", "--force", image, check=False)
    shutil.rmtree(WORK, ignore_errors=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    print(f"== {name}", flush=True)
    started = time.monotonic()
    yield
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def _inputs(engine: Engine) -> str:
    """A digest of all that an image is made from."""
    digest = hashlib.sha256(engine.call("image", "inspect", "--format={{.Id}}", BASE).stdout.encode())
    files = [ROOT / name for name in (*_LOCKED, "Dockerfile", ".dockerignore", "README.md", "LICENSE")]
    files += [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted(path for path in files if ".egg-info" not in str(path)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    digest.update(_revision().encode())
    return digest.hexdigest()


def _revision() -> str:
    git = ["git", "rev-parse", "HEAD"]
    return subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _make_base() -> None:
    """Debian bookworm with its Python, small, as an image."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        root, archive = Path(folder) / "root", Path(folder) / "root.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        _logged(
            ["debootstrap", "--variant=minbase", packages, "bookworm", str(root), *([_MIRROR] if _MIRROR else [])],
            advice="MVQKD_DEBIAN_MIRROR names another mirror",
        )
        for leftovers in ("var/cache/apt", "var/lib/apt/lists"):
            for path in (root / leftovers).rglob("*"):
                if path.is_file():
                    path.unlink()
        subprocess.run(["tar", "--create", f"--file={archive}", f"--directory={root}", "."], check=True)
        Engine(os.environ).call("import", str(archive), OWN_BASE)


def _wheels(engine: Engine) -> Path:
    """A folder with a wheel of every package, for the base's Python; filled anew when what is needed changes."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    wanted = engine.run(BASE, "-c", asked, entrypoint="python3").stdout.strip()
    ours = "{}.{}".format(*sys.version_info[:2])
    if wanted != ours:
        raise EngineError(f"{BASE} has Python {wanted}, this is {ours}: run it with python{wanted}")
    key = hashlib.sha256(b"\0".join([wanted.encode(), *((ROOT / name).read_bytes() for name in _LOCKED)])).hexdigest()
    folder = WORK / f"wheels-{key[:16]}"
    if folder.is_dir():
        return folder
    with step("wheels"), tempfile.TemporaryDirectory(dir=WORK) as name:
        # A package of nothing stands in for the code, as in the Dockerfile; pip builds it in place.
        stand_in, filled = Path(name) / "source", Path(name) / "wheels"
        (stand_in / "src" / "mvqkd").mkdir(parents=True)
        shutil.copy(ROOT / "pyproject.toml", stand_in)
        for empty in ("README.md", "LICENSE"):
            (stand_in / empty).touch()
        rows = (ROOT / "constraints-torch.txt").read_text().splitlines()
        torch = next(row for row in rows if row.startswith("torch=="))
        pip_wheel = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", f"--wheel-dir={filled}"]
        _logged(
            [*pip_wheel, f"--constraint={ROOT / 'constraints.txt'}", torch, f"{stand_in}[{_EXTRAS}]", "setuptools>=77"],
            advice="pip's settings, such as PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS, say where it looks",
        )
        if any(filled.glob("nvidia_*.whl")):
            raise EngineError("pip found torch with CUDA; docs/containers.md says how to let it find the CPU build")
        for own in filled.glob("mvqkd-*.whl"):
            own.unlink()
        for old in WORK.glob("wheels-*"):
            shutil.rmtree(old)
        filled.rename(folder)
    return folder


def _logged(command: list[str], *, advice: str) -> None:
    log = WORK / "last.log"
    with log.open("wb") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise EngineError(f"{command[0]} failed, see {log}; {advice}\n{last}")
