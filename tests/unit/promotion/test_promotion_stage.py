"""The gate as a stage: real artifact directories in, a decision out."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.config import GateConfig
from mvqkd.decode.report import WerReport
from mvqkd.errors import ArtifactCorruptError, ArtifactMismatchError
from mvqkd.promotion.reports import read_costs, read_report
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import make_lineage
from tests.judging import further, judge, rewritten


def rows(decision: Artifact) -> dict[str, dict[str, Any]]:
    record = json.loads((decision.path / "decision.json").read_text())
    return {row["name"]: row for row in record["checks"]}


def test_first_challenger_is_promoted_and_every_row_recorded(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, wer=0.25, torch_wer=0.24)
    decision = judge(lineage)
    record = json.loads((decision.path / "decision.json").read_text())
    assert record["decision"] == decision.figures["decision"] == decision.facts["decision"] == "promote"
    assert [set(row) for row in record["checks"]] == [{"name", "figure", "threshold", "verdict", "why"}] * 10
    assert record["thresholds"] == decision.config
    assert (record["comparison"], record["slices"]) == ({}, [])
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
    assert judge(lineage).id == judge(lineage).id


def test_wer_of_record_is_the_bundles_not_torchs(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, wer=0.60, torch_wer=0.10)
    decision = judge(lineage, max_wer=0.5)
    assert decision.figures["decision"] == "reject"
    assert "absolute WER" in decision.figures["reason"]


def test_worse_challenger_is_rejected_and_knows_its_champion(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.20, variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.30, variant="new")
    decision = judge(lineage, champion=champion.bundle.path)
    assert decision.figures["decision"] == "reject"
    assert decision.facts["champion_id"] == champion.bundle.id
    assert decision.figures["champion"]["wer"] == 0.20
    assert decision.figures["wer_difference"] == pytest.approx(0.1)
    assert decision.figures["probability_better"] == 0.0


def test_better_challenger_wins_by_the_utterances_of_both_reports(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.30, variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.28, variant="new", num_speakers=25)
    decision = judge(lineage, champion=champion.bundle.path)
    assert decision.figures["decision"] == "promote"
    record = json.loads((decision.path / "decision.json").read_text())
    assert record["comparison"]["test"]["unit"] == "speaker"
    assert record["comparison"]["test"]["num_units"] == 25
    assert {part["name"] for part in record["slices"]} == {f"speaker-{i:02}" for i in range(25)}


def test_every_failed_row_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mvqkd"):
        judge(make_lineage(tmp_path / "one", parity_ok=False), min_test_utterances=113)
    assert [message.partition(":")[2].partition(":")[0] for message in caplog.messages] == [
        " rejected, test utterances",
        " rejected, ONNX parity",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO, "mvqkd"):
        judge(make_lineage(tmp_path / "two"))
    assert caplog.messages == []


@pytest.mark.parametrize(("graph_bytes", "outcome"), [(800, "promote"), (900, "reject")])
def test_equal_challenger_needs_smaller_graphs(tmp_path: Path, graph_bytes: int, outcome: str) -> None:
    champion = make_lineage(tmp_path / "old", variant="old")
    lineage = make_lineage(tmp_path / "new", variant="new", graph_bytes=graph_bytes)
    assert judge(lineage, champion=champion.bundle.path).figures["decision"] == outcome


def test_the_champions_model_in_another_bundle_is_no_new_champion(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "one", rtf=0.1)
    copy = rewritten(champion.bundle, tmp_path / "again", "tokens.txt", "<blk> 0 \n")
    again = dataclasses.replace(champion, bundle=load_artifact(copy))
    decision = judge(again, champion=champion.bundle.path)
    assert again.bundle.id != champion.bundle.id
    assert decision.figures["reason"] == "cheaper than champion: equal: its graphs are the champion's"


def test_costs_are_what_the_bundle_states(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path, graph_bytes=5_000, rtf=0.03, streaming_wer=0.31, latency_s=0.7)
    costs = read_costs(lineage.bundle)
    assert (costs.graph_bytes, costs.rtf, costs.latency_s) == (5_000, 0.03, 0.7)
    assert costs.bundle_bytes == sum(file["size_bytes"] for file in lineage.bundle.files.values())
    assert costs.graphs == (lineage.bundle.files["encoder.onnx"]["sha256"],)
    decision = judge(lineage, max_bundle_bytes=1_000_000, max_rtf=0.1)
    judged = {name: rows(decision)[name]["verdict"] for name in ("bundle size", "real-time factor", "streaming gap")}
    assert set(judged.values()) == {"pass"}
    assert rows(decision)["streaming latency"]["figure"] == 0.7


def test_a_bundle_that_streams_badly_is_rejected(tmp_path: Path) -> None:
    decision = judge(make_lineage(tmp_path, wer=0.3, streaming_wer=0.46))
    assert decision.figures["reason"].startswith("streaming gap: streaming 46.00 %, offline 30.00 %")


def test_a_further_set_is_compared_where_the_champions_report_is_given(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.30, variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.20, variant="new")
    ours, theirs = further(lineage, 0.42), further(champion, 0.40)
    alone = judge(lineage, champion=champion.bundle.path, other_reports=[ours])
    assert alone.figures["decision"] == "promote"
    assert rows(alone)["not worse, far"]["verdict"] == "skip"
    both = judge(lineage, champion=champion.bundle.path, other_reports=[theirs, ours])
    assert both.figures["reason"].startswith("not worse, far: 42.00 % is worse than the champion's 40.00 %")
    assert both.facts["other_report_ids"] == sorted(load_artifact(path).id for path in (ours, theirs))
    assert "absolute WER, far" in rows(both)


def test_the_order_of_further_reports_means_nothing(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path)
    paths = [further(lineage, 0.4, name, test_set_sha256=name * 64) for name in "abc"]
    decision = judge(lineage, other_reports=paths)
    assert decision.id == judge(lineage, other_reports=paths[::-1]).id
    assert decision.facts["other_report_ids"] == sorted(load_artifact(path).id for path in paths)


def test_the_set_of_record_is_judged_by_what_ships_alone(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.2, variant="new")
    again = further(lineage, 0.9, "test", test_set_sha256="a" * 64)
    decision = judge(lineage, champion=champion.bundle.path, other_reports=[again], max_wer=0.5)
    assert decision.figures["decision"] == "promote"
    assert "absolute WER, test" not in rows(decision)


def test_bundles_of_one_student_share_its_further_reports(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "one")
    copy = rewritten(champion.bundle, tmp_path / "again", "encoder.onnx", "half")
    again = dataclasses.replace(champion, bundle=load_artifact(copy))
    decision = judge(again, champion=champion.bundle.path, other_reports=[further(champion, 0.4)])
    assert rows(decision)["not worse, far"]["figure"] == 0.0
    assert decision.figures["decision"] == "promote"
    assert len(decision.facts["other_report_ids"]) == 1


def test_a_report_of_neither_student_is_refused(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", variant="old")
    lineage, stranger = (make_lineage(tmp_path / name, variant=name, wer=0.1) for name in ("new", "stranger"))
    with pytest.raises(ArtifactMismatchError, match=stranger.student.short_id):
        judge(lineage, champion=champion.bundle.path, other_reports=[further(stranger, 0.1)])
    with pytest.raises(ArtifactMismatchError, match=champion.student.short_id):
        judge(lineage, other_reports=[further(champion, 0.1)])


def test_texts_without_the_counted_errors_are_refused(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.2, variant="new")
    report = json.loads((lineage.bundle.path / "wer.json").read_text())
    report["utterances"][0]["hyp"]["onnxruntime/greedy"] = report["utterances"][0]["ref"]
    bundle = rewritten(lineage.bundle, tmp_path / "better", "wer.json", json.dumps(report))
    with pytest.raises(ArtifactCorruptError, match=r"expected texts with 200 errors in 1000 words.*got 198 errors"):
        judge(dataclasses.replace(lineage, bundle=load_artifact(bundle)), champion=champion.bundle.path)


def test_a_champion_of_an_older_version_compares(tmp_path: Path) -> None:
    """Its report names no speakers, and its bundle.json no variants."""
    champion = make_lineage(tmp_path / "old", variant="old")
    report = json.loads((champion.bundle.path / "wer.json").read_text())
    for utterance in report["utterances"]:
        del utterance["speaker"]
    described = {"lineage": json.loads((champion.bundle.path / "bundle.json").read_text())["lineage"]}
    older = rewritten(champion.bundle, tmp_path / "a", "wer.json", json.dumps(report))
    older = rewritten(load_artifact(older), tmp_path / "b", "bundle.json", json.dumps(described))
    lineage = make_lineage(tmp_path / "new", wer=0.25, variant="new", num_speakers=4, streaming_wer=0.26)
    assert judge(lineage, champion=older).figures["decision"] == "promote"


def test_champion_itself_passes(tmp_path: Path) -> None:
    lineage = make_lineage(tmp_path / "one")
    copy = tmp_path / "registry-copy"
    shutil.copytree(lineage.bundle.path, copy)
    assert judge(lineage, champion=copy).figures["decision"] == "promote"


def test_champion_of_another_test_set_is_not_compared(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.9, test_set="b" * 64, variant="old")
    decision = judge(make_lineage(tmp_path / "new", wer=0.1), champion=champion.bundle.path)
    assert decision.figures["decision"] == "reject"
    assert "same test set" in decision.figures["reason"]


def test_bundle_without_its_own_wer_is_rejected(tmp_path: Path) -> None:
    decision = judge(make_lineage(tmp_path, wer=None))
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
    decision = judge(lineage)
    assert decision.figures["decision"] == "promote"
    assert "quantizer" not in decision.parents


def test_bad_quantizer_rejects(tmp_path: Path) -> None:
    assert "quantizer error" in judge(make_lineage(tmp_path, relative_error=0.99)).figures["reason"]


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
        judge(lineage)


def test_reads_the_report_that_evaluate_and_export_write(tmp_path: Path) -> None:
    # The hand-made reports of these tests must be what the decoder's own schema accepts, and both read it alike.
    lineage = make_lineage(tmp_path)
    for artifact, runtime in ((lineage.bundle, "onnxruntime"), (lineage.wer_report, "torch")):
        theirs = WerReport.load(artifact.path)
        ours = read_report(artifact).row(runtime, "greedy")
        row = theirs.row("greedy", runtime)
        assert ours is not None
        assert row is not None
        assert (ours.wer, ours.interval_95) == (row.wer, row.interval_95)
