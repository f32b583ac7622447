"""What a reviewer reads: steps and what of them changed; and that nothing is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from pipelines.compile import GOLDEN_FILE
from pipelines.diff import readable_diff
from pipelines.package import Package, package_from_file, package_from_server
from tests.kfp_server import stored
from tests.small_pipeline import IMAGE, small_package


def _diff(old: Package, new: Package) -> list[str]:
    lines = readable_diff(old, new, "old", "new")
    assert lines[:2] == ["--- old", "+++ new"]
    return lines[2:]


def _changed(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Package:
    package = deepcopy(small_package())
    change(package.specification, package.platforms)
    return package


def test_no_difference_has_no_lines() -> None:
    assert readable_diff(small_package(), small_package(), "old", "new") == []


@pytest.mark.parametrize("package", [small_package(), package_from_file(GOLDEN_FILE)], ids=["small", "golden"])
def test_a_servers_way_of_writing_is_no_difference(package: Package) -> None:
    back = package_from_server(stored(package.text()), "server")
    assert readable_diff(back, package, "server", "checkout") == []


def test_resources_retries_and_caching() -> None:
    assert _diff(small_package(), small_package(memory="2Gi", retries=5, caching=False)) == [
        "~ step shards/encode",
        "    retry maxRetryCount: 3 -> 5",
        "~ step prepare",
        "    resource MemoryLimit: 1Gi -> 2Gi",
        "    caching: on -> off",
    ]


def test_a_new_step_is_described_and_a_renumbered_one_followed() -> None:
    lines = _diff(small_package(), small_package(extra_step=True))
    assert lines == [
        "+ step announce",
        '    runs after: ["for-loop-2"]',
        "    input config: from gate_config",
        f"    image: {IMAGE}",
        "    caching: on",
        "> step worth-it/promote is now worth-it/promote-2",
    ]
    back = _diff(small_package(extra_step=True), small_package())
    assert back == ["- step announce", "> step worth-it/promote-2 is now worth-it/promote"]


def test_one_image_for_all_is_said_once() -> None:
    def change(specification: dict[str, Any], _: dict[str, Any]) -> None:
        for executor in specification["deploymentSpec"]["executors"].values():
            executor["container"]["image"] = "other:1"

    assert _diff(small_package(), _changed(change)) == ["~ every step", f"    image: {IMAGE} -> other:1"]


def test_an_image_of_one_step_is_that_steps() -> None:
    def change(specification: dict[str, Any], _: dict[str, Any]) -> None:
        specification["deploymentSpec"]["executors"]["exec-encode"]["container"]["image"] = "other:1"

    assert _diff(small_package(), _changed(change)) == ["~ step shards/encode", f"    image: {IMAGE} -> other:1"]


def test_parameters() -> None:
    def change(specification: dict[str, Any], _: dict[str, Any]) -> None:
        parameters = specification["root"]["inputDefinitions"]["parameters"]
        del parameters["dry"]
        parameters["num_shards"]["defaultValue"] = 8.0
        parameters["share"]["parameterType"] = "STRING"
        parameters["webhook"] = {"parameterType": "STRING"}

    assert _diff(small_package(), _changed(change)) == [
        "- parameter dry: BOOLEAN = false",
        "+ parameter webhook: STRING",
        "~ parameter num_shards",
        "    defaultValue: 2 -> 8",
        "~ parameter share",
        "    parameterType: NUMBER_DOUBLE -> STRING",
    ]


def test_wiring_conditions_code_and_kubernetes() -> None:
    def change(specification: dict[str, Any], platforms: dict[str, Any]) -> None:
        encode = specification["components"]["comp-for-loop-2"]["dag"]["tasks"]["encode"]
        encode["inputs"]["artifacts"]["data"] = {"componentInputArtifact": "pipelinechannel--other"}
        specification["root"]["dag"]["tasks"]["condition-3"]["triggerPolicy"]["condition"] += " || true"
        command = specification["deploymentSpec"]["executors"]["exec-encode"]["container"]["command"]
        command[-1] = command[-1].replace("print(rank)", "print(-rank)")
        container = specification["deploymentSpec"]["executors"]["exec-promote"]["container"]
        container["env"] = [{"name": "LEVEL", "value": "1"}]
        outputs = specification["components"]["comp-prepare"]["outputDefinitions"]["artifacts"]
        outputs["data"]["artifactType"]["schemaTitle"] = "system.Model"
        kubernetes = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-prepare"]
        kubernetes["nodeSelector"] = {"labels": {"pool": "gpu"}}
        kubernetes["tolerations"].append({"key": "gpu", "operator": "Exists"})

    lines = _diff(small_package(), _changed(change))
    condition = "inputs.parameter_values['pipelinechannel--prepare-Output'] != ''"
    assert f"    runs if: {condition} -> {condition} || true" in lines
    code = lines.index("~ step shards/encode")
    assert lines[code : code + 7] == [
        "~ step shards/encode",
        "    input data: from prepare-data -> from other",
        "    command 3:",
        "        @@ -8,3 +8,3 @@",
        '             """Encode a part of it."""',
        "        -    print(rank)",
        "        +    print(-rank)",
    ]
    assert "    environment LEVEL: none -> value 1" in lines
    assert "    gives data: system.Dataset, version 0.0.1 -> system.Model, version 0.0.1" in lines
    assert "    kubernetes nodeSelector.labels.pool: none -> gpu" in lines
    assert "    kubernetes tolerations.gpu: none -> operator Exists" in lines
    assert not [line for line in lines if "spot" in line], "the toleration that was there is no change"


def test_what_belongs_to_no_step_is_compared_as_text() -> None:
    def change(specification: dict[str, Any], _: dict[str, Any]) -> None:
        specification["sdkVersion"] = "kfp-9"

    lines = _diff(small_package(), _changed(change))
    assert lines[:2] == ["--- rest of old", "+++ rest of new"]
    assert "+  sdkVersion: kfp-9" in lines


def test_of_long_values_the_part_that_differs_is_shown() -> None:
    def change(specification: dict[str, Any], _: dict[str, Any]) -> None:
        parameters = specification["root"]["inputDefinitions"]["parameters"]
        parameters["gate_config"]["defaultValue"] = json.dumps({f"key-{number}": number for number in range(40)})

    def change_again(specification: dict[str, Any], platforms: dict[str, Any]) -> None:
        change(specification, platforms)
        parameters = specification["root"]["inputDefinitions"]["parameters"]
        parameters["gate_config"]["defaultValue"] = parameters["gate_config"]["defaultValue"].replace("39}", "40}")

    assert readable_diff(_changed(change), _changed(change_again), "old", "new")[2:] == [
        "~ parameter gate_config",
        '    defaultValue: ... "key-39": 39} -> ... "key-39": 40}',
    ]


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for number, item in enumerate(value) for leaf in _leaves(item, (*path, number))]
    return [path]


def _same_names(path: tuple[Any, ...]) -> bool:
    """Names that only tie parts of the file together, and labels that the path of a step shows."""
    return path[-1] in ("executorLabel",) or path[-2:] == ("componentRef", "name")


BOTH = {"specification": small_package().specification, "platforms": small_package().platforms}


@pytest.mark.parametrize(
    "path", [path for path in _leaves(BOTH) if not _same_names(path)], ids=lambda path: ".".join(map(str, path))
)
def test_no_change_of_any_value_goes_unseen(path: tuple[Any, ...]) -> None:
    changed = deepcopy(BOTH)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    value = parent[path[-1]]
    parent[path[-1]] = not value if isinstance(value, bool) else f"{value} changed"
    new = Package(changed["specification"], changed["platforms"])
    assert readable_diff(small_package(), new, "old", "new")
