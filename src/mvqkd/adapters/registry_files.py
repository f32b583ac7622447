"""What the files of a registered version may be, checked before anything of them is opened as code or as a model.

A version is a bundle with its artifact.json, MLflow's description of it and the file of ours that MLflow runs. Anything
else has come from somebody else: a pickle, another loader, a file that nobody listed, a byte that changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mvqkd.adapters.mlflow_store import redacted
from mvqkd.artifacts import ARTIFACT_FILE, Artifact, content_hash, file_sha256, load_artifact
from mvqkd.errors import RegistryError
from mvqkd.promotion.files import REPORTS_DIRECTORY

MODEL_FILE = "MLmodel"
CODE_FILE = "pyfunc_model.py"
LINEAGE_DIRECTORY = "lineage"

_LOADER = "mlflow.pyfunc.loaders.code_model"
# The record of how it was made, and wer-reports on further test sets; their digest is a tag of the version.
_LINEAGE_NAME = re.compile(rf"{LINEAGE_DIRECTORY}/([^/]+|{REPORTS_DIRECTORY}/[0-9a-f]{{12}}/[^/]+\.jsonl?)")
# Formats that run code when they are opened, and Python itself.
_CODE_SUFFIXES = {
    *(".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".bin", ".npz", ".h5", ".keras"),
    *(".py", ".pyc", ".pyo", ".so", ".dll", ".dylib", ".sh", ".egg", ".whl", ".zip"),
}
# Pickles of protocol 2 to 5 begin so; older ones are text, and no reader here takes text for one.
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
# Written by MLflow: on saving, and beside what it downloads.
_MLFLOW_FILES = {
    *(MODEL_FILE, "conda.yaml", "python_env.yaml", "requirements.txt", "registered_model_meta"),
    *("input_example.json", "serving_input_example.json"),
}


def files_digest(directory: Path) -> str:
    """sha256 over all files of a version, names and contents, but for what MLflow adds to a download."""
    names = sorted(_files(directory) - {"registered_model_meta"})
    return content_hash({name: file_sha256(directory / name) for name in names})


def verified_bundle(directory: Path, label: str, *, bundle_id: str | None, digest: str | None) -> Path:
    """Check everything below a version's directory; returns the bundle's.

    Args:
        directory: of the version, or a bundle's own.
        label: names the version in messages.
        bundle_id, digest: as the registry states them; None where it does not.
    Raises:
        RegistryError: there is no bundle, another, or a file that does not belong there.
        ArtifactError: the bundle's own files are not what its artifact.json says.
    """
    names = _files(directory) if directory.is_dir() else set[str]()
    home = next((name for name in _homes(names)), None)
    if home is None:
        raise RegistryError(
            label,
            expected=f"its bundle below {redacted(str(directory))}",
            got="no bundle" if directory.is_dir() else "no such directory",
            next_step="restore the artifacts directory of the store, or delete that version in `mvqkd ui` and run it"
            " again",
        )
    _refuse_code(directory, names, label)
    bundle = load_artifact(directory / home, "onnx-bundle")
    if bundle_id not in (None, bundle.id):
        raise _changed(label, f"bundle {str(bundle_id)[:12]} as its tag states", f"bundle {bundle.short_id}", directory)
    _refuse_foreign(directory, names, home, bundle, label)
    if MODEL_FILE in names:
        _require_loader(directory / MODEL_FILE, label)
    if digest is not None and (found := files_digest(directory)) != digest:
        raise _changed(label, f"files {digest[:12]} as its tag states", f"files {found[:12]}", directory)
    return bundle.path


def _files(directory: Path) -> set[str]:
    """Everything below that is no directory; links too, wherever they lead."""
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_symlink() or path.is_file()
    }


def _homes(names: Iterable[str]) -> list[str]:
    """Directories that hold an artifact.json where a bundle's may lie."""
    parents = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == ARTIFACT_FILE]
    return sorted(
        str(parent)
        for parent in parents
        if not parent.parts or (parent.parts[0], len(parent.parts)) == ("artifacts", 2)
    )


def _refuse_code(directory: Path, names: Iterable[str], label: str) -> None:
    for name in sorted(names):
        path = directory / name
        if path.is_symlink():
            raise _foreign(label, name, "a link")
        if path.suffix.lower() in _CODE_SUFFIXES and name != CODE_FILE:
            raise _foreign(label, name, "a file of a kind that can run code when it is opened")
        with path.open("rb") as stream:
            if stream.read(2).startswith(_PICKLE_STARTS):
                raise _foreign(label, name, "a pickle")


def _refuse_foreign(directory: Path, names: set[str], home: str, bundle: Artifact, label: str) -> None:
    prefix = "" if home == "." else f"{home}/"
    listed = {f"{prefix}{name}" for name in (ARTIFACT_FILE, *bundle.files)}
    lineage = {name for name in names if _LINEAGE_NAME.fullmatch(name)}
    for name in sorted(names - listed - _MLFLOW_FILES - {CODE_FILE} - lineage):
        raise _foreign(label, name, "a file that belongs neither to the bundle nor to MLflow")
    outside = [name for name in bundle.files if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute()]
    if outside:
        raise _foreign(label, outside[0], f"a name in {ARTIFACT_FILE} that leads out of the bundle")


def _require_loader(file: Path, label: str) -> None:
    """Refuse a description by which MLflow would run anything but our file."""
    import yaml

    try:
        flavors: Any = yaml.safe_load(file.read_text(encoding="utf-8"))["flavors"]
        flavor: Any = flavors["python_function"]
        loader, code = flavor["loader_module"], PurePosixPath(flavor["model_code_path"]).name
        others = [name for name in flavors if name != "python_function"]
        others += [name for name in ("python_model", "code", "config") if flavor.get(name)]
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise _foreign(label, MODEL_FILE, f"no description that we write ({type(error).__name__})") from error
    if (loader, code) != (_LOADER, CODE_FILE) or others:
        got = f"loader {loader} with {', '.join([code, *others])}"
        raise _foreign(label, MODEL_FILE, f"a description by which MLflow would run something else: {got}")


def _foreign(label: str, name: str, what: str) -> RegistryError:
    return RegistryError(
        f"{label}, file {name!r}",
        expected="a bundle, MLflow's description of it and nothing else",
        got=what,
        next_step="do not use it; find out who changed the files, and register the bundle again",
    )


def _changed(label: str, expected: str, got: str, directory: Path) -> RegistryError:
    return RegistryError(
        label,
        expected=expected,
        got=f"{got} in {redacted(str(directory))}",
        next_step="do not use it; find out who changed the files, and register the bundle again",
    )
