"""Make a registered version again: its code, its parameters, its indexes from a remote, compared with what it was.

A version carries all of it (lineage_record.py). What is compared are content ids, which are equal if and only if all
bytes of an artifact and of what it was made from are, and the word error rate of the exported bundle.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.adapters.dvc_identity import pull
from mvqkd.adapters.lineage_record import LINEAGE_FILE, PARAMS_FILE
from mvqkd.adapters.registry import find_version, lineage_of
from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.errors import ArtifactError, ArtifactNotFoundError, MissingDependencyError, RegistryError
from mvqkd.promotion.reports import read_report
from mvqkd.stages import STAGES

_LOG = logging.getLogger("mvqkd.reproduce")

# What comes from a remote where it is there; all that follows is what is to be made again.
PULLED = ("cut-manifest", "teacher-embeddings", "quantizer", "codebook-indexes")
REPOSITORY_PLACEHOLDER = "REPOSITORY"

_SHA = re.compile(r"[0-9a-f]{7,64}")
_DVC = re.compile(r"[0-9a-f]{32}\.dir")


@dataclass(frozen=True)
class Made:
    """A stage of the lineage: what it made, by which code; ``dvc`` is DVC's id of it."""

    stage: str
    kind: str
    id: str
    dvc: str | None
    git_sha: str | None
    versions: Mapping[str, str]

    @property
    def directory(self) -> str:
        return STAGES[self.stage].output_directory


@dataclass(frozen=True)
class Recipe:
    """How a version was made. ``params``: text of a params.yaml with every section; ``wer``: of the bundle."""

    name: str
    version: int
    bundle_id: str
    wer: float | None
    params: str
    made: tuple[Made, ...]

    @property
    def git_sha(self) -> str:
        """The code that exported the bundle."""
        return self.made[-1].git_sha or ""

    @property
    def other_code(self) -> list[str]:
        """Stages that another commit has run."""
        return [made.stage for made in self.made if made.git_sha != self.git_sha]


@dataclass(frozen=True)
class Compared:
    """An artifact that was made or fetched again, beside the one of the version."""

    made: Made
    found: str
    how: str

    @property
    def is_same(self) -> bool:
        return self.found == self.made.id


@dataclass(frozen=True)
class Reproduced:
    """Every stage compared, and the bundle's word error rates: then and now."""

    stages: tuple[Compared, ...]
    wer_then: float | None
    wer_now: float | None

    @property
    def is_same(self) -> bool:
        """Whether the indexes have the same bytes and the bundle the same word error rate."""
        indexes = [row.is_same for row in self.stages if row.made.kind == "codebook-indexes"]
        return all(indexes) and self.wer_now == self.wer_then


def read_recipe(uri: str) -> Recipe:
    """Read how a registered version was made.

    Raises:
        RegistryError: no such version, or what it says of itself was changed or cannot be used.
    """
    client, version = find_version(uri)
    with tempfile.TemporaryDirectory() as scratch:
        directory = lineage_of(client, version, Path(scratch))
        params = (directory / PARAMS_FILE).read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads((directory / LINEAGE_FILE).read_text(encoding="utf-8"))
    fields = ("stage", "kind", "id", "dvc", "git_sha", "versions")
    # In the order of the pipeline, not of the clock: stages that need not wait for each other may have run at once.
    order = list(STAGES)
    known = [row for row in record["stages"] if row["stage"] in order]
    rows = sorted(known, key=lambda row: order.index(row["stage"]))
    made = tuple(Made(**{name: row[name] for name in fields}) for row in rows)
    label = f"{version.name} version {version.version}"
    if not made or not _SHA.fullmatch(made[-1].git_sha or ""):
        raise RegistryError(
            f"{label}, what it was made from",
            expected="the commit of the code that made it",
            got="none: the code was in no checkout, and MVQKD_GIT_SHA was not set",
            next_step="its parameters are in its files, below lineage/",
        )
    return Recipe(str(version.name), int(version.version), record["bundle_id"], record["wer"], params, made)


def script(recipe: Recipe, *, repository: str | None, remote: str | None, directory: Path) -> str:
    """The commands that make the version again, for a shell."""
    where = shlex.quote(repository or REPOSITORY_PLACEHOLDER)
    lines = [
        "#!/usr/bin/env bash",
        f"# {recipe.name} version {recipe.version}: bundle {recipe.bundle_id[:12]}, WER {_percent(recipe.wer)}",
        "set -euo pipefail",
        f"git clone {where} {shlex.quote(str(directory))}",
        f"cd {shlex.quote(str(directory))}",
        f"git checkout --quiet {recipe.git_sha}",
        *([f"# another commit has run {', '.join(recipe.other_code)}"] if recipe.other_code else []),
        "make install && PATH=$PWD/.venv/bin:$PATH",
        "cat > params.yaml <<'END_OF_PARAMS'",
        *recipe.params.splitlines(),
        "END_OF_PARAMS",
    ]
    for made in recipe.made:
        if remote and made.kind in PULLED and _has_dvc(made):
            command = f"mvqkd pull {made.dvc} --remote {shlex.quote(remote)} --out artifacts/{made.directory}"
            lines.append(f"{command} || mvqkd {made.stage}")
        else:
            lines.append(f"mvqkd {made.stage}")
    lines += [f"# expected: {made.kind} {made.id[:12]}" for made in recipe.made]
    lines.append(f"mvqkd inspect artifacts/{recipe.made[-1].directory}")
    return "\n".join(lines)


