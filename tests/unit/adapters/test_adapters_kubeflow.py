"""What components do around a stage: ids compared, the section changed, metadata and pages written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.kubeflow import run_gate, run_merge, run_stage, run_training, shard_ranks
from mvqkd.artifacts import Artifact, PartialArtifact, load_artifact
from mvqkd.config import GateConfig
from mvqkd.errors import ArtifactMismatchError, ConfigError
from mvqkd.promotion.stage import gate
from mvqkd.testing.corpus import make_corpus
from mvqkd.testing.lineage import Lineage, make_lineage


@dataclass
class Carrier:
    """An artifact as kfp hands it over."""

    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Metrics:
    values: dict[str, float] = field(default_factory=dict)

    def log_metric(self, metric: str, value: float) -> None:
        self.values[metric] = value


def carried(artifact: Artifact) -> Carrier:
    return Carrier(str(artifact.path))


@pytest.fixture
def lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    monkeypatch.chdir(tmp_path)  # where no registry is
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return make_lineage(tmp_path / "lineage")


def test_a_stage_leaves_ids_and_figures_with_kubeflow(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", num_utterances=12)
    section = json.dumps({"source": "manifest", "manifest": str(manifest)})
    output, metrics = Carrier(str(tmp_path / "data")), Metrics()
    artifact = run_stage("prepare-data", section, output=output, metrics=metrics)
    assert output.metadata == artifact.metadata
    assert output.metadata["artifact_id"] == load_artifact(tmp_path / "data").id
    assert metrics.values == artifact.scalar_figures


def test_the_pipeline_may_set_a_field_itself(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", num_utterances=12)
    section = json.dumps({"source": "manifest", "manifest": str(manifest), "test_share": 0.3})
    kept = run_stage("prepare-data", section, output=Carrier(str(tmp_path / "a")), changes={"test_share": ""})
    changed = run_stage("prepare-data", section, output=Carrier(str(tmp_path / "b")), changes={"test_share": 0.5})
    assert (kept.config["test_share"], changed.config["test_share"]) == (0.3, 0.5)


@pytest.mark.parametrize("config", ["{", '["source"]', '{"sauce": 1}'])
def test_a_broken_section_is_refused(config: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prepare-data"):
        run_stage("prepare-data", config, output=Carrier(str(tmp_path / "out")), changes={"test_share": 0.5})


def test_an_artifact_with_another_id_than_was_passed_is_refused(lineage: Lineage, tmp_path: Path) -> None:
    inputs = {"data": (carried(lineage.data), "0" * 64)}
    with pytest.raises(ArtifactMismatchError, match=f"expected id 0000.*, got id {lineage.data.short_id}"):
        run_stage("extract-teacher", "{}", inputs=inputs, output=Carrier(str(tmp_path / "out")))
    with pytest.raises(ArtifactMismatchError, match="expected id 0000"):
        run_training("{}", "{}", inputs=inputs, output=Carrier(str(tmp_path / "out")), metrics=Metrics())


def test_parts_must_have_the_ids_of_the_loop(lineage: Lineage, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMismatchError, match="1 artifacts of a loop"):
        run_merge(
            [carried(lineage.codebook_indexes)], ["1" * 64], output=Carrier(str(tmp_path / "out")), metrics=Metrics()
        )


def test_shards_are_numbered_from_0() -> None:
    assert shard_ranks(3) == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"num_shards.*docs/scale\.md"):
        shard_ranks(0)


def of_split(report: Artifact, split: str, out: Path, wer: float) -> Artifact:
    """The same student's report on another test set."""
    content = json.loads((report.path / "wer.json").read_text())
    content |= {"split": split, "rows": [row | {"wer": wer} for row in content["rows"]]}
    partial = PartialArtifact(out, report.kind, stage=report.stage, config={**report.config, "split": split})
    partial.parents = dict(report.parents)
    (partial.path / "wer.json").write_text(json.dumps(content))
    return partial.commit()


def judged(lineage: Lineage, reports: list[Artifact], out: Path, **config: Any) -> tuple[Artifact, Path, Carrier]:
    page, record = out / "page.html", Carrier(str(out / "record"))
    artifact = run_gate(
        json.dumps(config),
        "{}",
        bundle=(carried(lineage.bundle), lineage.bundle.id),
        quantizer=(carried(lineage.quantizer), lineage.quantizer.id),
        wer_reports=[carried(report) for report in reports],
        wer_report_ids=[report.id for report in reversed(reports)],
        output=Carrier(str(out / "decision")),
        record=record,
        page=Carrier(str(page)),
    )
    return artifact, page, record


def test_the_gate_finds_the_report_on_the_bundles_test_set(lineage: Lineage, tmp_path: Path) -> None:
    other = of_split(lineage.wer_report, "test-other", tmp_path / "other", wer=0.5)
    decision, page, record = judged(lineage, [other, lineage.wer_report], tmp_path / "out")
    decision.require_parent(lineage.wer_report)
    assert load_artifact(record.path).id == record.metadata["artifact_id"] == lineage.wer_report.id
    assert decision.facts["decision"] == "promote"
    assert lineage.bundle.id in page.read_text()


def test_a_further_test_set_must_keep_the_bound(lineage: Lineage, tmp_path: Path) -> None:
    other = of_split(lineage.wer_report, "test-other", tmp_path / "other", wer=0.5)
    decision, _, _ = judged(lineage, [other, lineage.wer_report], tmp_path / "out", max_wer=0.4)
    assert decision.facts["decision"] == "reject"
    assert decision.figures["reason"] == "absolute WER, test-other: 50.00 % is above 40.00 %"


def test_one_report_gives_the_decision_of_the_command_line(lineage: Lineage, tmp_path: Path) -> None:
    decision, _, _ = judged(lineage, [lineage.wer_report], tmp_path / "out")
    paths = {"bundle": lineage.bundle.path, "wer_report": lineage.wer_report.path, "quantizer": lineage.quantizer.path}
    assert decision.id == gate(GateConfig(), out=tmp_path / "decision", **paths).id


def test_the_bundles_test_set_must_be_among_the_reports(lineage: Lineage, tmp_path: Path) -> None:
    other = of_split(lineage.wer_report, "test-other", tmp_path / "other", wer=0.5)
    with pytest.raises(ConfigError, match=r"test_splits of the pipeline: expected test among them.*got test-other"):
        judged(lineage, [other], tmp_path / "out")
