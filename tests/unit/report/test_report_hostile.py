"""Whatever artifacts say is shown as text, and a page stays small whatever there is of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mvqkd.artifacts import Artifact
from mvqkd.report.page import run_report
from tests.unit.report.made_run import Made, make_bundle, make_student, write_artifact
from tests.unit.report.parsed import Element, attribute_values, parse

EVIL = (
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" \'><svg/onload=alert(1)>',
    "{{ 7 * 7 }}{% include 'x' %}",
    "\u202eevil\u2066\u200b\x07\u2028",
    "javascript:alert(1)",
    "<!-- --><![CDATA[ ]]>&lt;b&gt;&#0;",
)
ALL = " ".join(EVIL)
MAX_BYTES = 2_000_000


def rewritten(root: Path, name: str, artifact: Artifact, files: dict[str, Any], **changes: Any) -> Artifact:
    """A copy of an artifact with other JSON files, facts and figures."""
    texts = {
        file: (artifact.path / file).read_text(encoding="utf-8")
        for file in artifact.files
        if file.endswith((".json", ".jsonl"))
    }
    texts |= {file: json.dumps(value) for file, value in files.items()}
    made = write_artifact(
        root / name,
        artifact.kind,
        artifact.stage,
        [],
        texts,
        facts=changes.get("facts", artifact.facts),
        figures=changes.get("figures", artifact.figures),
        config=changes.get("config"),
    )
    return dataclasses.replace(made, parents=artifact.parents)


@pytest.fixture(scope="module")
def hostile(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Element:
    """A page of artifacts in which every text is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    student = make_student(root, made)
    ids = [f"{number} {(*EVIL, ALL)[number % 8]}" for number in range(made.data.facts["splits"]["test"])]
    bundle = make_bundle(root, made, student, {("greedy", "onnxruntime"): lambda ref: f"{ALL} {ref}"}, ids=ids)
    quantizer_report = json.loads((made.quantizer.path / "report.json").read_text())
    row = {"frames": 10, "relative_error": 0.5, "variation": 1.0, "pooled": 1}
    quantizer_report |= {"findings": list(EVIL), "domains": [{"domain": text, **row} for text in EVIL]}
    data_report = json.loads((made.data.path / "report.json").read_text())
    data_report["rejected"] = {text: 1 for text in EVIL}
    data_report["splits"] = {ALL: data_report["splits"]["test"]}
    data_report["oov"] = {ALL: {"word_rate": 0.1, "most_frequent": list(EVIL)}}
    data_report["tokens"] = {"type": ALL, "vocab_size": 3}
    data = rewritten(
        root,
        "data",
        made.data,
        {"report.json": data_report, "rejected.jsonl": dict.fromkeys(("id", "reason", "expected", "got"), ALL)},
        facts={**made.data.facts, "source": ALL, "licence": ALL, "hours": {ALL: 1.0}},
    )
    check = {"name": ALL, "figure": ALL, "threshold": ALL, "verdict": "fail", "why": ALL}
    compared = {"challenger_wer": 0.1, "champion_wer": 0.2, "difference": -0.1, "interval_95": ["nan", "nan"]}
    part = {"kind": ALL, "name": ALL, "num_utterances": 1, "num_words": 1, "p_worse": None}
    decision = write_artifact(
        root / "decision",
        "promotion-decision",
        "gate",
        [bundle],
        {
            "decision.json": json.dumps(
                {
                    "decision": "reject",
                    "reason": ALL,
                    "checks": [check],
                    "bundle_id": bundle.id,
                    "comparison": {ALL: compared},
                    "slices": [{**part, "challenger_wer": 0.1, "champion_wer": 0.2, "difference": -0.1}],
                }
            )
        },
        facts={"decision": "reject", "bundle_id": bundle.id, "champion_id": ALL},
        figures={},
        config={ALL: ALL, "nested": {ALL: [ALL]}},
    )
    promotion = write_artifact(
        root / "promotion", "promotion", "promote", [bundle], {}, facts={},
        figures={"model_name": ALL, "model_version": ALL, "mlflow_run_id": ALL},
    )  # fmt: skip
    embeddings = dataclasses.replace(made.embeddings, facts={**made.embeddings.facts, "teacher_id": ALL})
    quantizer = rewritten(root, "quantizer", made.quantizer, {"report.json": quantizer_report})
    artifacts = (data, embeddings, quantizer, made.indexes, student, bundle, decision, promotion)
    by_kind = {
        artifact.kind: dataclasses.replace(
            artifact, git_sha=ALL, versions={ALL: ALL}, created_utc=EVIL[0], stage=ALL, config=decision.config
        )
        for artifact in artifacts
    }
    return parse(run_report(by_kind, audio=3))


