"""Run one stage from the command line: its inputs, its output and every field of its section as a flag."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from mvqkd.cli.params import model_name, params_file
from mvqkd.config import Section, field_names, literal_choices, load_section
from mvqkd.stages import Stage
from mvqkd.train.preemption import STOPPED_EXIT_CODE, TrainingStopped

if TYPE_CHECKING:
    from mvqkd.artifacts import Artifact

_TRAIN = "train-student"
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
            "--other-report",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="wer-report on a further test set, of this student or of the champion's; repeatable",
        )
        parser.add_argument(
            "--strict", action="store_true", help=f"exit with {EXIT_REJECTED} when the challenger is rejected"
        )
    _add_fields(parser, f"parameters, section {stage.name} of the params file", stage.config_model)
    if stage.name == _TRAIN:
        from mvqkd.adapters.launch import LaunchConfig

        _add_fields(parser, "where training runs", LaunchConfig)
    parser.set_defaults(run=lambda arguments: run(arguments, stage))


def run(arguments: argparse.Namespace, stage: Stage) -> int:
    """Carry out the stage and print its one-line result."""
    config = load_section(stage.config_model, params_file(arguments.params), _overrides(arguments, stage.config_model))
    root: Path = arguments.artifacts_dir
    inputs: dict[str, Path] = {}
    for item in stage.inputs:
        path = getattr(arguments, item.name) or root / item.directory
        if item.required or getattr(arguments, item.name) or path.is_dir():
            inputs[item.name] = path
    extra: dict[str, Any] = {name: value for name in stage.extra if (value := getattr(arguments, name)) is not None}
    # Ranks of one training run (torchrun): the first speaks for all of them.
    silent = stage.name == _TRAIN and os.environ.get("RANK", "0") != "0"
    if silent:
        logging.getLogger("mvqkd").setLevel(logging.WARNING)
    out: Path = arguments.out or root / stage.output_directory
    if stage.name == "encode-ci":
        from mvqkd.codebook.encode import part_path

        out = part_path(out, extra.get("rank", 0), extra.get("world_size", 1))
    try:
        if stage.name == _TRAIN:
            artifact = _train(arguments, config, inputs, out, silent)
        elif stage.name == "gate":
            with _champion(arguments.champion, arguments.params) as (champion, reports):
                others = [*arguments.other_report, *reports]
                artifact = stage.run(config, out=out, inputs=inputs, champion=champion, other_reports=others)
        else:
            artifact = stage.run(config, out=out, inputs=inputs, **extra)
    except TrainingStopped as stopped:
        if arguments.debug:
            raise
        if not silent:
            print(f"mvqkd {stage.name}: {stopped}", file=sys.stderr)
        return STOPPED_EXIT_CODE
    if silent:
        return 0
    print(f"{stage.name}: {artifact.kind} {artifact.short_id} in {artifact.path} ({artifact.wall_s:.1f} s)", end="")
    print("".join(f"; {name} {_shown(value)}" for name, value in headline(artifact.figures).items()))
    rejected = stage.name == "gate" and artifact.figures.get("decision") != "promote"
    return EXIT_REJECTED if rejected and arguments.strict else 0


def headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The scalar figures, which fit on a line."""
    return {name: value for name, value in figures.items() if isinstance(value, int | float | str)}


def _train(arguments: argparse.Namespace, config: Any, inputs: Mapping[str, Path], out: Path, silent: bool) -> Artifact:
    """Train with the launcher that the flags choose. Metrics go live from where training runs, of ranks the first."""
    from mvqkd.adapters.launch import LaunchConfig, launch_training

    launch = load_section(LaunchConfig, None, _overrides(arguments, LaunchConfig))
    on_row = None
    if launch.launcher == "inprocess" and not silent:
        from mvqkd.adapters.live_metrics import live_metrics

        on_row = live_metrics(_TRAIN)
    paths: dict[str, Any] = {**inputs}
    return launch_training(launch, config, out=out, on_row=on_row, **paths)


def _champion(choice: str, params: Path | None) -> AbstractContextManager[tuple[Path | None, list[Path]]]:
    """The bundle to beat, and what the registry has of its reports on further test sets."""
    if choice != "registry":
        return nullcontext((None if choice == "none" else Path(choice), []))
    from mvqkd.adapters.registry import champion_to_beat

    return champion_to_beat(model_name(params))


def _add_fields(parser: argparse.ArgumentParser, title: str, model: type[Section]) -> None:
    """One flag a field of the section."""
    fields = parser.add_argument_group(title)
    for name in field_names(model):
        info = _field(model, name)
        default = info.get_default(call_default_factory=True)
        choices = literal_choices(info.annotation)
        shown = "|".join(str(choice) for choice in choices) if choices else "VALUE"
        text = f"{info.description}{'' if default is None else f' ({default})'}".replace("%", "%%")
        fields.add_argument(_section_flag(model, name), dest=f"{model.section}:{name}", metavar=shown, help=text)


def _overrides(arguments: argparse.Namespace, model: type[Section]) -> dict[str, Any]:
    """The fields that were given as flags."""
    import yaml

    overrides: dict[str, Any] = {}
    for name in field_names(model):
        text = getattr(arguments, f"{model.section}:{name}")
        if text is None:
            continue
        annotation = _field(model, name).annotation
        if "list[" in str(annotation):
            overrides[name] = yaml.safe_load(text if text.startswith("[") else f"[{text}]")
        elif _is_text(annotation):
            overrides[name] = text
        else:
            overrides[name] = yaml.safe_load(text)
    return overrides


def _is_text(annotation: Any) -> bool:
    """Whether a field takes any text, or none: ``123`` is no number there."""
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    alternatives = [kind for kind in get_args(annotation) if kind is not type(None)]
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return all(_is_text(kind) for kind in alternatives)
    return annotation is str


def _field(model: type[Section], dotted: str) -> Any:
    first, _, rest = dotted.partition(".")
    info = model.model_fields[first]
    return _field(info.annotation, rest) if rest and isinstance(info.annotation, type) else info


def _section_flag(model: type[Section], name: str) -> str:
    """``--num-epochs`` of a stage's section, ``--launch-num-nodes`` of the section launch."""
    own = model.section != "launch" or name == "launcher"
    return _flag(name if own else f"{model.section}-{name}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
