"""What a version says of itself: short enough, in order, and nothing of what others wrote is obeyed."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from mvqkd.adapters.lineage_record import Delivery, dvc_ids, lineage, params, params_digest
from mvqkd.adapters.registry_page import MAX_DESCRIPTION, description, reviewed, version_tags
from mvqkd.artifacts import Artifact
from mvqkd.config import PromoteConfig
from mvqkd.testing.lineage import make_lineage
from tests.judging import judge


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Delivery:
    made = make_lineage(tmp_path_factory.mktemp("page"), wer=0.25)
    stages = (made.data, made.teacher_embeddings, made.quantizer, made.codebook_indexes, made.student)
    artifacts = (*stages, made.wer_report, made.bundle, judge(made))
    return Delivery(artifacts, dvc_ids(artifacts), PromoteConfig())


def changed(delivery: Delivery, kind: str, **changes: Any) -> Delivery:
    artifacts = tuple(
        dataclasses.replace(artifact, **changes) if artifact.kind == kind else artifact
        for artifact in delivery.artifacts
    )
    return dataclasses.replace(delivery, artifacts=artifacts)


def decided(delivery: Delivery, tmp_path: Path, checks: list[dict[str, Any]], **figures: Any) -> Delivery:
    """The delivery with another decision.json."""
    (tmp_path / "decision.json").write_text(json.dumps({"checks": checks}))
    decision = delivery.decision
    return changed(delivery, decision.kind, path=tmp_path, figures={**decision.figures, **figures})


def test_a_reviewer_reads_from_the_verdict_to_the_commands(delivery: Delivery) -> None:
    text = description(delivery, "student", 7)
    assert text.startswith("PROMOTE, WER 25.00 %: first champion")
    order = ["| this version", "#### Checks", "#### Made from", "#### What next", "#### Artifacts"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "mvqkd approve models:/student/7 --reason WHY" in text
    assert "Teacher: whisper-tiny.en-0123456789ab, layer 3, licence not stated" in text
    assert "8 bytes a teacher frame, relative reconstruction error 0.310" in text
    assert "1.23 M parameters" in text
    assert f"`{delivery.bundle.short_id}`" in text
    assert "models:/student/VERSION" in description(delivery, "student")


def test_failed_checks_come_first_and_those_that_did_not_apply_are_named(delivery: Delivery, tmp_path: Path) -> None:
    checks = [
        {"name": "first", "verdict": "pass", "why": "fine"},
        {"name": "second", "verdict": "skip", "why": "no bound"},
        {"name": "third", "verdict": "fail", "why": "bad"},
    ]
    text = description(decided(delivery, tmp_path, checks), "student")
    table = text.partition("#### Checks")[2]
    assert table.index("third") < table.index("first")
    assert "Did not apply: second." in text
    assert "no bound" not in text


def test_many_checks_are_counted_and_what_matters_still_fits(delivery: Delivery, tmp_path: Path) -> None:
    checks = [{"name": f"slice {i}", "verdict": "pass", "why": "within " + "x" * 60} for i in range(200)]
    checks.append({"name": "worst", "verdict": "fail", "why": "bad"})
    text = description(decided(delivery, tmp_path, checks), "student")
    assert len(text) <= MAX_DESCRIPTION
    assert "worst" in text
    assert " more in decision.json of the run." in text
    assert "#### What next" in text


def test_no_text_of_others_is_obeyed(delivery: Delivery, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)> | [x](javascript:y)\n# heading `"
    made = decided(delivery, tmp_path, [{"name": bad, "verdict": "fail", "why": bad}], reason=bad)
    made = changed(made, "cut-manifest", facts={**made.required("cut-manifest").facts, "source": bad, "licence": bad})
    text = description(made, "student")
    assert "<img" not in text
    assert re.search(r"(?<!\\)\]\(javascript", text) is None
    assert "\n# heading" not in text
    tags = version_tags(made)
    assert not any("\n" in value for value in tags.values())


def test_nan_and_missing_figures_do_not_break_it(delivery: Delivery, tmp_path: Path) -> None:
    decision = delivery.decision
    bare = {"decision": "reject", "reason": "no WER"}
    made = decided(delivery, tmp_path, [])
    made = changed(made, decision.kind, figures=bare, facts={**decision.facts, "decision": "reject"})
    assert description(made, "student").startswith("REJECT, WER unknown: no WER")
    assert version_tags(made)["mvqkd.wer"] == "nan"


def test_a_student_without_teacher_says_so(tmp_path: Path) -> None:
    made = make_lineage(tmp_path, objective="none")
    artifacts: tuple[Artifact, ...] = (made.data, made.student, made.wer_report, made.bundle, judge(made))
    delivery = Delivery(artifacts, {}, PromoteConfig())
    assert "No teacher: the student was trained on transcripts alone" in description(delivery, "student")
    assert "mvqkd.teacher" not in version_tags(delivery)
    assert version_tags(delivery)["mvqkd.objective"] == "none"


def test_tags_find_a_version_by_what_it_was_made_from(delivery: Delivery) -> None:
    tags = version_tags(delivery)
    for kind in ("cut-manifest", "quantizer", "codebook-indexes", "student-checkpoint", "wer-report"):
        assert tags[f"mvqkd.{kind}"] == delivery.required(kind).id
    assert tags["mvqkd.dvc.codebook-indexes"] == delivery.dvc["codebook-indexes"]
    assert tags["mvqkd.params_sha256"] == params_digest(delivery)
    assert tags["mvqkd.data_licence"] == "not stated"
    assert tags["mvqkd.teacher"] == "whisper-tiny.en-0123456789ab, layer 3"
    assert all(isinstance(value, str) for value in tags.values())


def test_equal_parameters_have_equal_digests_whatever_was_decided(delivery: Delivery) -> None:
    other = changed(delivery, "promotion-decision", config={"max_wer": 0.1})
    assert params_digest(other) == params_digest(delivery)
    other = changed(delivery, "student-checkpoint", config={"objective": "none"})
    assert params_digest(other) != params_digest(delivery)
    assert list(params(delivery)) == [
        *("prepare-data", "extract-teacher", "fit-quantizer", "encode-ci", "train-student"),
        *("evaluate", "export-onnx", "gate", "promote"),
    ]
    stages = [row["stage"] for row in lineage(delivery)["stages"]]
    assert "gate" not in stages, "the same bundle may be judged again; its version stays what it is"


def test_a_review_stands_on_top_and_a_later_one_in_its_place() -> None:
    text = reviewed("PROMOTE, WER 1 %: why\n\n| table |", "rejected in entry 3 by ann: <b>")
    assert text == "REVIEW: rejected in entry 3 by ann: &lt;b&gt;\n\nPROMOTE, WER 1 %: why\n\n| table |"
    assert reviewed(text, "approved") == "REVIEW: approved\n\nPROMOTE, WER 1 %: why\n\n| table |"
    assert reviewed(text, None) == "PROMOTE, WER 1 %: why\n\n| table |"
    assert len(reviewed("x" * MAX_DESCRIPTION, "y" * 900)) == MAX_DESCRIPTION
