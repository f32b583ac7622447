"""A compiled pipeline's name is its content."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mvqkd.errors import ConfigError
from pipelines.package import Package, package_from_file, package_from_server, package_from_text
from tests.kfp_server import stored
from tests.small_pipeline import IMAGE, small_package, small_text


def test_version_is_the_content() -> None:
    text = small_text()
    package = package_from_text(text, "here")
    assert re.fullmatch(r"mvqkd-distill-[0-9a-f]{12}", package.version_name)
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert package_from_text(without_comments, "here").version_name == package.version_name
    turned = dict(reversed(package.specification.items()))
    assert Package(turned, package.platforms).version_name == package.version_name, "a server's order is any"
    others = [
        small_package(memory="2Gi").version_name,
        small_package(retries=4).version_name,
        small_package(caching=False).version_name,
        Package(package.specification, {}).version_name,
    ]
    assert len({package.version_name, *others}) == 5


def test_what_is_uploaded_is_what_was_read() -> None:
    package = small_package()
    assert package_from_text(package.text(), "uploaded") == package
    assert package.text().count("\n---\n") == 1
    assert package.images == {IMAGE}


def test_the_server_writes_it_otherwise_and_it_is_the_same() -> None:
    package = small_package()
    back = package_from_server(json.loads(json.dumps(stored(package.text()))), "server")
    assert back.same_as(package)
    assert not back.same_as(small_package(retries=4))
    assert not back.same_as(Package(package.specification, {}))


def test_fields_of_a_later_release_count_as_content() -> None:
    package = small_package()
    later = Package({**package.specification, "notKnownYet": 1}, package.platforms)
    assert later.same_as(Package(dict(later.specification), package.platforms))
    assert not later.same_as(package)


def test_without_caching_reaches_loops_and_branches() -> None:
    package = small_package()
    tasks = [task for graph in package.without_caching().graphs() for task in graph.values()]
    assert sum("cachingOptions" in task for task in tasks) == 3
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in tasks)
    assert package == small_package(), "the original stays as it is"
    assert package.without_caching().version_name != package.version_name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "something else"),
        ("- a", "something else"),
        ("a: [", "no YAML"),
        ("apiVersion: v1\nkind: Pod", "YAML without pipelineInfo.name or root.dag.tasks"),
        ("pipelineInfo: {name: x}\nroot: 3", "YAML without"),
    ],
)
def test_other_files_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        package_from_text(text, "file.yaml")
    assert "pipeline file.yaml: expected a pipeline compiled for Kubeflow" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")])
def test_files_that_cannot_be_read(make: Callable[[Path], object], tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    make(file)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        package_from_file(file)
