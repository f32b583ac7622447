"""The page of a run: what it shows, what it leaves out and why, and that nothing in it can do harm."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest

from mvqkd.artifacts import Artifact
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError
from mvqkd.report.page import run_report, write_report
from mvqkd.testing.lineage import make_lineage
from tests.unit.report.made_run import Made, Run, make_bundle, make_decision, make_run, make_student, write_artifact
from tests.unit.report.parsed import Element, attribute_values, parse

SECTIONS = [
    *("gate", "wer", "changes", "worst", "confusions", "training"),
    *("quantizer", "data", "speed", "lineage", "environment"),
]


def one_word_wrong(ref: str) -> str:
    return " ".join(["OOPS", *ref.split()[1:]])


@pytest.fixture(scope="module")
def full(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with everything, and a champion that hears an extra word everywhere."""
    root = tmp_path_factory.mktemp("full")
    return make_run(root, made, heard=one_word_wrong, champion_heard=lambda ref: f"{one_word_wrong(ref)} UH")


@pytest.fixture(scope="module")
def page(full: Run) -> str:
    assert full.champion is not None
    return run_report(full.artifacts, champion=full.champion.path, audio=2)


@pytest.fixture(scope="module")
def tree(page: str) -> Element:
    return parse(page)


def section(tree: Element, name: str) -> Element:
    return tree.by_id(name)


def test_every_section_is_there_and_filled(tree: Element) -> None:
    assert [e.attributes["id"] for e in tree.all("section")] == ["verdict", *SECTIONS]
    assert "Left out" not in tree.text


def test_verdict_first(tree: Element, full: Run) -> None:
    text = section(tree, "verdict").text
    decision = full.artifacts["promotion-decision"]
    assert decision.facts["decision"] == "promote"
    assert "Promote" in text
    assert decision.figures["reason"] in text
    main = tree.all("main")[0]
    assert main.children[0].attributes["id"] == "verdict"


def test_gate_rows_and_figures_agree_with_the_decision(tree: Element, full: Run) -> None:
    text = section(tree, "gate").text
    for check in ("test utterances", "ONNX parity", "not worse, test"):
        assert check in text
    difference = full.artifacts["promotion-decision"].figures["wer_difference"]
    shown = f"−{abs(100 * difference):.2f}"
    assert difference < 0
    assert shown in text
    # The table of WERs and the tile on top say the same.
    assert shown in section(tree, "wer").text
    assert shown in section(tree, "verdict").text


def test_wer_table_has_every_row_with_its_interval(tree: Element) -> None:
    rows = section(tree, "wer").all("tr")
    labels = [row.all("th")[0].text for row in rows if row.all("td")]
    assert labels == [
        "greedy, whole utterances, float32 of record",
        "greedy, streaming in 320 ms chunks, float32",
        "greedy, whole utterances, int8",
        "greedy, whole utterances",
        "teacher tiny-0",
    ]
    for row in rows:
        if row.all("td"):
            assert re.search(r"\d+\.\d\s%", row.text)
            assert re.search(r"\d+\.\d to \d+\.\d\s%", row.text)
    # The champion has the row of record only.
    assert sum("better" in row.text for row in rows) == 1


def test_worst_utterances_with_alignment_and_audio(tree: Element) -> None:
    items = section(tree, "worst").all("li")
    assert len(items) == 10
    assert [bool(item.all("audio")) for item in items] == [True] * 2 + [False] * 8
    for audio in section(tree, "worst").all("audio"):
        assert str(audio.attributes["src"]).startswith("data:audio/flac;base64,ZkxhQ")
        assert str(audio.attributes["aria-label"]).startswith("Recording utterance-")
    first = items[0]
    assert first.all("ins")[0].text.endswith("OOPS")
    # Challenger and champion, one below the other.
    assert [e.text for e in first.all("span") if e.attributes.get("class") == "who"] == ["challenger", "champion"]


def test_confusions_count_what_is_confused(tree: Element, made: Made) -> None:
    text = section(tree, "confusions").text
    assert f"Substitutions: {made.data.facts['splits']['test']}" in text
    assert "Deletions, words not heard: 0" in text
    assert "OOPS" in text


