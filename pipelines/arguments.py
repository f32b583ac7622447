"""Arguments of a run: the sections of params.yaml and single parameters, checked here instead of in a pod."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mvqkd.adapters.launch_config import LaunchConfig
from mvqkd.config import SECTIONS, load_section, section_from_json
from mvqkd.errors import ConfigError
from pipelines.package import Package


def arguments_of(package: Package, params_file: Path | None, settings: Mapping[str, str]) -> dict[str, Any]:
    """Every argument of a run of the pipeline, in the order of its parameters.

    Sections travel complete, with their defaults, so that a run says what it ran with, and equal settings are equal
    arguments however params.yaml is written.

    Args:
        package: the pipeline; its parameters are what may be set.
        params_file: YAML with a section a stage; None: defaults.
        settings: parameter -> text, laid over the sections.
    Raises:
        ConfigError: a section or a setting that the pipeline, or the stage, would refuse.
    """
    parameters = package.parameters
    for name in settings:
        if name not in parameters:
            raise _unknown_parameter(name, list(parameters))
    arguments: dict[str, Any] = {}
    for section, model in SECTIONS.items():
        # Every section is looked at, also one whose parameter is set below: the file may be wrong all the same.
        config = load_section(model, params_file)
        if (name := _parameter_of(section)) in parameters:
            arguments[name] = _as_json(config.model_dump(mode="json"))
    for name, text in settings.items():
        arguments[name] = _typed(name, text, str(parameters[name].get("parameterType")))
    missing = [name for name, wanted in parameters.items() if name not in arguments and not _has_default(wanted)]
    if missing:
        raise ConfigError(
            f"pipeline {package.name}",
            expected=f"a value for {', '.join(missing)}",
            got="none, and no default",
            next_step=f"pass --set {missing[0]}=VALUE",
        )
    return {name: arguments[name] for name in parameters if name in arguments}


def _parameter_of(section: str) -> str:
    return f"{section.replace('-', '_')}_config"


def _as_json(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _has_default(wanted: Mapping[str, Any]) -> bool:
    return "defaultValue" in wanted or bool(wanted.get("isOptional"))


def _typed(name: str, text: str, wanted: str) -> Any:
    """A setting's value as the server will insist on it."""
    models = {_parameter_of(model.section): model for model in (*SECTIONS.values(), LaunchConfig)}
    if name in models:
        return _as_json(section_from_json(models[name], text).model_dump(mode="json"))
    if wanted == "STRING":
        return text
    try:
        return _READERS[wanted](text)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"--set {name}",
            expected=_EXPECTED.get(wanted, f"a parameter that can be set, this one is {wanted}"),
            got=repr(text),
            next_step=f"pass --set {name}=VALUE" if wanted in _READERS else f"leave {name} out",
        ) from error


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _of_type(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(f"JSON, but no {kind.__name__}")
        return value

    return read


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    "BOOLEAN": _boolean,
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": _finite,
    "LIST": _of_type(list),
    "STRUCT": _of_type(dict),
}
_EXPECTED = {
    "BOOLEAN": "true or false",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}


def _unknown_parameter(name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return ConfigError(
        f"--set {name}",
        expected=f"a parameter of the pipeline (nearest: {near[0]})" if near else f"one of {', '.join(known)}",
        got=f"unknown parameter {name}",
        next_step=f"pass --set {near[0]}=VALUE" if near else "leave it out",
    )
