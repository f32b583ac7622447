"""Find registered bundles again: the champion's, or any that a ``models:/`` URI names. See registration.py."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mvqkd.adapters.mlflow_store import (
    connect,
    import_mlflow,
    redacted,
    registry_errors,
    registry_is_missing,
    registry_uri,
    tracking_uri,
)
from mvqkd.artifacts import ARTIFACT_FILE, load_artifact
from mvqkd.errors import ArtifactError, RegistryError

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
TAG_BUNDLE = "mvqkd.bundle_id"

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def champion_version(client: Any, model_name: str) -> Any | None:
    """The version under the alias ``champion`` (an MLflow ModelVersion), or None."""
    with registry_errors(f"looking up the champion of {model_name}"):
        return version_by_alias(client, model_name, CHAMPION)


def champion_bundle(model_name: str) -> Path | None:
    """Directory of the champion's bundle, verified; None when there is no champion yet.

    Neither makes a database nor imports MLflow while the default store does not exist.

    Raises:
        RegistryError: the registry cannot be reached, or the champion's files are gone or not what was registered.
        ArtifactError: the bundle does not verify.
    """
    if registry_is_missing():
        return None
    client = connect()
    version = champion_version(client, model_name)
    return None if version is None else _bundle_of(client, version)


def resolve_bundle(uri_or_dir: str) -> Path:
    """Directory of a bundle named by path or as ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, verified.

    Raises:
        RegistryError: no such model, alias or version, or no registry there.
        ArtifactError: the bundle does not verify.
    """
    if not uri_or_dir.startswith("models:"):
        return load_artifact(Path(uri_or_dir), "onnx-bundle").path
    match = _MODEL_URI.fullmatch(uri_or_dir)
    if match is None:
        raise RegistryError(
            f"bundle {uri_or_dir}",
            expected="models:/NAME@ALIAS or models:/NAME/VERSION",
            got=uri_or_dir,
            next_step="for example models:/mvqkd-student@champion",
        )
    if registry_is_missing():
        raise RegistryError(
            f"bundle {uri_or_dir}",
            expected="a model registry",
            got=f"no file {registry_uri().removeprefix('sqlite:///')}",
            next_step="run `mvqkd promote` here first, go to the directory with mlflow.db, or set MLFLOW_TRACKING_URI",
        )
    client = connect()
    name, alias, number = match["name"], match["alias"], match["version"]
    with registry_errors(f"looking up {uri_or_dir}"):
        version = version_by_alias(client, name, alias) if alias else _version_by_number(client, name, number)
    if version is None:
        raise RegistryError(
            f"bundle {uri_or_dir}",
            expected="a registered version",
            got=_what_there_is(client, name),
            next_step="name one of these, or run `mvqkd promote` to register one",
        )
    return _bundle_of(client, version)


def version_by_alias(client: Any, model_name: str, alias: str) -> Any | None:
    """The version under an alias (an MLflow ModelVersion); None when model or alias does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model_name, alias)
    except MlflowException as error:
        # A missing alias of a known model answers INVALID_PARAMETER_VALUE.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise
        return None


def _version_by_number(client: Any, model_name: str, number: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(model_name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return None


def _what_there_is(client: Any, model_name: str) -> str:
    with registry_errors(f"listing {model_name}"):
        models = {model.name: model for model in client.search_registered_models(max_results=100)}
        if model_name not in models:
            return f"models {', '.join(sorted(models))}" if models else "no registered models"
        versions = sorted(int(row.version) for row in client.search_model_versions(f"name = '{model_name}'"))
    aliases = ", ".join(f"{alias} = {number}" for alias, number in sorted(models[model_name].aliases.items()))
    return f"versions {', '.join(map(str, versions)) or 'none'}; aliases {aliases or 'none'}"


def _bundle_of(client: Any, version: Any) -> Path:
    label = f"{version.name} version {version.version}"
    registered = version.tags.get(TAG_BUNDLE)
    with registry_errors(f"fetching {label}"):
        location = client.get_model_version_download_uri(version.name, str(version.version))
    if "://" not in location.removeprefix("file://") and ":/" not in location.removeprefix("file://"):
        return _verified(Path(location.removeprefix("file://")), label, registered)
    return _downloaded(version, label, registered)


def _downloaded(version: Any, label: str, registered: str | None) -> Path:
    """Fetch a remote version into the user's cache; a verified copy is used again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvqkd" / "models"
    target = cache / registered if registered and re.fullmatch(r"[0-9a-f]{64}", registered) else None
    if target is not None and target.is_dir():
        try:
            return _verified(target, label, registered)
        except ArtifactError:
            shutil.rmtree(target)  # a damaged copy of what can be fetched again
    cache.mkdir(parents=True, exist_ok=True)
    mlflow = import_mlflow()
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        with registry_errors(f"downloading {label}"):
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}",
                dst_path=scratch,
                tracking_uri=tracking_uri(),
                registry_uri=registry_uri(),
            )
        bundle = _verified(Path(scratch), label, registered)
        target = target or cache / load_artifact(bundle, verify="size").id
        # Another process may have put the same bytes there meanwhile.
        with contextlib.suppress(OSError):
            bundle.rename(target)
    return _verified(target, label, registered)


def _verified(directory: Path, label: str, registered: str | None) -> Path:
    for manifest in (directory / ARTIFACT_FILE, *sorted(directory.glob(f"artifacts/*/{ARTIFACT_FILE}"))):
        if manifest.is_file():
            bundle = load_artifact(manifest.parent, "onnx-bundle")
            if registered not in (None, bundle.id):
                raise RegistryError(
                    label,
                    expected=f"bundle {str(registered)[:12]} as its tag states",
                    got=f"bundle {bundle.short_id} in {redacted(str(directory))}",
                    next_step="do not use it; find out who changed the files, and register the bundle again",
                )
            return bundle.path
    raise RegistryError(
        label,
        expected=f"its bundle below {redacted(str(directory))}",
        got="no bundle" if directory.is_dir() else "no such directory",
        next_step="restore the artifacts directory of the store, or delete that version in `mvqkd ui` and run it again",
    )
