"""The decision's page shows every check and neutralises what an artifact says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mvqkd.artifacts import Artifact, PartialArtifact
from mvqkd.config import GateConfig
from mvqkd.promotion.files import DECISION_FILE
from mvqkd.promotion.page import decision_page
from mvqkd.promotion.stage import gate
from mvqkd.testing.lineage import make_lineage


class Page(HTMLParser):
    """Tags and texts; fails on a reference to anything outside the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href"}, "the page needs no network"

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture
def decision(tmp_path: Path) -> Artifact:
    lineage = make_lineage(tmp_path, wer=0.6)
    paths = {"bundle": lineage.bundle.path, "wer_report": lineage.wer_report.path, "quantizer": lineage.quantizer.path}
    return gate(GateConfig(max_wer=0.5), out=tmp_path / "decision", **paths)


def test_every_check_is_a_row(decision: Artifact) -> None:
    page = Page(decision_page(decision))
    record = json.loads((decision.path / DECISION_FILE).read_text())
    assert page.texts.index("reject") < page.texts.index(record["reason"])
    for check in record["checks"]:
        assert check["name"] in page.texts
        assert check["why"] in page.texts
    assert page.texts.count("fail") == 1
    assert decision.id in page.texts


def test_figures_against_the_champion_and_slices_are_shown(tmp_path: Path) -> None:
    champion = make_lineage(tmp_path / "old", wer=0.30, variant="old")
    lineage = make_lineage(tmp_path / "new", wer=0.25, variant="new", num_speakers=3)
    paths = {"bundle": lineage.bundle.path, "wer_report": lineage.wer_report.path, "quantizer": lineage.quantizer.path}
    page = Page(decision_page(gate(GateConfig(), champion=champion.bundle.path, out=tmp_path / "decision", **paths)))
    assert "Against the champion on test" in page.texts
    assert "25.00 %, 30.00 %" in page.texts
    assert any(text.startswith("-5.00 points, -") for text in page.texts)
    assert "1000 words in 112 utterances; 112 utterances, 10000 times resampled with seed 0" in page.texts
    assert [text for text in page.texts if text.startswith("speaker ")] == [f"speaker speaker-0{i}" for i in range(3)]


def test_a_decision_of_an_older_version_is_shown(decision: Artifact, tmp_path: Path) -> None:
    record = json.loads((decision.path / DECISION_FILE).read_text())
    del record["comparison"], record["slices"]
    partial = PartialArtifact(tmp_path / "older", decision.kind, stage="gate", config={})
    (partial.path / DECISION_FILE).write_text(json.dumps(record))
    assert Page(decision_page(partial.commit())).texts.count("fail") == 1


def test_markup_in_a_record_stays_text(decision: Artifact, tmp_path: Path) -> None:
    record = json.loads((decision.path / DECISION_FILE).read_text())
    record["reason"] = "<script>alert(1)</script>"
    record["checks"][0]["why"] = '"><img src=x onerror=alert(1)>'
    partial = PartialArtifact(tmp_path / "other", decision.kind, stage="gate", config={})
    (partial.path / DECISION_FILE).write_text(json.dumps(record))
    page = Page(decision_page(partial.commit()))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "<script>alert(1)</script>" in page.texts
