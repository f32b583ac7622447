"""``mvqkd report`` from the command line: artifacts of a directory, the champion of a real registry, one file out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvqkd.artifacts import Artifact
from mvqkd.cli.main import run
from mvqkd.config import GateConfig, PromoteConfig
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_lineage


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def test_one_file_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_lineage(tmp_path / "artifacts")
    assert run(["report", "-o", "out/page.html", "--audio", "0"]) == 0
    said = capsys.readouterr().out
    assert "report: out/page.html (0.0" in said
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "No decision yet" in page
    # No registry was there, and none has been made.
    assert "There is no champion to compare with." in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "out"]


def test_a_champion_by_directory(tmp_path: Path) -> None:
    make_lineage(tmp_path / "artifacts", wer=0.25)
    champion = make_lineage(tmp_path / "old", variant="old", wer=0.30)
    assert run(["report", "--champion", str(champion.bundle.path), "--audio", "0"]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "−5.00 points" in page
    assert "champion 30.0" in page


def test_a_report_on_a_further_test_set(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path / "artifacts")
    assert run(["report", "--champion", "none", "--wer-report", str(lineage.wer_report.path), "--audio", "0"]) == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("Test set test: 112 utterances") == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--artifacts-dir", "nowhere"], "no such directory"),
        (["--champion", "nowhere"], "no such directory"),
        (["--wer-report", "artifacts/bundle"], "expected kind wer-report"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    make_lineage(tmp_path / "artifacts")
    assert run(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "report.html").exists()


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["report", "--audio", "-1"])
    assert stop.value.code == 2
    assert "--audio must be 0 or more" in capsys.readouterr().err


def promote_lineage(lineage: Lineage, root: Path, champion: Artifact | None) -> None:
    from mvqkd.adapters.promote import promote

    shared = {"bundle": lineage.bundle.path, "wer_report": lineage.wer_report.path, "quantizer": lineage.quantizer.path}
    decision = gate(GateConfig(), champion=None if champion is None else champion.path, out=root / "decision", **shared)
    promote(
        PromoteConfig(), decision=decision.path, student=lineage.student.path, data=lineage.data.path,
        codebook_indexes=lineage.codebook_indexes.path, teacher_embeddings=lineage.teacher_embeddings.path,
        out=root / "promotion", **shared,
    )  # fmt: skip


@pytest.mark.slow
def test_the_registrys_champion_and_after_a_promotion_the_one_before_it(tmp_path: Path) -> None:
    first = make_lineage(tmp_path / "first", variant="first", wer=0.35)
    promote_lineage(first, tmp_path / "first", None)
    second = make_lineage(tmp_path / "artifacts", variant="second", wer=0.25)
    assert run(["report", "--audio", "0", "-o", "challenger.html"]) == 0
    assert "−10.00 points" in (tmp_path / "challenger.html").read_text(encoding="utf-8")
    promote_lineage(second, tmp_path / "artifacts", first.bundle)
    assert run(["report", "--audio", "0", "-o", "champion.html"]) == 0
    page = (tmp_path / "champion.html").read_text(encoding="utf-8")
    assert "Promote" in page
    # The second is the champion now, and is still shown beside the one that it beat.
    assert "−10.00 points" in page
    assert "mvqkd-student version 2" in page
    shutil.rmtree(tmp_path / "artifacts")
    shutil.copytree(tmp_path / "first", tmp_path / "artifacts")
    assert run(["report", "--audio", "0", "-o", "first.html"]) == 0
    assert "+10.00 points" in (tmp_path / "first.html").read_text(encoding="utf-8")
