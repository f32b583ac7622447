"""`mvqkd pipeline` as a command: help without kfp, where the pipeline is found, the golden file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mvqkd.cli.main import build_parser, run
from pipelines.cluster import ClusterConfig
from pipelines.compile import GOLDEN_FILE
from pipelines.package import package_from_file

ROOT = Path(__file__).parents[2]
ACTIONS = ("compile", "diff", "submit", "schedule", "status")


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser("pipeline").parse_args(["pipeline", action, "--help"])
    assert caught.value.code == 0
    assert f"usage: mvqkd pipeline {action}" in capsys.readouterr().out


def test_no_secret_can_be_a_flag() -> None:
    """What stands in a command line can be read by everybody on the machine."""
    parser = build_parser("pipeline")
    for action in ("diff", "submit", "schedule", "status"):
        for flag in ("--token", "--cookies", "--cookie"):
            with pytest.raises(SystemExit):
                parser.parse_args(["pipeline", action, flag, "x"])


def test_an_action_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["pipeline"])
    assert caught.value.code == 2
    assert "the following arguments are required: ACTION" in capsys.readouterr().err


def test_without_kfp_help_works_and_the_rest_names_the_extra() -> None:
    code = """
import sys
sys.modules["kfp"] = sys.modules["kfp_server_api"] = None
from mvqkd.cli.main import build_parser, run
build_parser("pipeline").format_help()
for name in ("torch", "pipelines", "urllib3", "google.protobuf"):
    assert name not in sys.modules, name
for action in (["compile", "--check"], ["status", "--host", "http://127.0.0.1:1"]):
    assert run(["pipeline", *action]) == 1
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    line = "command pipeline: expected the package kfp, got it is not installed; pip install 'mvqkd[kfp]'"
    assert result.stderr.splitlines() == [f"mvqkd pipeline: {line}"] * 2


def test_compile_reproduces_the_golden_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the checkout is found from the package
    assert run(["pipeline", "compile", "-o", "it.yaml"]) == 0
    assert (tmp_path / "it.yaml").read_bytes() == GOLDEN_FILE.read_bytes()
    assert run(["pipeline", "compile", "--check"]) == 0
    assert "distill.golden.yaml: up to date" in capsys.readouterr().out
    assert run(["pipeline", "compile", "-o", "it.yaml", "--check", "--image", "other:1"]) == 1


def test_image_and_cluster_reach_the_specification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("parallel_shards: 3\n", encoding="utf-8")
    options = ["--image", "registry.example/mvqkd@sha256:" + "1" * 64, "--cluster", str(cluster)]
    assert run(["pipeline", "compile", "-o", str(tmp_path / "it.yaml"), *options]) == 0
    assert package_from_file(tmp_path / "it.yaml").images == {options[1]}
    capsys.readouterr()
    assert run(["pipeline", "diff", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    golden = next(iter(package_from_file(GOLDEN_FILE).images))
    assert lines[2:4] == ["~ every step", f"    image: {golden} -> {options[1]}"]
    assert f"    loop parallelismLimit: {ClusterConfig().parallel_shards} -> 3" in lines


def test_diff_of_nothing_and_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pipeline", "diff", "--exit-code"]) == 0
    assert capsys.readouterr().out == f"no difference from {GOLDEN_FILE}\n"
    other = tmp_path / "other.yaml"
    (image,) = package_from_file(GOLDEN_FILE).images
    other.write_text(GOLDEN_FILE.read_text(encoding="utf-8").replace(image, "other:1"), encoding="utf-8")
    assert run(["pipeline", "diff", str(other)]) == 0
    assert f"    image: other:1 -> {image}" in capsys.readouterr().out
    assert run(["pipeline", "diff", str(other), "--exit-code"]) == 3


def test_outside_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mvqkd.cli.pipeline.__file__", str(tmp_path / "site-packages/mvqkd/cli/pipeline.py"))
    assert run(["pipeline", "compile"]) == 1
    assert capsys.readouterr().err == (
        f"mvqkd pipeline: folder {tmp_path}: expected a checkout of mvqkd, with pipelines/distill.golden.yaml, got "
        "none; run the command in one; the installed package does not bring the pipeline\n"
    )


def test_debug_works_after_the_action(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mvqkd.cli.pipeline.__file__", str(tmp_path / "a/b/c/d.py"))
    for arguments in (["--debug", "compile"], ["compile", "--debug"]):
        with pytest.raises(Exception, match="a checkout of mvqkd"):
            run(["pipeline", *arguments])
