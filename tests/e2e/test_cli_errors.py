"""What a user sees when something is wrong: one line with subject, expected, got and the next step; exit code 1."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.cli.main import run
from mvqkd.testing.corpus import make_corpus


@pytest.fixture
def copy(chain: Path, tmp_path: Path) -> Path:
    shutil.copytree(chain, tmp_path / "copy")
    return tmp_path / "copy"


def refused(capfd: pytest.CaptureFixture[str], root: Path, *arguments: str) -> str:
    """Run a command that must fail; give its one line."""
    capfd.readouterr()
    code = run([*arguments, "--params", str(root / "params.yaml"), "--artifacts-dir", str(root / "artifacts")])
    lines = [line for line in capfd.readouterr().err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert code == 1
    assert len(lines) == 1, lines
    assert re.fullmatch(rf"mvqkd {arguments[0]}: .+: expected .+, got .+; .+", lines[0]), lines[0]
    return lines[0]


def prepare(root: Path) -> tuple[str, ...]:
    out = str(root / "artifacts" / "new-data")
    return "prepare-data", "--source", "manifest", "--manifest", str(root / "corpus" / "manifest.jsonl"), "--out", out


def rows_of(root: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / "corpus" / "manifest.jsonl").read_text().splitlines()]


def write_rows(root: Path, rows: list[dict[str, str]]) -> None:
    (root / "corpus" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_indexes_of_another_quantizer(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = str(copy / "artifacts" / "other-quantizer")
    common = ["--params", str(copy / "params.yaml"), "--artifacts-dir", str(copy / "artifacts")]
    assert run(["fit-quantizer", "--seed", "7", "--out", other, *common]) == 0
    line = refused(capfd, copy, "train-student", "--objective", "mvq", "--quantizer", other)
    artifacts = [copy / "artifacts" / name / "artifact.json" for name in ("quantizer", "other-quantizer")]
    ids = [json.loads(path.read_text())["id"][:12] for path in artifacts]
    assert f"expected quantizer {ids[0]}" in line
    assert f"got quantizer {ids[1]}" in line


def test_quantizer_of_another_teacher_layer(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = str(copy / "artifacts" / "layer-2")
    common = ["--params", str(copy / "params.yaml"), "--artifacts-dir", str(copy / "artifacts")]
    assert run(["extract-teacher", "--layer", "2", "--out", other, *common]) == 0
    line = refused(capfd, copy, "encode-ci", "--teacher-embeddings", other)
    assert "layer 2" in line
    assert "layer 3; re-run fit-quantizer" in line


def test_ranks_of_encode_ci_merge_to_the_artifact_of_one_process(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifacts = copy / "artifacts"
    parts = []
    for rank in range(2):
        out = ["--out", str(artifacts / "sharded"), "--rank", str(rank), "--world-size", "2"]
        assert run(["encode-ci", *out, "--params", str(copy / "params.yaml"), "--artifacts-dir", str(artifacts)]) == 0
        parts.append(str(artifacts / f"sharded-{rank}-of-2"))
    capfd.readouterr()
    assert run(["merge-ci", parts[1], "--out", str(artifacts / "merged")]) == 1
    assert "rank" in capfd.readouterr().err
    assert run(["merge-ci", *parts, "--out", str(artifacts / "merged")]) == 0
    one, merged = (
        json.loads((artifacts / name / "artifact.json").read_text()) for name in ("codebook-indexes", "merged")
    )
    assert one["id"] == merged["id"]
    assert one["files"] == merged["files"]


def test_truncated_shard(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = next((copy / "artifacts" / "codebook-indexes").rglob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-10])
    assert shard.name in refused(capfd, copy, "train-student", "--objective", "mvq")


def test_flipped_byte(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shard = next((copy / "artifacts" / "codebook-indexes").rglob("*.npy"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 0x55
    shard.write_bytes(content)
    assert "sha256" in refused(capfd, copy, "train-student", "--objective", "mvq")


def test_unknown_params_key(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / "params.yaml").write_text("train-student: {num_epoch: 3}\n")
    assert "nearest: num_epochs" in refused(capfd, copy, "train-student")
    (copy / "params.yaml").write_text("train-studnet: {num_epochs: 3}\n")
    assert "nearest: train-student" in refused(capfd, copy, "train-student")


def test_empty_corpus(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(copy, [])
    assert "manifest.jsonl" in refused(capfd, copy, *prepare(copy))


def test_stereo_44100_hz_file(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(copy)
    rng = np.random.default_rng(0)
    soundfile.write(copy / "corpus" / rows[0]["audio"], 0.1 * rng.standard_normal((44_100, 2)), 44_100)
    line = refused(capfd, copy, *prepare(copy))
    assert Path(rows[0]["audio"]).stem in line
    assert "2 channels" in line


def test_row_without_text(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(copy)
    del rows[3]["text"]
    write_rows(copy, rows)
    assert Path(rows[3]["audio"]).stem in refused(capfd, copy, *prepare(copy))


def test_corrupt_wav(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(copy)
    (copy / "corpus" / rows[5]["audio"]).write_bytes(b"RIFF\x00\x00 this is no audio")
    assert Path(rows[5]["audio"]).stem in refused(capfd, copy, *prepare(copy))


def test_artifact_of_another_kind_and_none_at_all(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = refused(capfd, copy, "fit-quantizer", "--teacher-embeddings", str(copy / "artifacts" / "data"))
    assert "expected kind teacher-embeddings, got kind cut-manifest" in wrong
    assert "run `mvqkd train-student`" in refused(capfd, copy, "evaluate")


def test_corpus_helper_rows_are_all_usable(tmp_path: Path) -> None:
    """The counterpart: without damage the same command succeeds."""
    make_corpus(tmp_path / "corpus", 16)
    arguments = ["prepare-data", "--source", "manifest", "--manifest", str(tmp_path / "corpus" / "manifest.jsonl")]
    assert run([*arguments, "--out", str(tmp_path / "data")]) == 0