def test_loss_curve_has_the_chance_level(tree: Element) -> None:
    text = section(tree, "training").text
    assert "chance, ln 16 = 2.773" in text
    chart = section(tree, "training").all("svg")[0]
    (guide,) = [line for line in chart.all("line") if line.attributes["class"] == "guide"]
    assert "chance, ln 16 = 2.773" in [text.text for text in chart.all("text")]
    # The loss begins above chance and ends below it; the line lies between.
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", str(chart.all("path")[0].attributes["d"]))]
    assert heights[0] < float(str(guide.attributes["y1"])) < heights[-1]
    titles = [e.text for e in section(tree, "training").all("figcaption")]
    assert titles[0] == "Distillation loss"
    assert len(section(tree, "training").all("path")) >= 5


def test_quantizer_data_speed(tree: Element, full: Run) -> None:
    error = full.artifacts["quantizer"].figures["relative_error"]
    assert f"{error:.3f}" in section(tree, "quantizer").text
    assert "2 codebooks of 16 entries" in section(tree, "quantizer").text
    data = section(tree, "data").text
    assert "No recording was refused." in data
    assert "not in training" in data
    assert "offline/encoder" in section(tree, "speed").text
    assert "✓ holds" in section(tree, "speed").text


def test_lineage_names_every_artifact_and_edge(tree: Element, full: Run) -> None:
    graph = section(tree, "lineage").all("svg")[0]
    for artifact in full.artifacts.values():
        assert artifact.short_id in graph.text
        for kind in artifact.parents:
            assert f"{artifact.kind} from {kind}" in str(graph.attributes["aria-label"])
    edges = [path for path in graph.all("path") if "edge" in str(path.attributes.get("class"))]
    assert len(edges) == sum(len(artifact.parents) for artifact in full.artifacts.values())
    assert not any("broken" in str(edge.attributes["class"]) for edge in edges)


def test_environment_and_parameters(tree: Element, full: Run) -> None:
    text = section(tree, "environment").text
    assert full.artifacts["quantizer"].versions["torch"] in text
    assert "entropy_scale" in text
    assert str(full.artifacts["quantizer"].git_sha)[:12] in text


def test_equal_artifacts_give_equal_pages(full: Run, page: str) -> None:
    assert full.champion is not None
    assert run_report(full.artifacts, champion=full.champion.path, audio=2) == page


# Nothing comes from anywhere, nothing can run.


def test_nothing_is_loaded_and_nothing_runs(tree: Element, page: str) -> None:
    assert not {e.tag for e in tree.all()} & {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
    for tag, name, value in attribute_values(tree):
        assert not name.startswith("on"), (tag, name)
        assert name not in ("style", "srcset", "action", "formaction"), (tag, name)
        if name in ("href", "src", "poster", "data"):
            assert str(value).startswith("#" if tag == "a" else "data:audio/flac;base64,"), (tag, name, value)
    assert "http:" not in page
    assert "https:" not in page
    (style,) = tree.all("style")
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_the_policy_allows_its_own_style_sheet_only(tree: Element, page: str) -> None:
    policies = [e.attributes["content"] for e in tree.all("meta") if "Content-Security" in str(e.attributes)]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; base-uri 'none'; "
        "form-action 'none'"
    ]


