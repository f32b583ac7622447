"""One set of weights in chunks of several sizes: rows of their own, the headline untouched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.cli.main import run
from mvqkd.cli.summary import summarize
from mvqkd.config import EvaluateConfig, PrepareDataConfig
from mvqkd.data.prepare import prepare_data
from mvqkd.decode.evaluate import evaluate
from mvqkd.decode.report import WerReport, chunk_ms, chunked_decoder
from mvqkd.promotion.reports import read_report
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.student import commit_student, talkative_student


@dataclass(frozen=True)
class Evaluated:
    data: Artifact
    weights: dict[str, torch.Tensor]
    report: Artifact


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """A student of random weights, whose attention decides what it emits, evaluated from the command line."""
    root = tmp_path_factory.mktemp("chunks")
    manifest = make_corpus(root / "corpus", 12)
    data = prepare_data(PrepareDataConfig(source="manifest", manifest=str(manifest), test_share=0.4), out=root / "data")
    student = talkative_student(int(data.facts["vocab_size"]))
    with torch.no_grad():
        student.encoder.blocks[0].attention.output.weight.mul_(100)
    commit_student(student, root / "student", data)
    artifacts = ["--artifacts-dir", str(root), "--params", str(params(root))]
    assert run(["evaluate", *artifacts, "--chunk-frames", "2,4,0", "--decoders", "greedy,ctc_greedy"]) == 0
    return Evaluated(data, student.state_dict(), load_artifact(root / "wer"))


def params(root: Path) -> Path:
    path = root / "params.yaml"
    path.write_text("evaluate: {device: cpu, bootstrap_samples: 100}\n", encoding="utf-8")
    return path


def texts(artifact: Artifact, decoder: str) -> list[str]:
    report = WerReport.load(artifact.path)
    row = report.row(decoder, "torch")
    assert row is not None
    return report.texts(row)


def test_every_chunk_size_and_decoder_has_a_row_behind_the_plain_ones(evaluated: Evaluated) -> None:
    assert [row.decoder for row in WerReport.load(evaluated.report.path).rows] == [
        "greedy",
        "ctc_greedy",
        "greedy in 80 ms chunks",
        "ctc_greedy in 80 ms chunks",
        "greedy in 160 ms chunks",
        "ctc_greedy in 160 ms chunks",
        "greedy on whole utterances",
        "ctc_greedy on whole utterances",
    ]


@pytest.mark.parametrize(("chunk_frames", "left_context_chunks"), [(2, 4), (0, 0)])
@pytest.mark.parametrize("decoder", ["greedy", "ctc_greedy"])
def test_a_row_is_what_a_student_configured_so_gives(
    evaluated: Evaluated, tmp_path: Path, decoder: str, chunk_frames: int, left_context_chunks: int
) -> None:
    sizes = {"chunk_frames": chunk_frames, "left_context_chunks": left_context_chunks}
    student = talkative_student(int(evaluated.data.facts["vocab_size"]), **sizes)
    student.load_state_dict(evaluated.weights)
    commit_student(student, tmp_path / "student", evaluated.data)
    configured = evaluate(
        EvaluateConfig.model_validate({"decoders": [decoder], "bootstrap_samples": 100, "device": "cpu"}),
        data=evaluated.data.path,
        student=tmp_path / "student",
        out=tmp_path / "wer",
    )
    assert texts(evaluated.report, chunked_decoder(decoder, chunk_frames)) == texts(configured, decoder)
    assert texts(configured, decoder) != texts(evaluated.report, decoder)


def test_the_models_own_size_gives_the_plain_rows(evaluated: Evaluated) -> None:
    assert texts(evaluated.report, "greedy in 160 ms chunks") == texts(evaluated.report, "greedy")


def test_figures_state_the_latency_and_keep_the_headline(evaluated: Evaluated) -> None:
    figures = evaluated.report.figures
    rows = figures["rows"]
    assert figures["wer"] == rows["greedy"]["wer"]
    assert figures["chunk_ms"] == rows["ctc_greedy"]["chunk_ms"] == 160
    assert rows["greedy in 80 ms chunks"]["chunk_ms"] == 80
    assert rows["greedy on whole utterances"]["chunk_ms"] is None
    assert all(row["rtf"] > 0 for row in rows.values())


def test_readers_of_the_report_find_what_they_found(evaluated: Evaluated) -> None:
    plain = read_report(evaluated.report).row("torch", "greedy")
    assert plain is not None
    assert plain.wer == evaluated.report.figures["wer"]
    summary = summarize({"evaluate": evaluated.report})
    assert summary["student_wer_torch"] == plain.wer
    assert "torch/greedy in 80 ms chunks" in summary["wer_by_decoder"]


@pytest.mark.parametrize(("chunk_frames", "expected"), [(1, 40), (8, 320), (16, 640), (0, None)])
def test_a_student_frame_is_40_ms(chunk_frames: int, expected: int | None) -> None:
    assert chunk_ms(chunk_frames) == expected
