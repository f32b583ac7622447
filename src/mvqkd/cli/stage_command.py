"""Run one stage from the command line: its inputs, its output and every field of its section as a flag."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvqkd.config import Section, field_names, literal_choices, load_section
from mvqkd.stages import Stage

DEFAULT_PARAMS_FILE = Path("params.yaml")
EXIT_REJECTED = 3


def add_arguments(parser: argparse.ArgumentParser, stage: Stage) -> None:
    """Add inputs, output and one flag a config field; a flag not given leaves params.yaml's value."""
    paths = parser.add_argument_group("artifacts")
    paths.add_argument(
        "--artifacts-dir", type=Path, default=Path("artifacts"), help="where all artifacts lie (artifacts)"
    )
    for item in stage.inputs:
        need = "" if item.required else ", where the stage needs it"
        paths.add_argument(
            item.flag, type=Path, metavar="DIR", help=f"{item.kind} to read{need} (ARTIFACTS/{item.directory})"
        )
    paths.add_argument(
        "--out", type=Path, metavar="DIR", help=f"{stage.output_kind} to write (ARTIFACTS/{stage.output_directory})"
    )
    parser.add_argument(
        "--params", type=Path, metavar="FILE", help="YAML with a section a stage (params.yaml where there is one)"
    )
    for name, text in stage.extra.items():
        parser.add_argument(_flag(name), type=int, metavar="N", help=text)
    if stage.name == "gate":
        parser.add_argument(
            "--champion",
            default="registry",
            metavar="DIR",
            help="bundle to beat: a directory, `registry` (default) or `none`",
        )
        parser.add_argument(
            "--strict", action="store_true", help=f"exit with {EXIT_REJECTED} when the challenger is rejected"
        )
    fields = parser.add_argument_group(f"parameters, section {stage.name} of the params file")
    for name in field_names(stage.config_model):
        info = _field(stage.config_model, name)
        default = "" if info.default is None else f" ({info.default})"
        choices = literal_choices(info.annotation)
        shown = "|".join(str(choice) for choice in choices) if choices else "VALUE"
        text = f"{info.description}{default}".replace("%", "%%")
        fields.add_argument(_flag(name), dest=f"set:{name}", metavar=shown, help=text)
    parser.set_defaults(run=lambda arguments: run(arguments, stage))


def run(arguments: argparse.Namespace, stage: Stage) -> int:
    """Carry out the stage and print its one-line result."""
    config = load_section(stage.config_model, _params_file(arguments.params), _overrides(arguments, stage.config_model))
    root: Path = arguments.artifacts_dir
    inputs: dict[str, Path] = {}
    for item in stage.inputs:
        path = getattr(arguments, item.name) or root / item.directory
        if item.required or getattr(arguments, item.name) or path.is_dir():
            inputs[item.name] = path
    extra: dict[str, Any] = {name: value for name in stage.extra if (value := getattr(arguments, name)) is not None}
    if stage.name == "gate":
        extra["champion"] = _champion(arguments.champion, arguments.params)
    # Ranks of one training run (torchrun): the first speaks for all of them.
    silent = stage.name == "train-student" and os.environ.get("RANK", "0") != "0"
    if silent:
        logging.getLogger("mvqkd").setLevel(logging.WARNING)
    elif stage.name == "train-student":
        from mvqkd.adapters.live_metrics import live_metrics

        extra["on_row"] = live_metrics(stage.name)
    out: Path = arguments.out or root / stage.output_directory
    if stage.name == "encode-ci":
        from mvqkd.codebook.encode import part_path

        out = part_path(out, extra.get("rank", 0), extra.get("world_size", 1))
    artifact = stage.run(config, out=out, inputs=inputs, **extra)
    if silent:
        return 0
    print(f"{stage.name}: {artifact.kind} {artifact.short_id} in {artifact.path} ({artifact.wall_s:.1f} s)", end="")
    print("".join(f"; {name} {_shown(value)}" for name, value in headline(artifact.figures).items()))
    rejected = stage.name == "gate" and artifact.figures.get("decision") != "promote"
    return EXIT_REJECTED if rejected and arguments.strict else 0


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The scalar figures, which fit on a line."""
    return {name: value for name, value in figures.items() if isinstance(value, int | float | str)}


def _champion(choice: str, params: Path | None) -> Path | None:
    if choice == "none":
        return None
    if choice != "registry":
        return Path(choice)
    from mvqkd.adapters.registry import champion_bundle
    from mvqkd.config import PromoteConfig

    return champion_bundle(load_section(PromoteConfig, _params_file(params)).model_name)


def _params_file(given: Path | None) -> Path | None:
    if given is not None:
        return given
    return DEFAULT_PARAMS_FILE if DEFAULT_PARAMS_FILE.is_file() else None


def _overrides(arguments: argparse.Namespace, model: type[Section]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for name in field_names(model):
        text = getattr(arguments, f"set:{name}")
        if text is None:
            continue
        annotation = str(_field(model, name).annotation)
        if "list[" in annotation:
            overrides[name] = yaml.safe_load(text if text.startswith("[") else f"[{text}]")
        elif annotation in ("<class 'str'>", "str | None"):
            overrides[name] = text
        else:
            overrides[name] = yaml.safe_load(text)
    return overrides


def _field(model: type[Section], dotted: str) -> Any:
    first, _, rest = dotted.partition(".")
    info = model.model_fields[first]
    return _field(info.annotation, rest) if rest and isinstance(info.annotation, type) else info


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
