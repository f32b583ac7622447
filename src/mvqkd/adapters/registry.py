"""Find registered bundles again: the champion's, or any that a ``models:/`` URI names. See registration.py."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvqkd.adapters.mlflow_store import (
    connect,
    import_mlflow,
    registry_errors,
    registry_is_missing,
    registry_uri,
    tracking_uri,
)
from mvqkd.adapters.registry_change import CHAMPION, PREVIOUS, standing, version_or_none
from mvqkd.adapters.registry_files import LINEAGE_DIRECTORY, files_digest, verified_bundle
from mvqkd.adapters.registry_log import SUFFIX
from mvqkd.adapters.registry_text import quoted, require_model_name
from mvqkd.adapters.run_records import TAG_BUNDLE as TAG_BUNDLE
from mvqkd.artifacts import load_artifact
from mvqkd.errors import ArtifactError, RegistryError
from mvqkd.promotion.files import REPORTS_DIRECTORY

TAG_FILES = "mvqkd.files_sha256"
TAG_LINEAGE = "mvqkd.lineage_sha256"

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
    found = _champion(model_name)
    return None if found is None else bundle_of(*found)


@contextlib.contextmanager
def champion_to_beat(model_name: str) -> Iterator[tuple[Path | None, list[Path]]]:
    """What a challenger is compared with: the champion's bundle, None when there is none yet, and its wer-reports on
    further test sets, as its version carries them. The reports may be read within the block.

    Raises:
        RegistryError: the registry cannot be reached, or the champion's files are gone or not what was registered.
        ArtifactError: the bundle does not verify.
    """
    found = _champion(model_name)
    if found is None:
        yield None, []
        return
    client, version = found
    bundle = bundle_of(client, version)
    with tempfile.TemporaryDirectory() as scratch:
        reports: list[Path] = []
        if TAG_LINEAGE in version.tags:
            directory = lineage_of(client, version, Path(scratch)) / REPORTS_DIRECTORY
            reports = sorted(directory.iterdir()) if directory.is_dir() else []
        yield bundle, reports


def _champion(model_name: str) -> tuple[Any, Any] | None:
    """Client of the registry, and the champion's version; None where there is no registry or no champion."""
    if registry_is_missing():
        return None
    client = connect()
    version = champion_version(client, model_name)
    return None if version is None else (client, version)


def registered_bundle(model_name: str, bundle_id: str) -> Path | None:
    """Directory of the bundle with this content id, verified, whatever alias it has; None when none is registered.

    Raises:
        RegistryError: the registry cannot be reached, or the files are gone or not what was registered.
        ArtifactError: the bundle does not verify.
    """
    if registry_is_missing():
        return None
    client = connect()
    with registry_errors(f"looking up bundle {bundle_id[:12]} of {model_name}"):
        found = versions_of(client, model_name, bundle_id)
        version = client.get_model_version(model_name, str(found[0])) if found else None
    return None if version is None else bundle_of(client, version)


def versions_of(client: Any, model_name: str, bundle_id: str) -> list[int]:
    """Numbers of the versions that hold this bundle, the first first; one, unless two were registering it at once."""
    found = client.search_model_versions(f"name = {quoted(model_name)} and tags.`{TAG_BUNDLE}` = {quoted(bundle_id)}")
    return sorted(int(row.version) for row in found)


def resolve_bundle(uri_or_dir: str) -> Path:
    """Directory of a bundle named by path or as ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, verified.

    Raises:
        RegistryError: no such model, alias or version, or no registry there.
        ArtifactError: the bundle does not verify.
    """
    if not uri_or_dir.startswith("models:"):
        return load_artifact(Path(uri_or_dir), "onnx-bundle").path
    client, version = find_version(uri_or_dir)
    return bundle_of(client, version)


def find_version(uri: str) -> tuple[Any, Any]:
    """The client of the registry, and the version (an MLflow ModelVersion) that a ``models:/`` URI names.

    Raises:
        RegistryError: no such model, alias or version, or no registry there.
    """
    match = _MODEL_URI.fullmatch(uri)
    if match is None:
        raise RegistryError(
            f"bundle {uri}",
            expected="models:/NAME@ALIAS or models:/NAME/VERSION",
            got=uri,
            next_step="for example models:/mvqkd-student@champion",
        )
    name, alias, number = require_model_name(match["name"]), match["alias"], match["version"]
    if registry_is_missing():
        raise RegistryError(
            f"bundle {uri}",
            expected="a model registry",
            got=f"no file {registry_uri().removeprefix('sqlite:///')}",
            next_step="run `mvqkd promote` here first, go to the directory with mlflow.db, or set MLFLOW_TRACKING_URI",
        )
    client = connect()
    with registry_errors(f"looking up {uri}"):
        version = version_by_alias(client, name, alias) if alias else version_or_none(client, name, number)
    if version is None:
        raise RegistryError(
            f"bundle {uri}",
            expected="a registered version",
            got=_what_there_is(client, name),
            next_step="name one of these, or run `mvqkd promote` to register one",
        )
    return client, version


