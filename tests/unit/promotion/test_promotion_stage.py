"""The gate as a stage: real artifact directories in, a decision out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.config import GateConfig
from mvqkd.decode.report import WerReport
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError
from mvqkd.promotion.reports import read_report
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import Lineage, make_lineage


def run_gate(lineage: Lineage, *, champion: Path | None = None, **config: Any) -> Artifact:
    return gate(
        GateConfig(**config),
        bundle=lineage.bundle.path,
        wer_report=lineage.wer_report.path,
        quantizer=lineage.quantizer.path,
        champion=champion,
        out=lineage.root / "decision",
    )


def rewritten(artifact: Artifact, out: Path, name: str, text: str) -> Path:
    """The same artifact with one file replaced, committed as a stage would."""
    partial = PartialArtifact(out, artifact.kind, stage=artifact.stage, config=artifact.config)
    partial.parents = dict(artifact.parents)
    for file in artifact.files:
        shutil.copyfile(artifact.path / file, partial.path / file)
    (partial.path / name).write_text(text)
    return partial.commit(facts=artifact.facts, figures=artifact.figures).path


def test_first_challenger_is_promoted_and_every_row_recorded(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, wer=0.25, torch_wer=0.24)
    decision = run_gate(lineage)
    record = json.loads((decision.path / "decision.json").read_text())
    assert record["decision"] == decision.figures["decision"] == decision.facts["decision"] == "promote"
    assert [set(row) for row in record["checks"]] == [{"name", "figure", "threshold", "verdict", "why"}] * 6
    assert record["bundle_id"] == decision.facts["bundle_id"] == lineage.bundle.id
    assert record["champion_id"] is None
    assert "champion" not in decision.figures
    assert decision.figures["wer"] == 0.25
    assert decision.figures["torch"]["wer"] == 0.24
    assert decision.figures["wer_interval_95"] == pytest.approx([0.22, 0.28])
    assert decision.figures["rtf"] == 0.02
    for parent in (lineage.bundle, lineage.wer_report, lineage.quantizer):
        decision.require_parent(parent)


def test_same_inputs_give_the_same_decision_id(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path)
    assert run_gate(lineage).id == run_gate(lineage).id


def test_wer_of_record_is_the_bundles_not_torchs(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, wer=0.60, torch_wer=0.10)
    decision = run_gate(lineage, max_wer=0.5)
    assert decision.figures["decision"] == "reject"
    assert "absolute WER" in decision.figures["reason"]


def test_worse_challenger_is_rejected_and_knows_its_champion(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.20, variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.30, variant="new")
    decision = run_gate(lineage, champion=champion.bundle.path)
    assert decision.figures["decision"] == "reject"
    assert decision.facts["champion_id"] == champion.bundle.id
    assert decision.figures["champion"]["wer"] == 0.20


def test_champion_itself_passes(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path / "one")
    copy = tmp_path / "registry-copy"
    shutil.copytree(lineage.bundle.path, copy)
    assert run_gate(lineage, champion=copy).figures["decision"] == "promote"


def test_champion_of_another_test_set_is_not_compared(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.9, test_set="b" * 64, variant="old")
    decision = run_gate(make_lineage(tmp_path / "new", wer=0.1), champion=champion.bundle.path)
    assert decision.figures["decision"] == "reject"
    assert "same test set" in decision.figures["reason"]


def test_bundle_without_its_own_wer_is_rejected(tmp_path: Path) -> None:
    decision = run_gate(make_lineage(tmp_path, wer=None))
    assert decision.figures["decision"] == "reject"
    assert "wer" not in decision.figures


def test_parity_without_a_verdict_rejects(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path)
    bundle = rewritten(lineage.bundle, tmp_path / "other", "parity.json", '{"max_difference": 0}')
    decision = gate(
        GateConfig(),
        bundle=bundle,
        wer_report=lineage.wer_report.path,
        quantizer=lineage.quantizer.path,
        out=tmp_path / "decision",
    )
    assert "ONNX parity" in decision.figures["reason"]


def test_report_of_another_student_is_refused(tmp_path: Path) -> None:
    one, other = make_lineage(tmp_path / "one", variant="one"), make_lineage(tmp_path / "two", variant="two")
    with pytest.raises(ArtifactMismatchError) as caught:
        gate(GateConfig(), bundle=one.bundle.path, wer_report=other.wer_report.path, out=tmp_path / "decision")
    message = str(caught.value)
    assert one.student.short_id in message
    assert other.student.short_id in message
    assert not (tmp_path / "decision").exists()


def test_quantizer_must_be_the_student_s(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path / "one")
    other = make_lineage(tmp_path / "two", relative_error=0.1)
    for quantizer, got in ((other.quantizer.path, other.quantizer.short_id), (None, "got none")):
        with pytest.raises(ArtifactMismatchError, match=got) as caught:
            gate(
                GateConfig(),
                bundle=lineage.bundle.path,
                wer_report=lineage.wer_report.path,
                quantizer=quantizer,
                out=tmp_path / "decision",
            )
        assert lineage.quantizer.short_id in str(caught.value)


def test_quantizer_that_the_student_never_saw_is_not_judged(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, objective="none", relative_error=0.99)
    decision = run_gate(lineage)
    assert decision.figures["decision"] == "promote"
    assert "quantizer" not in decision.parents


def test_bad_quantizer_rejects(tmp_path: Path) -> None:
    assert "quantizer error" in run_gate(make_lineage(tmp_path, relative_error=0.99)).figures["reason"]


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"rows": [{"wer": "high"}]}'])
def test_unreadable_report_is_one_line(tmp_path: Path, text: str) -> None:
    lineage = make_lineage(tmp_path)
    bundle = rewritten(lineage.bundle, tmp_path / "other", "wer.json", text)
    with pytest.raises(ArtifactCorruptError, match=r"wer\.json.*re-run export-onnx") as caught:
        gate(
            GateConfig(),
            bundle=bundle,
            wer_report=lineage.wer_report.path,
            quantizer=lineage.quantizer.path,
            out=tmp_path / "decision",
        )
    assert "\n" not in str(caught.value)


def test_damaged_bundle_is_refused(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path)
    path = lineage.bundle.path / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactCorruptError):
        run_gate(lineage)


def test_reads_the_report_that_evaluate_and_export_write(tmp_path: Path) -> None:
    # The hand-made reports of these tests must be what the decoder's own schema accepts, and both read it alike.
    lineage = make_lineage(tmp_path)
    for artifact, runtime in ((lineage.bundle, "onnxruntime"), (lineage.wer_report, "torch")):
        theirs = WerReport.load(artifact.path)
        ours = read_report(artifact).row(runtime, "greedy")
        row = theirs.row("greedy", runtime)  # type: ignore[arg-type]
        assert ours is not None
        assert row is not None
        assert (ours.wer, ours.interval_95) == (row.wer, row.interval_95)