def rebuild(recipe: Recipe, *, repository: str, remote: str | None, directory: Path) -> Reproduced:
    """Make a version again in a fresh clone, with the packages of this environment, and compare.

    What lies in the directory already, and verifies, is not made again.

    Args:
        repository: anything that ``git clone`` takes.
        remote: DVC remote to take data, embeddings, quantizer and indexes from where it has them; None: make all.
        directory: of the clone.
    Raises:
        MissingDependencyError: git is not installed.
        ArtifactError: a stage failed, or the remote is damaged.
    """
    _clone(repository, recipe.git_sha, directory)
    (directory / "params.yaml").write_text(recipe.params, encoding="utf-8")
    for line in other_versions(recipe):
        _LOG.warning("%s", line)
    compared = []
    for made in recipe.made:
        out = directory / "artifacts" / made.directory
        how = _make(made, remote, directory, out)
        found = load_artifact(out, made.kind)
        _LOG.info("%s: %s, %s", made.stage, how, "the same bytes" if found.id == made.id else "OTHER BYTES")
        compared.append(Compared(made, found.id, how))
    bundle = load_artifact(directory / "artifacts" / recipe.made[-1].directory, "onnx-bundle", verify="size")
    return Reproduced(tuple(compared), recipe.wer, _wer(bundle))


def other_versions(recipe: Recipe) -> list[str]:
    """Libraries that are here in another version than the bundle was made with, a line each."""
    here = {"python": platform.python_version()}
    lines = []
    for library, then in recipe.made[-1].versions.items():
        try:
            now = here.get(library) or importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            now = "not installed"
        if now != then:
            lines.append(f"{library} was {then}, here it is {now}: results may differ")
    return lines


def _make(made: Made, remote: str | None, directory: Path, out: Path) -> str:
    """Bring an artifact about; returns how."""
    if out.is_dir():
        return "there already"
    if remote and made.kind in PULLED and _has_dvc(made):
        try:
            pull(str(made.dvc), remote, out)
        except ArtifactNotFoundError:
            _LOG.info("%s: not on the remote, so it is made", made.stage)
        else:
            return "from the remote"
    # The clone's code comes before the installed one.
    path = os.pathsep.join(filter(None, [str((directory / "src").absolute()), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("MLFLOW_RUN_ID", None)  # this is nobody's run
    command = [sys.executable, "-m", "mvqkd", made.stage, "--params", "params.yaml"]
    result = subprocess.run(command, cwd=directory, env=environment, check=False)
    if result.returncode != 0:
        raise ArtifactError(
            f"stage {made.stage} in {directory}",
            expected="exit code 0",
            got=str(result.returncode),
            next_step="its own message says why; run the same command again to go on from there",
        )
    return "made again"


def _clone(repository: str, sha: str, directory: Path) -> None:
    if not (directory / ".git").is_dir():
        _git("clone", "--quiet", "--", repository, str(directory))
    _git("-C", str(directory), "checkout", "--quiet", "--force", sha)


def _git(*arguments: str) -> None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingDependencyError(
            "git", expected="the program git", got="none", next_step="apt-get install git"
        ) from error
    if result.returncode != 0:
        said = re.sub(r"//[^/@\s]+@", "//", result.stderr.strip() or result.stdout.strip())
        raise RegistryError(
            f"git {arguments[0] if arguments[0] != '-C' else arguments[2]}",
            expected="the commit that made the version",
            got=said.splitlines()[-1] if said else f"exit code {result.returncode}",
            next_step="pass the repository that has it with --repository; one that was never pushed is nowhere else",
        )


def repository_here(directory: Path) -> str | None:
    """The checkout that a directory lies in; None where there is none."""
    command: Sequence[str] = ["git", "-C", str(directory), "rev-parse", "--show-toplevel"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _wer(bundle: Artifact) -> float | None:
    record = read_report(bundle).record
    return None if record is None else record.wer


def _has_dvc(made: Made) -> bool:
    return made.dvc is not None and _DVC.fullmatch(made.dvc) is not None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"
