"""`mvqkd doctor`: says what is there, and fails when something is missing that the demo needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvqkd.cli.main import run

ROOT = Path(__file__).parents[3]


def test_checkout_is_in_order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    for subject in (
        "Python",
        "cores",
        "disk",
        "torchaudio",
        "teacher whisper-tiny.en",
        "corpus asterisk",
        "params.yaml",
    ):
        assert f" {subject} " in text
    assert "MISSING" not in text
    assert text.rstrip().endswith("mvqkd demo")


def test_what_is_missing_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shutil.which("apt-get") is None
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "MISSING apt-get" in text
    assert "absent  git" in text
    assert "MISSING dvc.yaml" in text
    assert "-> use" in text or "or use your own recordings" in text
    assert "missing for the demo" in text


def test_version_beside_the_tested_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constraints.txt").write_text("# a comment with ==\nnumpy==1.0.0\n")
    run(["doctor"])
    assert "tested with 1.0.0" in capsys.readouterr().out