def test_accessible_structure(tree: Element) -> None:
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    assert [len(tree.all(tag)) for tag in ("main", "header", "footer", "nav", "h1")] == [1] * 5
    assert len(tree.all("head")[0].all("title")) == 1
    ids = [e.attributes["id"] for e in tree.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in tree.all():
        for name in ("aria-labelledby",):
            assert element.attributes.get(name) in (None, *ids)
    for link in tree.all("a"):
        assert str(link.attributes["href"]).removeprefix("#") in ids
    levels = [int(e.tag[1]) for e in tree.all("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
    for table in tree.all("table"):
        assert table.children[0].tag == "caption"
        assert table.children[0].text
        assert all(cell.attributes.get("scope") in ("col", "row", "rowgroup") for cell in table.all("th"))
    for picture in tree.all("svg"):
        named = picture.attributes.get("role") == "img" and picture.attributes.get("aria-label")
        assert named or picture.attributes.get("aria-hidden") == "true"
    for audio in tree.all("audio"):
        assert audio.attributes.get("aria-label")


# What is missing.


def test_without_anything_downstream_of_the_data(made: Made) -> None:
    text = parse(run_report({"cut-manifest": made.data})).text
    assert "No decision yet" in text
    assert text.count("Left out") == 8
    assert "There is no onnx-bundle here; mvqkd export-onnx makes an onnx-bundle." in text
    assert "There is no student-checkpoint here" in text


def test_a_student_without_a_teacher(made: Made, tmp_path: Path) -> None:
    run = make_run(tmp_path, made, heard=str, objective="none")
    tree = parse(run_report(run.artifacts))
    assert "Left out: The student learnt without a teacher (objective none)." in tree.by_id("quantizer").text
    training = tree.by_id("training")
    assert "No distillation loss: the student learnt without a teacher" in training.text
    assert training.all("figcaption")[0].text == "Speech recognition losses"
    assert "Left out: Every utterance was heard without an error." in tree.by_id("worst").text
    assert "There is no champion to compare with." in tree.by_id("changes").text


def test_artifacts_of_older_versions_leave_sections_out(tmp_path: Path) -> None:
    """No report of data or quantizer, a history without distillation."""
    lineage = make_lineage(tmp_path)
    artifacts = (lineage.data, lineage.quantizer, lineage.student, lineage.wer_report, lineage.bundle)
    tree = parse(run_report({artifact.kind: artifact for artifact in artifacts}, audio=3))
    assert "holds no report.json" in tree.by_id("quantizer").text
    assert "holds no report.json" in tree.by_id("data").text
    assert "Speech recognition losses" in tree.by_id("training").text
    # The audio cannot be read: each utterance says so, and the page is there.
    assert tree.by_id("worst").text.count("No audio: ") == 3


def test_audio_0_reads_no_recording(full: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mvqkd.report.page as module

    monkeypatch.setattr(module, "clips", lambda *_, **__: pytest.fail("read a recording"))
    assert not parse(run_report(full.artifacts, audio=0)).all("audio")


def test_audio_has_a_budget(full: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mvqkd.report.clips as module

    whole = parse(run_report(full.artifacts, audio=5))
    sizes = [len(str(e.attributes["src"])) for e in whole.all("audio")]
    assert len(sizes) == 5
    monkeypatch.setattr(module.clips, "__kwdefaults__", {"max_bytes": sum(sizes) // 4})
    some = parse(run_report(full.artifacts, audio=5))
    assert 0 < len(some.all("audio")) < 5
    assert "left out: the page has room for" in some.text
    assert sum(len(str(e.attributes["src"])) for e in some.all("audio")) < sum(sizes) // 2


def test_missing_audio_costs_its_clip_only(made: Made, full: Run, tmp_path: Path) -> None:
    moved = made.corpus.parent / "audio"
    moved.rename(tmp_path / "elsewhere")
    try:
        tree = parse(run_report(full.artifacts, audio=2))
    finally:
        (tmp_path / "elsewhere").rename(moved)
    assert not tree.all("audio")
    assert tree.by_id("worst").text.count("No audio: cut utterance-") == 2


# What does not belong together.


def test_a_decision_about_another_bundle_decides_nothing(made: Made, full: Run, tmp_path: Path) -> None:
    student = full.artifacts["student-checkpoint"]
    other = make_bundle(tmp_path, made, student, {("greedy", "onnxruntime"): str})
    judged = full.artifacts["onnx-bundle"]
    tree = parse(run_report({**full.artifacts, "onnx-bundle": other}, audio=0))
    verdict = tree.by_id("verdict")
    assert "No decision on this bundle" in verdict.text
    assert f"The gate said “promote” of bundle {judged.short_id}" in verdict.text
    assert "Promote" not in verdict.all("h1")[0].text
    (notes,) = tree.all("aside")
    assert f"was made from onnx-bundle {judged.short_id}, but the one here is {other.short_id}" in notes.text
    assert [e for e in tree.by_id("lineage").all("path") if "broken" in str(e.attributes.get("class"))]


def test_another_champion_than_the_gates(made: Made, full: Run, tmp_path: Path) -> None:
    student = make_student(tmp_path, made, objective="none", rows=3)
    other = make_bundle(tmp_path, made, student, {("greedy", "onnxruntime"): str}, "other")
    assert full.champion is not None
    tree = parse(run_report(full.artifacts, champion=other.path, audio=0))
    (notes,) = tree.all("aside")
    assert f"The gate compared with champion {full.champion.short_id}, this page with {other.short_id}." in notes.text


def test_rejected(made: Made, tmp_path: Path) -> None:
    run = make_run(tmp_path, made, heard=lambda ref: f"{ref} UH UH", champion_heard=str)
    assert run.champion is not None
    tree = parse(run_report(run.artifacts, champion=run.champion.path, audio=0))
    heading = tree.by_id("verdict").all("h1")[0].text
    assert "Reject" in heading
    assert "fail" in tree.by_id("gate").all("tr")[1].text, "what failed comes first"
    changes = tree.by_id("changes").text
    assert "0 utterances have fewer errors" in changes
    assert "Got worse most" in changes
    assert "Got better most" not in changes


@pytest.mark.parametrize("change", ["test set", "normaliser", "references"])
def test_a_champion_that_does_not_compare(made: Made, full: Run, tmp_path: Path, change: str) -> None:
    student = make_student(tmp_path, made, objective="none", rows=3)
    honest = make_bundle(tmp_path, made, student, {("greedy", "onnxruntime"): str}, "honest")
    champion = _with_changed_report(honest, change, tmp_path)
    tree = parse(run_report(full.artifacts, champion=champion.path, audio=0))
    said = {
        "test set": "was scored on another test set",
        "normaliser": "was scored with normaliser other-1",
        "references": "has other utterances or references",
    }[change]
    assert said in tree.by_id("verdict").text
    assert said in tree.by_id("wer").text
    assert said in tree.by_id("changes").text
    assert "champion" not in tree.by_id("wer").all("thead")[0].text


def _with_changed_report(bundle: Artifact, change: str, root: Path) -> Artifact:
    report = json.loads((bundle.path / "wer.json").read_text(encoding="utf-8"))
    if change == "test set":
        report["test_set_sha256"] = "f" * 64
    elif change == "normaliser":
        report["text_normalizer"] = "other-1"
    else:
        report["utterances"][0]["ref"] += " MORE"
    files = {"wer.json": json.dumps(report), "parity.json": json.dumps({"ok": True})}
    return write_artifact(root / "changed", "onnx-bundle", "export-onnx", [], files, facts={}, figures={})


def test_a_champion_that_is_not_there(full: Run, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError):
        run_report(full.artifacts, champion=tmp_path / "nowhere")


def test_a_damaged_report_is_an_error_with_its_file(made: Made, full: Run, tmp_path: Path) -> None:
    broken = write_artifact(
        tmp_path / "q", "quantizer", "fit-quantizer", [], {"report.json": '{"domains": 3}'}, facts={}, figures={}
    )
    with pytest.raises(ArtifactCorruptError, match=r"report\.json"):
        run_report({**full.artifacts, "quantizer": broken}, audio=0)


def test_the_champion_itself(full: Run) -> None:
    bundle = full.artifacts["onnx-bundle"]
    tree = parse(run_report(full.artifacts, champion=bundle.path, audio=0))
    assert "This bundle is the champion itself." in tree.by_id("verdict").text
    assert not tree.all("aside")


def test_further_test_sets_have_tables_of_their_own(full: Run) -> None:
    report = full.artifacts["wer-report"]
    tree = parse(run_report(full.artifacts, other_reports=[report, report], audio=0))
    assert len(tree.by_id("wer").all("table")) == 3


def test_no_decision_yet(made: Made, full: Run, tmp_path: Path) -> None:
    artifacts = {kind: artifact for kind, artifact in full.artifacts.items() if kind != "promotion-decision"}
    tree = parse(run_report(artifacts, audio=0))
    assert "No decision yet" in tree.by_id("verdict").all("h1")[0].text
    assert "Left out: There is no decision yet; mvqkd gate makes one." in tree.by_id("gate").text
    decided = make_decision(tmp_path, full.artifacts)
    assert "Left out" not in parse(run_report({**artifacts, decided.kind: decided}, audio=0)).by_id("gate").text


def test_written_whole(page: str, tmp_path: Path) -> None:
    write_report(page, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == page
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.html"]