def version_by_alias(client: Any, model_name: str, alias: str) -> Any | None:
    """The version under an alias (an MLflow ModelVersion); None when model or alias does not exist.

    A promotion that is in the audit log counts, also where its author died before it moved the alias.
    """
    now = standing(client, require_model_name(model_name))
    number = {CHAMPION: now.champion, PREVIOUS: now.previous}.get(alias, now.aliases.get(alias))
    return None if number is None else version_or_none(client, model_name, number)


def _what_there_is(client: Any, model_name: str) -> str:
    with registry_errors(f"listing {model_name}"):
        models = {model.name: model for model in client.search_registered_models(max_results=100)}
        if model_name not in models:
            shown = sorted(name for name in models if not name.endswith(SUFFIX))
            return f"models {', '.join(shown)}" if shown else "no registered models"
        versions = sorted(int(row.version) for row in client.search_model_versions(f"name = {quoted(model_name)}"))
    aliases = ", ".join(f"{alias} = {number}" for alias, number in sorted(models[model_name].aliases.items()))
    return f"versions {', '.join(map(str, versions)) or 'none'}; aliases {aliases or 'none'}"


def bundle_of(client: Any, version: Any, *, afresh: bool = False) -> Path:
    """Directory of a version's bundle, fetched where it is not on this machine, and verified.

    Args:
        afresh: do not use a copy that was fetched before: prove that the store gives back what was registered.
    Raises:
        RegistryError: the registry cannot be reached, or the files are gone or not what was registered.
        ArtifactError: the bundle does not verify.
    """
    label = f"{version.name} version {version.version}"
    with registry_errors(f"fetching {label}"):
        location = client.get_model_version_download_uri(version.name, str(version.version))
    if _is_here(location):
        return _verified(Path(location.removeprefix("file://")), version, label)
    return _downloaded(version, label, afresh)


def lineage_of(client: Any, version: Any, scratch: Path) -> Path:
    """Directory with a version's params.yaml and lineage.json, fetched to ``scratch`` if need be, and verified.

    Raises:
        RegistryError: the version has none, or other ones than were registered.
    """
    label = f"{version.name} version {version.version}"
    registered = version.tags.get(TAG_LINEAGE)
    if registered is None:
        raise RegistryError(
            f"{label}, what it was made from",
            expected=f"the tag {TAG_LINEAGE}",
            got="none",
            next_step="register it again with `mvqkd promote` of this version of mvqkd",
        )
    with registry_errors(f"fetching what {label} was made from"):
        location = client.get_model_version_download_uri(version.name, str(version.version))
        directory = Path(location.removeprefix("file://")) / LINEAGE_DIRECTORY
        if not _is_here(location):
            fetched = import_mlflow().artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}/{LINEAGE_DIRECTORY}",
                dst_path=str(scratch),
                tracking_uri=tracking_uri(),
                registry_uri=registry_uri(),
            )
            directory = Path(fetched)
    found = files_digest(directory) if directory.is_dir() else "none"
    if found != registered:
        raise RegistryError(
            f"{label}, what it was made from",
            expected=f"files {registered[:12]} as its tag states",
            got=f"files {found[:12]}",
            next_step="do not use it; find out who changed the files, and register the bundle again",
        )
    return directory


def _is_here(location: str) -> bool:
    path = location.removeprefix("file://")
    return "://" not in path and ":/" not in path


def _downloaded(version: Any, label: str, afresh: bool) -> Path:
    """Fetch a remote version into the user's cache; a verified copy is used again."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvqkd" / "models"
    registered = version.tags.get(TAG_BUNDLE)
    target = cache / registered if registered and re.fullmatch(r"[0-9a-f]{64}", registered) else None
    if target is not None and target.is_dir() and not afresh:
        try:
            return _intact(target, registered)
        except (ArtifactError, RegistryError):
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
        bundle = _verified(Path(scratch), version, label)
        target = target or cache / load_artifact(bundle, verify="size").id
        # Another process may have put the same bytes there meanwhile.
        with contextlib.suppress(OSError):
            bundle.rename(target)
    return _intact(target, registered)


def _verified(directory: Path, version: Any, label: str) -> Path:
    return verified_bundle(directory, label, bundle_id=version.tags.get(TAG_BUNDLE), digest=version.tags.get(TAG_FILES))


def _intact(directory: Path, registered: str | None) -> Path:
    """The cached bundle, every byte of it as registered."""
    return verified_bundle(directory, f"copy {directory}", bundle_id=registered, digest=None)
