"""Register a bundle in the model registry and move its aliases.

A version is one bundle, byte for byte: registering the same bundle twice finds the first version. Aliases:
``challenger`` the newest version, ``champion`` the promoted one, ``previous`` the champion before it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvqkd.adapters.mlflow_store import import_mlflow, registry_errors
from mvqkd.adapters.registry import CHALLENGER, CHAMPION, PREVIOUS, TAG_BUNDLE, champion_version, version_by_alias
from mvqkd.adapters.tracking import LoggedRun
from mvqkd.artifacts import Artifact
from mvqkd.errors import RegistryError

TAG_PREVIOUS_CHAMPION = "mvqkd.previous_champion"
_MODEL_TYPE = "speech-recognition"


@dataclass(frozen=True)
class Registration:
    """A registered version and where the aliases point after it."""

    version: int
    aliases: Mapping[str, int]
    previous_champion: int | None


def register(
    client: Any, model_name: str, bundle: Artifact, run: LoggedRun, *, tags: Mapping[str, str], description: str
) -> int:
    """Register a bundle as a version whose files are the bundle directory and the code to run it.

    Args:
        tags: set on the version, also when it exists already (a later decision replaces an earlier one).
        description: Markdown for people.
    Returns:
        the version's number.
    Raises:
        RegistryError: the registry refused or failed.
    """
    with registry_errors(f"registering {model_name}"):
        _ensure_model(client, model_name)
        found = client.search_model_versions(f"name = '{model_name}' and tags.`{TAG_BUNDLE}` = '{bundle.id}'")
        tags = {TAG_BUNDLE: bundle.id, **tags}
        if found:
            version = min(int(row.version) for row in found)
            for name, value in tags.items():
                client.set_model_version_tag(model_name, str(version), name, value)
            client.update_model_version(model_name, str(version), description=description)
            return version
        model_id = _log_model(client, model_name, bundle, run, tags)
        made = client.create_model_version(
            model_name,
            source=f"models:/{model_id}",
            run_id=run.run_id,
            model_id=model_id,
            tags=dict(tags),
            description=description,
        )
        return int(made.version)


def refuse_overtaken(client: Any, model_name: str, bundle: Artifact, decision: Artifact) -> None:
    """Refuse a promotion that was decided against another champion than today's.

    Raises:
        RegistryError: naming both champions.
    """
    champion = champion_version(client, model_name)
    if champion is None:
        return
    today, judged = champion.tags.get(TAG_BUNDLE), decision.facts.get("champion_id")
    if today not in (bundle.id, judged):
        raise RegistryError(
            f"promotion-decision {decision.path} ({decision.short_id})",
            expected=f"a comparison with champion {model_name} version {champion.version} ({str(today)[:12]})",
            got=f"a comparison with {str(judged)[:12] if judged else 'no champion'}",
            next_step="re-run `mvqkd gate`; to start over without a champion remove its alias in `mvqkd ui` first",
        )


def move_aliases(client: Any, model_name: str, version: int, *, promoted: bool) -> Registration:
    """Point ``challenger`` at a version and, when it was promoted, ``champion``; keep the old one as ``previous``.

    Raises:
        RegistryError: the registry refused or failed.
    """
    with registry_errors(f"moving the aliases of {model_name}"):
        client.set_registered_model_alias(model_name, CHALLENGER, str(version))
        champion = version_by_alias(client, model_name, CHAMPION)
        old = None if champion is None else int(champion.version)
        if promoted and old != version:
            if old is not None:
                # Before the champion moves: a killed call then leaves the old champion in place.
                client.set_registered_model_alias(model_name, PREVIOUS, str(old))
                client.set_model_version_tag(model_name, str(version), TAG_PREVIOUS_CHAMPION, str(old))
            client.set_registered_model_alias(model_name, CHAMPION, str(version))
        model = client.get_registered_model(model_name)
        aliases = {alias: int(number) for alias, number in sorted(model.aliases.items())}
        return Registration(version, aliases=aliases, previous_champion=aliases.get(PREVIOUS))


def _ensure_model(client: Any, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(
            model_name,
            description="Speech students distilled with codebook indexes (MVQ-KD), as ONNX bundles. "
            "Aliases: `champion` serves, `challenger` is the newest, `previous` is the champion before.",
        )


def _log_model(client: Any, model_name: str, bundle: Artifact, run: LoggedRun, tags: Mapping[str, str]) -> str:
    mlflow = import_mlflow()
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    model = client.create_logged_model(
        run.experiment_id,
        name=re.sub(r"[/:.%\"']", "-", model_name),
        source_run_id=run.run_id,
        tags=dict(tags),
        model_type=_MODEL_TYPE,
    )
    described = Model(
        artifact_path=model.artifact_location, run_id=run.run_id, model_uuid=model.model_id, model_id=model.model_id
    )
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            path=str(directory),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"bundle": str(bundle.path.absolute())},
            pip_requirements=_requirements(),
            mlflow_model=described,
        )
        client.log_model_artifacts(model.model_id, str(directory))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mvqkd", "mlflow", "onnxruntime", "numpy")]
