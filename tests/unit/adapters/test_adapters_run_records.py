"""What MLflow is told of an artifact, made from artifact.json alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mvqkd.adapters import run_records as records
from mvqkd.adapters.mlflow_store import import_mlflow
from mvqkd.adapters.tracking import SITTING_GAP_MS, sitting_start_ms
from mvqkd.testing.lineage import Lineage, make_lineage


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    import_mlflow()
    return make_lineage(tmp_path_factory.mktemp("lineage"))


def test_nested_parameters_get_dotted_names(lineage: Lineage) -> None:
    params = dict(records.flatten(lineage.student.config))
    assert params["model.encoder_dim"] == 144
    assert "model" not in params


def test_times_are_those_of_the_stage(lineage: Lineage) -> None:
    stage = dataclasses.replace(lineage.student, created_utc="2026-01-02T03:04:05+00:00", wall_s=120.5)
    assert records.end_ms(stage) == 1767323045000
    assert records.start_ms(stage) == 1767323045000 - 120_500


def test_sitting_leaves_out_what_was_made_long_before(lineage: Lineage) -> None:
    def stage(created: str, wall_s: float) -> object:
        return dataclasses.replace(lineage.data, created_utc=created, wall_s=wall_s)

    old = stage("2026-01-01T00:00:00+00:00", 5.0)
    train, export = stage("2026-01-02T10:10:00+00:00", 300.0), stage("2026-01-02T10:11:00+00:00", 30.0)
    now = records.end_ms(export) + 1000
    assert sitting_start_ms([old, train, export], now) == records.start_ms(train)
    late = now + SITTING_GAP_MS + 1
    assert sitting_start_ms([old, train, export], late) == late


def test_lists_of_figures_become_curves_and_texts_do_not_become_metrics(lineage: Lineage) -> None:
    quantizer = dataclasses.replace(
        lineage.quantizer, figures={"entropy": [5.0, 6.0], "relative_error": 0.3, "note": "x", "ok": True, "a(b)": 1}
    )
    metrics = [(metric.key, metric.value, metric.step) for metric in records.figures(quantizer)]
    measured = [row for row in metrics if not row[0].startswith("system/")]
    assert measured[1:] == [("entropy", 5.0, 0), ("entropy", 6.0, 1), ("relative_error", 0.3, 0), ("a_b_", 1.0, 0)]
    assert measured[0][0] == "wall_s"


def test_what_a_stage_took_of_the_machine(lineage: Lineage) -> None:
    metrics = {metric.key: metric.value for metric in records.figures(lineage.student)}
    assert 0 < metrics["system/process_cpu_seconds"] < 1e5
    assert 20 < metrics["system/process_peak_memory_megabytes"] < 1e5
    # Artifacts of earlier versions do not say.
    earlier = dataclasses.replace(lineage.student, usage={})
    assert not any(metric.key.startswith("system/") for metric in records.figures(earlier))


def test_an_interval_becomes_its_two_bounds(lineage: Lineage) -> None:
    report = dataclasses.replace(lineage.wer_report, figures={"rows": {"greedy": {"wer_interval_95": [0.1, 0.2]}}})
    metrics = {metric.key: metric.value for metric in records.figures(report)}
    assert metrics["rows.greedy.wer_interval_95.low"] == 0.1
    assert metrics["rows.greedy.wer_interval_95.high"] == 0.2


def test_history_is_spread_over_the_stage(lineage: Lineage) -> None:
    student = dataclasses.replace(lineage.student, wall_s=60.0)
    loss = [metric for metric in records.history(student) if metric.key == "loss"]
    assert [metric.step for metric in loss] == [20, 40, 60, 80, 100, 120]
    assert loss[-1].timestamp == records.end_ms(student)
    assert loss[0].timestamp == records.start_ms(student) + 10_000
    assert {metric.key for metric in records.history(student)} == {"epoch", "loss", "ctc_loss", "learning_rate"}


def test_splits_are_dataset_inputs_with_the_digest_that_reports_compare_by(lineage: Lineage) -> None:
    inputs = {item.dataset.name: item for item in records.dataset_inputs(lineage.data)}
    assert set(inputs) == {"asterisk train", "asterisk test"}
    assert inputs["asterisk test"].dataset.digest == "a" * 32
    assert inputs["asterisk test"].tags[0].value == "evaluation"
    assert json.loads(inputs["asterisk train"].dataset.profile) == {"num_cuts": 400, "hours": 0.3}


def test_other_stages_name_their_parents(lineage: Lineage) -> None:
    inputs = {item.dataset.name: item.dataset.digest for item in records.dataset_inputs(lineage.wer_report)}
    assert inputs["student-checkpoint"] == lineage.student.id[:32]
    assert set(inputs) == {"cut-manifest", "student-checkpoint", "teacher-embeddings"}


def test_tags_identify_the_artifact(lineage: Lineage, tmp_path: Path) -> None:
    tags = records.identity_tags(lineage.bundle)
    assert tags[records.TAG_ID] == lineage.bundle.id
    assert tags["mvqkd.parent.student-checkpoint"] == lineage.student.id
    assert tags["mvqkd.uri"] == lineage.bundle.path.as_uri()
    assert all(isinstance(value, str) for value in tags.values())
    assert records.source_tags(dataclasses.replace(lineage.bundle, git_sha="abc"))[records.TAG_GIT_SHA] == "abc"


def test_rows_with_steps_become_curves(lineage: Lineage) -> None:
    rows = [{"phase": 1, "step": 50, "relative_error": 0.5}, {"phase": 2, "step": 50, "relative_error": 0.4}]
    quantizer = dataclasses.replace(lineage.quantizer, figures={"error_curve": [*rows, {"no": "step"}, "text"]})
    curve = [metric for metric in records.figures(quantizer) if metric.key == "error_curve.relative_error"]
    assert [(metric.step, metric.value) for metric in curve] == [(0, 0.5), (1, 0.4)]


def test_names_that_lead_elsewhere_are_made_harmless(lineage: Lineage) -> None:
    odd = {"../../etc": 1.0, "a/../b": 2.0, "rows": {"x\n(y)": {"wer": 0.5}}}
    named = dataclasses.replace(lineage.wer_report, figures=odd, usage={})
    names = [metric.key for metric in records.figures(named)]
    assert names == ["wall_s", "_/_/etc", "a/_/b", "rows.x__y_.wer"]
    tags = records.identity_tags(dataclasses.replace(lineage.data, facts={"../x": "two\nlines", "y": {"a": 1}}))
    assert tags["fact._/x"] == "two lines"


def test_versions_and_the_section_s_digest_are_tags(lineage: Lineage) -> None:
    tags = records.identity_tags(lineage.student, "s3://bucket/student")
    assert tags["mvqkd.uri"] == "s3://bucket/student"
    assert tags["mvqkd.config_sha256"] == lineage.student.config_hash
    assert tags["mvqkd.version.torch"] == lineage.student.versions["torch"]


def test_only_small_reports_at_the_top_are_copied(lineage: Lineage) -> None:
    def listed(name: str, size: int) -> bool:
        files = {name: {"sha256": "", "size_bytes": size}}
        return records.is_report(dataclasses.replace(lineage.bundle, files=files), name)

    assert listed("report.json", 10)
    assert not listed("report.json", records.MAX_REPORT_BYTES + 1)
    assert not listed("../../etc/passwd.json", 10)
    assert not listed("offline/config.json", 10)
    assert not listed("encoder.onnx", 10)
    assert records.is_report(lineage.bundle, "artifact.json")
