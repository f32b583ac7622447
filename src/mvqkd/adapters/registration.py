"""Register a bundle in the model registry.

A version is one bundle, byte for byte: registering the same bundle twice finds the first version. It holds the bundle,
the code to run it, an example of input, and what is needed to make it again. Which version is champion is not decided
here: see registry_change.py.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvqkd.adapters.lineage_record import Delivery, write_record
from mvqkd.adapters.mlflow_store import import_mlflow, permission_not_needed, registry_errors
from mvqkd.adapters.registry import TAG_FILES, TAG_LINEAGE, versions_of
from mvqkd.adapters.registry_change import CHALLENGER
from mvqkd.adapters.registry_files import CODE_FILE, LINEAGE_DIRECTORY, files_digest
from mvqkd.adapters.registry_log import SUFFIX
from mvqkd.adapters.registry_page import TAG_REVIEW, description, reviewed, version_tags
from mvqkd.adapters.run_records import TAG_BUNDLE
from mvqkd.adapters.tracking import LoggedRun
from mvqkd.artifacts import Artifact

_MODEL_TYPE = "speech-recognition"
_EXAMPLE_SAMPLES = 4000  # a quarter of a second


def register(client: Any, model_name: str, delivery: Delivery, run: LoggedRun) -> int:
    """Register a delivery's bundle; of a bundle that is registered, bring tags and description up to date.

    Returns:
        the version's number.
    Raises:
        RegistryError: the registry refused or failed.
    """
    with registry_errors(f"registering {model_name}"):
        _ensure_model(client, model_name)
        tags = {TAG_BUNDLE: delivery.bundle.id, **version_tags(delivery)}
        found = versions_of(client, model_name, delivery.bundle.id)
        if not found:
            make_version(client, model_name, delivery.bundle, run, tags=tags, delivery=delivery)
            found = versions_of(client, model_name, delivery.bundle.id)
        version, *doubles = found
        _delete(client, model_name, doubles)
        there = client.get_model_version(model_name, str(version)).tags
        for name, value in tags.items():
            if there.get(name) != value:
                client.set_model_version_tag(model_name, str(version), name, value)
        text = reviewed(description(delivery, model_name, version), there.get(TAG_REVIEW))
        client.update_model_version(model_name, str(version), description=text)
        client.set_registered_model_alias(model_name, CHALLENGER, str(version))
        return version


def make_version(
    client: Any,
    model_name: str,
    bundle: Artifact,
    run: LoggedRun,
    *,
    tags: Mapping[str, str],
    delivery: Delivery | None = None,
) -> int:
    """Upload a bundle with all that belongs to a version, and make a version of it; returns its number.

    Args:
        delivery: what is needed to make the bundle again goes into the version.
    """
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(
        run.experiment_id,
        name=re.sub(r"[/:.%\"']", "-", model_name),
        source_run_id=run.run_id,
        tags=dict(tags),
        model_type=_MODEL_TYPE,
    )
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "model"
        save_version(bundle, directory, model, run.run_id)
        digests = {}
        if delivery is not None:
            write_record(delivery, directory / LINEAGE_DIRECTORY)
            digests[TAG_LINEAGE] = files_digest(directory / LINEAGE_DIRECTORY)
        digests[TAG_FILES] = files_digest(directory)
        client.log_model_artifacts(model.model_id, str(directory))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    made = client.create_model_version(
        model_name,
        source=f"models:/{model.model_id}",
        run_id=run.run_id,
        model_id=model.model_id,
        tags={**tags, **digests},
    )
    return int(made.version)


def save_version(bundle: Artifact, directory: Path, model: Any = None, run_id: str | None = None) -> None:
    """Write what MLflow calls a model: the bundle, code to run it, signature and an example of input.

    Args:
        model: MLflow's entry for it, whose ids go into its description.
    """
    mlflow = import_mlflow()
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    ids: dict[str, Any] = {}
    if model is not None:
        ids = {"artifact_path": model.artifact_location, "model_uuid": model.model_id, "model_id": model.model_id}
    described = Model(run_id=run_id, **ids)
    with tempfile.TemporaryDirectory() as scratch:
        # MLflow refuses links, which DVC may leave in place of an artifact's files.
        files = shutil.copytree(bundle.path, Path(scratch) / "bundle")
        mlflow.pyfunc.save_model(
            path=str(directory),
            python_model=str(Path(__file__).with_name(CODE_FILE)),
            artifacts={"bundle": str(files)},
            pip_requirements=_requirements(),
            # Paths and samples may be mixed, which MLflow's types cannot say.
            signature=ModelSignature(inputs=Schema([ColSpec(AnyType())]), outputs=Schema([ColSpec("string")])),
            input_example=[[0.0] * _EXAMPLE_SAMPLES],
            mlflow_model=described,
        )
    # Where the files lay on this machine concerns nobody who downloads them.
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = CODE_FILE
    flavor["artifacts"]["bundle"]["uri"] = flavor["artifacts"]["bundle"]["path"]
    described.save(str(directory / "MLmodel"))


def _delete(client: Any, model_name: str, doubles: list[int]) -> None:
    """Delete what a lost answer or another process at the same time has made twice; everybody keeps the first."""
    from mlflow.exceptions import MlflowException

    for version in doubles:
        try:
            with permission_not_needed():
                client.delete_model_version(model_name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _ensure_model(client: Any, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            client.create_registered_model(
                model_name,
                description="Speech students distilled with codebook indexes (MVQ-KD), as ONNX bundles. Aliases: "
                "`champion` serves, `challenger` is the newest, `previous` is what a rollback restores. "
                f"`mvqkd history --model {model_name}` shows who moved them, when and why; the entries lie in "
                f"`{model_name}{SUFFIX}`.",
            )
        except MlflowException as raced:
            if raced.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mvqkd", "mlflow", "onnxruntime", "numpy")]
