"""The command line's surface: help without torch and within half a second, exit codes, one-line errors."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvqkd.cli.main import TOOLS, build_parser, run
from mvqkd.stages import STAGES

HEAVY = ("torch", "lhotse", "numpy", "mlflow", "dvc", "onnxruntime", "kfp")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_module_and_command_are_the_same() -> None:
    command = Path(sys.executable).with_name("mvqkd")
    by_command = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    by_module = _python("-m", "mvqkd", "--help")
    assert by_module.stdout == by_command.stdout
    for name in [*STAGES, *TOOLS]:
        assert re.search(rf"^    {name}\s", by_module.stdout, re.MULTILINE)


def test_help_is_fast() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert _python("-m", "mvqkd", "--help").returncode == 0
        times.append(time.perf_counter() - started)
    # The best of three: other work on the machine must not fail a build.
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "command", [[], *([name] for name in STAGES)], ids=lambda command: command[0] if command else ""
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys; from mvqkd.cli.main import build_parser; import mvqkd.config\n"
        f"build_parser({command[0] if command else None!r})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert _python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("name", [*STAGES, *TOOLS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser(name).parse_args([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: mvqkd {name}" in capsys.readouterr().out


def test_no_command_prints_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "stages, then tools" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["no-such-stage"], ["gate", "--no-such-flag"], ["inspect"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_domain_error_is_one_line_and_exit_1(tmp_path: Path) -> None:
    result = _python("-m", "mvqkd", "inspect", str(tmp_path / "none"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"mvqkd inspect: artifact {tmp_path / 'none'}: expected a directory with")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = _python("-m", "mvqkd", "inspect", "--debug", str(tmp_path / "none"))
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ArtifactNotFoundError" in result.stderr


def test_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mvqkd --help; {sys.executable} -m mvqkd doctor | head -1"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "Broken pipe" not in result.stderr
