"""``mvqkd doctor``: what of the environment is there, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from mvqkd.cli.extras import BASE, PIPELINE, RUNTIME, installed_version, requirements
from mvqkd.errors import MvqkdError

_MINIMUM_FREE_GB = 2.0
_SUPPORTED_PYTHON = ((3, 11), (3, 13))
_PROGRAMS = {
    "git": "apt-get install git; without it artifacts record no git SHA",
    "make": "apt-get install make; without it call the Makefile's commands by hand",
}
# The demo runs every stage and transcribes with what comes out; the other extras are a matter of choice.
_DEMO_EXTRAS = (BASE, RUNTIME, PIPELINE)
_CORPUS_PROGRAMS = {"apt-get": "apt", "dpkg-deb": "dpkg"}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ``ok`` None means: absent, and fine for the demo. ``remedy`` says how to get what is missing.
    """

    subject: str
    ok: bool | None
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Doctor takes no arguments."""
    parser.epilog = "Exits with 1 when something is missing that `mvqkd demo` needs."


def run(_arguments: argparse.Namespace) -> int:
    """Print one line a check; 1 when the demo cannot run as things are."""
    failed = 0
    for title, checks in (
        ("machine", _machine()),
        ("packages", _packages()),
        ("torch", _torch()),
        ("data and weights", _data()),
        ("this folder", _folder(Path.cwd())),
    ):
        print(title)
        for check in checks:
            print(_line(check))
            failed += check.ok is False
    print(f"\n{failed} missing for the demo" if failed else "\nall that the demo needs is here: mvqkd demo")
    return 1 if failed else 0


def _line(check: Check) -> str:
    mark = {True: "ok     ", False: "MISSING", None: "absent "}[check.ok]
    remedy = f"\n                                    -> {check.remedy}" if check.remedy and check.ok is not True else ""
    return f"  {mark} {check.subject:<24} {check.found}{remedy}"


def _machine() -> Iterator[Check]:
    low, high = _SUPPORTED_PYTHON
    supported = low <= tuple(map(int, platform.python_version_tuple()[:2])) < high
    yield Check("Python", supported, platform.python_version(), "use Python 3.11 or 3.12")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cores", True, f"{cores} for this process")
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Check("disk", free_gb >= _MINIMUM_FREE_GB, f"{free_gb:.1f} GB free here", f"free {_MINIMUM_FREE_GB:.0f} GB")
    for program, remedy in _PROGRAMS.items():
        path = shutil.which(program)
        yield Check(program, None if path is None else True, path or "no such program", remedy)


def _packages() -> Iterator[Check]:
    tested = _tested_versions(Path.cwd() / "constraints.txt")
    for extra, needed in requirements().items():
        name = f"extra {extra}" if extra else "required"
        remedy = f"pip install -c constraints.txt 'mvqkd[{extra}]'" if extra else "pip install -c constraints.txt mvqkd"
        versions = {requirement: installed_version(requirement.name) for requirement in needed}
        absent = [requirement.name for requirement, version in versions.items() if version is None]
        ok = None if extra not in _DEMO_EXTRAS else False
        if absent:
            yield Check(name, ok, f"without {', '.join(absent)}", "make install" if ok is False else remedy)
        else:
            yield Check(name, True, f"{len(needed)} packages")
        for requirement, version in versions.items():
            if version is None:
                continue
            pinned = tested.get(canonicalize_name(requirement.name), version)
            if not requirement.specifier.contains(version, prereleases=True):
                yield Check(requirement.name, ok, f"{version}, needed {requirement.specifier}", remedy)
            elif pinned != version and ok is False:
                yield Check(requirement.name, None, f"{version}, tested with {pinned}", remedy)


def _tested_versions(constraints: Path) -> dict[str, str]:
    if not constraints.is_file():
        return {}
    rows = [line.partition("==") for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {canonicalize_name(name.strip()): version.strip() for name, _, version in rows if name[0] != "#"}


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch", False, f"cannot be imported: {error}", "make install; transcribe does without")
        return
    yield Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        yield Check("CUDA", True, f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    else:
        yield Check("CUDA", None, "no device; stages run on the CPU")
    try:
        from mvqkd.torchaudio_compat import import_torchaudio

        torchaudio = import_torchaudio()
        whole = bool(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
        found = (
            f"{torchaudio.__version__}, {'with' if whole else 'without'} its compiled extension, which is not needed"
        )
        yield Check("torchaudio", True, found)
    except (ImportError, OSError, AttributeError) as error:
        yield Check("torchaudio", False, f"cannot be imported: {error}", "make install")


def _data() -> Iterator[Check]:
    from mvqkd.data.asterisk import VERSION, cache_folder

    folder = cache_folder() / f"asterisk-core-sounds-en-{VERSION}"
    cached = folder.is_dir()
    yield Check("corpus asterisk", True if cached else None, f"{'in' if cached else 'not yet in'} {folder}")
    for program, package in _CORPUS_PROGRAMS.items():
        path = shutil.which(program)
        ok = True if path else (None if cached else False)
        remedy = f"install {package} (Debian, Ubuntu), or use your own recordings: prepare-data --source manifest"
        yield Check(program, ok, path or "no such program; it fetches the corpus", remedy)
    from mvqkd.teacher.ct2_reader import find_embedded_model

    try:
        yield Check("teacher whisper-tiny.en", True, f"weights with the pinned sha256 in {find_embedded_model()}")
    except MvqkdError as error:
        yield Check("teacher whisper-tiny.en", False, error.got, error.next_step)


def _folder(folder: Path) -> Iterator[Check]:
    from mvqkd.config import load_section
    from mvqkd.stages import STAGES

    for name in ("dvc.yaml", ".dvc"):
        there = (folder / name).exists()
        yield Check(name, there, "there" if there else f"not in {folder}", "change into the checkout of mvqkd")
    params = folder / "params.yaml"
    try:
        for stage in STAGES.values():
            load_section(stage.config_model, params)
        yield Check("params.yaml", True, f"{len(STAGES)} sections are valid")
    except MvqkdError as error:
        yield Check("params.yaml", False, f"expected {error.expected}, got {error.got}", error.next_step)
    made = [stage.name for stage in STAGES.values() if (folder / "artifacts" / stage.output_directory).is_dir()]
    yield Check(
        "artifacts", True if made else None, f"of {', '.join(made)}" if made else "none yet: mvqkd demo makes them"
    )
