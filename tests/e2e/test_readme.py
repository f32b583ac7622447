"""The README's section on a user's own recordings, followed to the letter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mvqkd.testing.corpus import make_corpus

ROOT = Path(__file__).resolve().parents[2]
MINI_LIBRI = ROOT.parent / "shared" / "data" / "mini-libri"

PARAMS = """
extract-teacher: {num_frames: 800}
fit-quantizer: {num_codebooks: 2, phase_1_steps: 3, phase_2_steps: 3, batch_size: 128}
encode-ci: {speeds: [1.0]}
train-student:
  num_epochs: 2
  speeds: [1.0]
  model: {encoder_dim: 32, num_heads: 2, num_encoder_layers: 2, feedforward_dim: 64, decoder_dim: 32, joiner_dim: 32}
evaluate: {teacher_wer: false, decoders: [greedy], bootstrap_samples: 100}
gate: {max_wer: 9.0, min_test_utterances: 1, max_quantizer_error: 9.0}
"""


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- own-recordings.*?-->\n```bash\n(.*?)```", text, re.S)
    assert block is not None
    return block[1].strip().splitlines()


def own_recordings(folder: Path) -> None:
    """20 real utterances of 4 speakers where they lie beside the project, synthetic ones elsewhere."""
    if MINI_LIBRI.is_dir():
        rows = [json.loads(line) for line in (MINI_LIBRI / "test.jsonl").read_text().splitlines()]
        chosen: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            chosen.setdefault(row["speaker"], []).append(row | {"audio": str(MINI_LIBRI / row["audio"])})
        rows = [row for mine in chosen.values() for row in sorted(mine, key=lambda row: row["duration_s"])[:5]]
        assert len(rows) == 20
        (folder / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        manifest = make_corpus(folder, 20)
        manifest.rename(folder / "my.jsonl")


def mvqkd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.run(
        [sys.executable, "-m", "mvqkd", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.e2e
def test_own_recordings_become_a_registered_student(tmp_path: Path) -> None:
    own_recordings(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    lines = commands()
    assert len(lines) == 10
    for line in lines:
        program, *arguments = line.split()
        assert program == "mvqkd"
        done = mvqkd(tmp_path, *arguments)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    summary = json.loads((tmp_path / "artifacts" / "summary.json").read_text())
    assert summary["decision"] == "promote"
    assert str(summary["model_version"]) == "1"
    assert summary["student_wer_onnx"] >= 0
    assert summary["bytes_per_teacher_frame"] == 2

    audio = json.loads((tmp_path / "my.jsonl").read_text().splitlines()[0])["audio"]
    heard = mvqkd(tmp_path, "transcribe", "--format", "jsonl", audio)
    assert heard.returncode == 0, heard.stderr
    row = json.loads(heard.stdout)
    assert set(row) >= {"audio", "text", "duration_s", "rtf"}
    assert row["duration_s"] > 0.5

    # The same bundle again is no better champion and no second version; a worse threshold refuses it.
    again = mvqkd(tmp_path, "gate", "--max-wer", "0.0001", "--strict")
    assert again.returncode == 3, again.stderr
    decision = json.loads((tmp_path / "artifacts" / "decision" / "decision.json").read_text())
    assert "reject" in json.dumps(decision)
