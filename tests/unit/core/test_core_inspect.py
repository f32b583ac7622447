"""`mvqkd inspect`: what it is, its parents and whether they lie beside it, and verification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.cli.main import run


def _make(out: Path, kind: str, content: bytes, parents: list[Artifact]) -> Artifact:
    partial = PartialArtifact(out, kind, stage="fit-quantizer", config={"seed": 0}, parents=parents)
    (partial.path / "payload.bin").write_bytes(content)
    return partial.commit(facts={"dim": 384, "teacher": {"name": "tiny"}}, figures={"relative_error": 0.34567891})


@pytest.fixture
def quantizer(tmp_path: Path) -> Artifact:
    parent = _make(tmp_path / "teacher-embeddings", "teacher-embeddings", b"e", [])
    return _make(tmp_path / "quantizer", "quantizer", b"q" * 2000, [parent])


def test_text(quantizer: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(quantizer.path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"quantizer {quantizer.short_id} in {quantizer.path}\n")
    assert quantizer.id in text
    assert "2 kB in 1 files" in text
    assert "sizes only; try --verify" in text
    assert f"{quantizer.parents['teacher-embeddings'][:12]}  {quantizer.path.parent / 'teacher-embeddings'}" in text
    assert "teacher.name" in text
    assert "0.34568" in text


def test_pictures_and_findings_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = PartialArtifact(tmp_path / "quantizer", "quantizer", stage="fit-quantizer", config={})
    (partial.path / "report.png").write_bytes(b"picture")
    (partial.path / "report.json").write_text(json.dumps({"findings": ["5 of 32 entries are dead"]}))
    artifact = partial.commit()
    assert run(["inspect", str(artifact.path)]) == 0
    text = capsys.readouterr().out
    assert f"  picture   {artifact.path / 'report.png'}\n" in text
    assert "  finding   5 of 32 entries are dead\n" in text
    assert run(["inspect", str(artifact.path), "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["pictures"] == [str(artifact.path / "report.png")]
    assert description["findings"] == ["5 of 32 entries are dead"]


def test_json(quantizer: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(quantizer.path), "--json", "--verify"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["id"] == quantizer.id
    assert description["verified"] == "every byte"
    assert description["figures"] == {"relative_error": 0.34567891}
    assert description["parents"]["teacher-embeddings"]["found"] == str(quantizer.path.parent / "teacher-embeddings")


def test_parent_that_was_made_anew_is_not_taken_for_the_parent(
    quantizer: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    _make(quantizer.path.parent / "teacher-embeddings", "teacher-embeddings", b"other", [])
    assert run(["inspect", str(quantizer.path)]) == 0
    assert "not beside it" in capsys.readouterr().out


def test_damage_shows_with_verify(quantizer: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    (quantizer.path / "payload.bin").write_bytes(b"Q" + b"q" * 1999)
    assert run(["inspect", str(quantizer.path)]) == 0
    assert run(["inspect", str(quantizer.path), "--verify"]) == 1
    assert "payload.bin: expected sha256" in capsys.readouterr().err
