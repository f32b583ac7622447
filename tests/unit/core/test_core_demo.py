"""`mvqkd demo`: where it refuses to run, and how it rewords DVC."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.cli.demo import Follower
from mvqkd.cli.main import run


def test_dvcs_lines_become_one_a_stage() -> None:
    shown: list[str] = []
    follower = Follower(shown.append)
    for line in """Stage 'prepare-data' didn't change, skipping
Stage 'extract-teacher' is cached - skipping run, checking out outputs
Generating lock file 'dvc.lock'
Updating lock file 'dvc.lock'

Running stage 'fit-quantizer':
> mvqkd fit-quantizer
fit-quantizer: quantizer 0123456789ab in artifacts/quantizer (1.0 s)
Updating lock file 'dvc.lock'

To track the changes with git, run:

	git add dvc.lock

To enable auto staging, run:

	dvc config core.autostage true
Use `dvc push` to send your updates to remote storage.
""".splitlines(keepends=True):
        follower.line(line)
    assert shown == [
        "[1/9] prepare-data: up to date",
        "[2/9] extract-teacher: the same as in an earlier run, taken from DVC's cache",
        "[3/9] fit-quantizer ...",
        "fit-quantizer: quantizer 0123456789ab in artifacts/quantizer (1.0 s)",
    ]
    assert follower.running == "fit-quantizer"


def test_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["demo"]) == 1
    assert "expected dvc.yaml in the current directory" in capsys.readouterr().err


def test_slip_in_a_late_section_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("promote: {model_nam: x}\n")
    assert run(["demo"]) == 1
    assert "nearest: model_name" in capsys.readouterr().err
    assert not (tmp_path / ".dvc").exists()
