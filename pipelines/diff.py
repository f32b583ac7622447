"""What changes between two compiled pipelines, said the way a reviewer asks: parameters, steps, and what of a step.

The YAML that kfp's compiler writes numbers components and repeats them, so that one more step shows up all over the
file. Here a step is known by its name and the loops and branches around it, and everything about it is compared in one
place: task, component, container, Kubernetes. What belongs to no step is compared as text; nothing is left out.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import yaml

from pipelines.package import Package

# Prefix of a dotted path -> what a reviewer calls it. Paths of no prefix here are shown as they are.
_LABELS = (
    ("task.dependentTasks", "runs after"),
    ("task.triggerPolicy.condition", "runs if"),
    ("task.triggerPolicy.strategy", "runs when"),
    ("task.retryPolicy.", "retry "),
    ("task.inputs.parameters.", "input "),
    ("task.inputs.artifacts.", "input "),
    ("task.iteratorPolicy.", "loop "),
    ("task.parameterIterator.", "loop "),
    ("task.artifactIterator.", "loop "),
    ("component.inputDefinitions.parameters.", "takes "),
    ("component.inputDefinitions.artifacts.", "takes "),
    ("component.outputDefinitions.parameters.", "gives "),
    ("component.outputDefinitions.artifacts.", "gives "),
    ("executor.container.image", "image"),
    ("executor.container.resources.resource", "resource "),
    ("executor.container.resources.", "resource "),
    ("executor.container.env.", "environment "),
    ("executor.container.command.", "command "),
    ("executor.container.", "container "),
    ("kubernetes.", "kubernetes "),
)
# What stands under these is small, and shown on one line each.
_ENTRIES = frozenset(
    f"{part}.{kind}"
    for part in ("task.inputs", "component.inputDefinitions", "component.outputDefinitions")
    for kind in ("parameters", "artifacts")
)
# What items of a list are told apart by.
_NAMES = ("name", "key", "secretName")
# Last word of a path within such a line -> how it is said. They come in this order, others after them.
_WORDS = {
    "parameterType": "",
    "schemaTitle": "",
    "schemaVersion": "version",
    "isArtifactList": "list",
    "defaultValue": "default",
    "isOptional": "optional",
    "outputArtifactKey": "output",
    "outputParameterKey": "output",
    "producerTask": "of",
    "componentInputArtifact": "from",
    "componentInputParameter": "from",
    "constant": "constant",
}
# In front of what the compiler passes on into loops and branches.
_CHANNEL = "pipelinechannel--"
# The compiler's, for several steps of one component.
_NUMBER = re.compile(r"-\d+$")
_IMAGE = "executor.container.image"
_MAX_VALUE_CHARS = 100

Facets = dict[str, str]


def readable_diff(old: Package, new: Package, old_name: str, new_name: str) -> list[str]:
    """Lines that say what is different in ``new``; none where nothing is."""
    lines = _parameters(old, new)
    before, after = dict(_steps(old)), dict(_steps(new))
    moved = _moved(before, after)
    gone = [name for name in before if name not in after and name not in moved]
    come = [name for name in after if name not in before and name not in moved.values()]
    lines += [f"- step {name}" for name in gone]
    for name in come:
        lines += [f"+ step {name}", *(f"    {line}" for line in _description(after[name]))]
    lines += [f"> step {name} is now {moved[name]}" for name in moved]
    kept = {moved.get(name, name): name for name in before if name not in gone}
    changed = {name: _changes(before[previous], after[name]) for name, previous in kept.items()}
    common = _common(changed, after)
    lines += _section("~ every step", common)
    for name, changes in changed.items():
        lines += _section(f"~ step {name}", (change for change in changes if change not in common))
    rest = list(
        difflib.unified_diff(_rest(old), _rest(new), f"rest of {old_name}", f"rest of {new_name}", lineterm="", n=1)
    )
    lines += rest
    return [f"--- {old_name}", f"+++ {new_name}", *lines] if lines else []


def _parameters(old: Package, new: Package) -> list[str]:
    before, after = old.parameters, new.parameters
    lines = [f"- parameter {name}: {_definition(before[name])}" for name in before if name not in after]
    lines += [f"+ parameter {name}: {_definition(after[name])}" for name in after if name not in before]
    for name in before:
        if name in after:
            pair = [{key: _text(item) for key, item in side[name].items()} for side in (before, after)]
            lines += _section(f"~ parameter {name}", _changes(*pair))
    return lines


def _definition(value: Mapping[str, Any]) -> str:
    default = f" = {_text(value['defaultValue'])}" if "defaultValue" in value else ""
    return f"{value.get('parameterType')}{default}"


def _section(title: str, changes: Iterable[str]) -> list[str]:
    lines = [f"    {change}" for change in changes]
    return [title, *lines] if lines else []


def _steps(package: Package) -> Iterator[tuple[str, Facets]]:
    yield from _steps_in(package, package.specification["root"], "")


def _steps_in(package: Package, component: Mapping[str, Any], around: str) -> Iterator[tuple[str, Facets]]:
    tasks = component["dag"]["tasks"]
    labels = [str(task.get("taskInfo", {}).get("name", name)) for name, task in tasks.items()]
    for (name, task), label in zip(tasks.items(), labels, strict=True):
        # Labels are for people and need not differ; names do.
        path = around + (label if labels.count(label) == 1 else f"{label} ({name})")
        inner = package.specification.get("components", {}).get(task["componentRef"]["name"], {})
        yield path, _facets(package, task, inner)
        if "dag" in inner:
            yield from _steps_in(package, inner, f"{path}/")


def _facets(package: Package, task: Mapping[str, Any], component: Mapping[str, Any]) -> Facets:
    """Everything about a step: dotted path -> value. Names that the compiler numbers are followed, not compared."""
    label = component.get("executorLabel")
    executor = package.specification.get("deploymentSpec", {}).get("executors", {}).get(label, {})
    kubernetes: dict[str, Any] = {}
    for platform, settings in package.platforms.get("platforms", {}).items():
        found = settings.get("deploymentSpec", {}).get("executors", {}).get(label, {})
        kubernetes |= found if platform == "kubernetes" else {platform: found}
    own_task = {key: value for key, value in task.items() if key not in ("componentRef", "cachingOptions")}
    own_component = {key: value for key, value in component.items() if key not in ("executorLabel", "dag")}
    outputs = component.get("dag", {}).get("outputs")
    parts = {
        "task": own_task,
        "component": own_component | ({"outputs": outputs} if outputs else {}),
        "executor": executor,
        "kubernetes": kubernetes,
    }
    facets: Facets = {}
    for part, value in parts.items():
        if value:
            _flatten(part, value, facets)
    # The label, which the step's own name holds.
    facets.pop("task.taskInfo.name", None)
    if "cachingOptions" in task:
        caching = dict(task["cachingOptions"])
        # An empty object is how the compiler says no.
        facets["caching"] = "on" if caching.pop("enableCache", False) else "off"
        facets |= {f"caching {key}": _text(value) for key, value in caching.items()}
    return facets


def _flatten(path: str, value: Any, facets: Facets) -> None:
    if path in _ENTRIES:
        facets |= {f"{path}.{name}": _listed(item) for name, item in value.items()}
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            _flatten(f"{path}.{key}", item, facets)
    elif isinstance(value, list) and any(isinstance(item, Mapping) or "\n" in str(item) for item in value):
        for number, item in enumerate(value):
            # Environment variables and the like have names: one more in front does not change all others.
            name = next((key for key in _NAMES if isinstance(item, Mapping) and key in item), None)
            rest = {key: value for key, value in item.items() if key != name} if name else item
            entry = f"{path}.{item[name] if name else number}"
            facets[entry if entry not in facets else f"{entry} ({number})"] = _listed(rest)
    else:
        facets[path] = _text(value)


def _listed(item: Any) -> str:
    """An item of a list on one line."""
    if not isinstance(item, Mapping):
        return _text(item)
    inner: Facets = {}
    _flatten("", item, inner)
    # A server writes the keys of an object in any order.
    ranks = {word: rank for rank, word in enumerate(_WORDS)}
    words = []
    for path in sorted(inner, key=lambda path: (ranks.get(path.rpartition(".")[2], len(ranks)), path)):
        word = _WORDS.get(path.rpartition(".")[2], path.removeprefix("."))
        words.append(f"{word} {inner[path].removeprefix(_CHANNEL)}".strip())
    return ", ".join(words)


def _changes(before: Facets, after: Facets) -> list[str]:
    paths = [*before, *(path for path in after if path not in before)]
    differing = [path for path in paths if before.get(path) != after.get(path)]
    lines: list[str] = []
    for path in differing:
        # kfp writes resources twice, for servers of different ages.
        twin = _twin(path)
        if twin is None or twin not in differing:
            lines += _change(_label(path), before.get(path), after.get(path))
    return lines


def _twin(path: str) -> str | None:
    """The newer name of a field of resources, None for all other fields."""
    around, dot, name = path.rpartition(".")
    if not around.startswith("executor.container.resources"):
        return None
    return f"{around}{dot}resource{name[0].upper()}{name[1:]}"


def _moved(before: Mapping[str, Facets], after: Mapping[str, Facets]) -> dict[str, str]:
    """Steps that stand elsewhere now, or got another number: one of the name went, one came."""
    gone, come = ([name for name in side if name not in other] for side, other in ((before, after), (after, before)))
    ends = [[_NUMBER.sub("", name.rpartition("/")[2]) for name in names] for names in (gone, come)]
    return {
        name: come[ends[1].index(end)]
        for name, end in zip(gone, ends[0], strict=True)
        if ends[0].count(end) == ends[1].count(end) == 1
    }


def _change(label: str, before: str | None, after: str | None) -> list[str]:
    if before is not None and after is not None and ("\n" in before or "\n" in after):
        differing = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
        return [f"{label}:", *(f"    {line}" for line in list(differing)[2:])]
    return [f"{label}: {_arrow(before, after)}"]


def _arrow(before: str | None, after: str | None) -> str:
    """Both values, of long ones the part from where they differ."""
    if before is not None and after is not None and max(len(before), len(after)) > _MAX_VALUE_CHARS:
        pairs = zip(before, after, strict=False)
        same = next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
        if same > _MAX_VALUE_CHARS // 3:
            start = same - 10
            before, after = f"... {before[start:]}", f"... {after[start:]}"
    return f"{_short(before)} -> {_short(after)}"


def _label(path: str) -> str:
    for prefix, label in _LABELS:
        if path.startswith(prefix):
            return label + path.removeprefix(prefix).removeprefix(_CHANNEL)
    return path


def _common(changed: Mapping[str, list[str]], after: Mapping[str, Facets]) -> set[str]:
    """The change of image that all steps with a container share, if they do."""
    of_containers = [set(changes) for name, changes in changed.items() if _IMAGE in after[name]]
    shared = set.intersection(*of_containers) if len(of_containers) > 1 else set()
    return {line for line in shared if line.startswith(f"{_label(_IMAGE)}: ")}


def _description(facets: Facets) -> list[str]:
    """A new step, without its code and what its component says about itself."""
    return [
        f"{_label(path)}: {_short(value)}"
        for path, value in facets.items()
        if not path.startswith(("component.", "executor.container.command", "executor.container.args"))
        and _twin(path) not in facets
    ]


def _rest(package: Package) -> list[str]:
    """Lines of what is neither a parameter nor part of a step."""
    specification = deepcopy(package.specification)
    specification.pop("components", None)
    specification["root"]["dag"].pop("tasks", None)
    specification["root"].get("inputDefinitions", {}).pop("parameters", None)
    specification.get("deploymentSpec", {}).pop("executors", None)
    platforms = deepcopy(package.platforms)
    for settings in platforms.get("platforms", {}).values():
        settings.get("deploymentSpec", {}).pop("executors", None)
    return yaml.safe_dump([specification, platforms]).splitlines()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # parameters have numbers of one kind only
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    line = " ".join(value.split())
    return line if len(line) <= _MAX_VALUE_CHARS else f"{line[:_MAX_VALUE_CHARS]} ..."