def test_nothing_becomes_markup(hostile: Element) -> None:
    allowed = {
        *("root", "html", "head", "meta", "title", "style", "body", "a", "header", "div", "strong", "span", "code"),
        *("nav", "ul", "ol", "li", "main", "section", "h1", "h2", "h3", "p", "dl", "dt", "dd", "aside", "footer"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "bdi", "del", "ins", "details", "summary", "figure"),
        *("figcaption", "svg", "line", "text", "rect", "path", "circle", "defs", "marker", "audio"),
    }
    assert {element.tag for element in hostile.all()} <= allowed
    for tag, name, value in attribute_values(hostile):
        assert not name.startswith("on"), (tag, name)
        assert name != "style", (tag, name)
        if name == "href":
            assert str(value).startswith("#")
        if name == "src":
            assert str(value).startswith("data:audio/flac;base64,")


def test_every_attack_is_readable_in_its_place(hostile: Element) -> None:
    for name in ("verdict", "gate", "worst", "confusions", "quantizer", "data", "lineage", "environment"):
        text = hostile.by_id(name).text
        assert "<script>alert(1)</script>" in text, name
        if name not in ("confusions", "quantizer"):
            assert "{{ 7 * 7 }}" in text, name
    assert "49" not in hostile.by_id("verdict").all("p")[0].text


def test_no_control_character_is_left(hostile: Element) -> None:
    strings = [hostile.text, *(str(value) for _, _, value in attribute_values(hostile))]
    for text in strings:
        assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\u200e\u200f\x07\u2028")
    assert "⟨U+202E⟩evil⟨U+2066⟩⟨U+200B⟩⟨U+0007⟩⟨U+2028⟩" in hostile.text
    # What comes from outside stands in elements that keep its direction to themselves.
    for word in hostile.by_id("worst").all("del", "ins"):
        if "How to read it" not in word.text and word.all("span"):
            assert word.all("bdi")


def test_a_huge_run_stays_below_two_megabytes(made: Made, tmp_path: Path) -> None:
    student = make_student(tmp_path, made, rows=5_000)
    words = " ".join(f"W{number}" for number in range(1500))
    bundle = make_bundle(tmp_path, made, student, {("greedy", "onnxruntime"): lambda ref: f"{ref} {words}"})
    report = json.loads((bundle.path / "wer.json").read_text(encoding="utf-8"))
    one = report["utterances"][0]
    report["utterances"] = [{**one, "id": f"utterance-{number}"} for number in range(40)]
    report["num_utterances"], report["num_words"] = 40, 40 * len(one["ref"].split())
    inserted = 40 * 1500
    report["rows"][0] |= {"words": report["num_words"], "ins": inserted, "wer": inserted / report["num_words"]}
    quantizer_report = json.loads((made.quantizer.path / "report.json").read_text())
    quantizer_report |= {
        "num_codebooks": 64,
        "codebook_size": 256,
        "entropy": [7.0] * 64,
        "largest_share": [0.1] * 64,
        "entry_counts": [list(range(256))] * 64,
        "domains": [
            {"domain": f"{'long ' * 50}{number}", "frames": 10, "relative_error": 0.5, "variation": 1.0, "pooled": 1}
            for number in range(5000)
        ],
    }
    checks = [
        {"name": f"check {number}", "figure": 0.1, "threshold": 0.2, "verdict": "pass", "why": "because " * 20}
        for number in range(3000)
    ]
    part = {"kind": "speaker", "num_utterances": 1, "num_words": 9, "challenger_wer": 0.1, "champion_wer": 0.2}
    slices = [{**part, "name": f"s{number}", "difference": -0.1, "p_worse": 0.5} for number in range(5000)]
    record = {"decision": "promote", "reason": "", "checks": checks, "bundle_id": bundle.id, "slices": slices}
    decision = write_artifact(
        tmp_path / "d", "promotion-decision", "gate", [], {"decision.json": json.dumps(record)}, facts={}, figures={}
    )
    files = {"rejected.jsonl": "".join(json.dumps({"id": "x" * 5000, "reason": "r"}) + "\n" for _ in range(2000))}
    data = write_artifact(
        tmp_path / "huge", "cut-manifest", "prepare-data", [],
        {"report.json": (made.data.path / "report.json").read_text(), **files}, facts=made.data.facts, figures={},
        config={f"field_{number}": "v" * 2000 for number in range(100)},
    )  # fmt: skip
    artifacts = {
        "cut-manifest": data,
        "quantizer": rewritten(tmp_path, "q", made.quantizer, {"report.json": quantizer_report}),
        "student-checkpoint": student,
        "onnx-bundle": rewritten(tmp_path, "big", bundle, {"wer.json": report}),
        "promotion-decision": decision,
    }
    page = run_report(artifacts, audio=0)
    assert len(page.encode()) < MAX_BYTES
    text = parse(page).text
    assert "and 2800 more checks" in text
    assert "worst 40 of 5000" in text
    assert "more words" in text
    assert "and 4988 more." in text
