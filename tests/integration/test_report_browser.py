"""The page in headless Chromium: wide and narrow, light and dark; what it really looks like to a reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mvqkd.report.page import run_report, write_report
from tests.browser import CHROMIUM, Page, browsing
from tests.unit.report.made_run import make_run, make_upstream

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"), pytest.mark.slow]

# Contrast of every visible text with what is painted behind it: [text, ratio] of what falls short of WCAG AA.
LOW_CONTRAST = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const painted = e.tagName === "rect" ? getComputedStyle(e).fill : getComputedStyle(e).backgroundColor;
      const [r, g, b, a = 1] = parse(painted);
      if (a > 0) return [r, g, b];
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  };
  const found = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || e.closest(".unseen, title, details:not([open]) > :not(summary)")) continue;
    const inGraph = e.closest("svg");
    const own = parse(inGraph ? style.fill : style.color);
    const box = e.closest(".graph") && e.previousElementSibling?.closest("rect");
    const ground = box ? parse(getComputedStyle(box).fill) : behind(inGraph || e);
    const [a, b] = [light(own), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (ratio < 4.5) found.push([walk.currentNode.data.trim().slice(0, 40), e.tagName, ratio.toFixed(2)]);
  }
  return {found, seen};
})()
"""
# Everything that is cut off at the right without a scroll bar of its own.
CUT_OFF = """
[...document.querySelectorAll("body *")].filter((e) => !e.closest(".wide, .unseen, .skip-link, defs, thead"))
  .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((e) => e.tagName + " " + e.textContent.slice(0, 40))
"""
# Size in CSS pixels at which the smallest text of a chart is painted.
SMALLEST_LABEL = """
Math.min(...[...document.querySelectorAll("figure svg text, .graph text")].map((e) =>
  parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getBoundingClientRect().width
    / e.ownerSVGElement.viewBox.baseVal.width))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("browser")
    made = make_upstream(root, num_utterances=40)
    run = make_run(
        root / "run",
        made,
        heard=lambda ref: " ".join(["OOPS", *ref.split()[1:], "<script>window.hacked=1</script>", "\u202eUH"]),
        champion_heard=lambda ref: f"{ref} ANTIDISESTABLISHMENTARIANISMANTIDISESTABLISHMENTARIANISM UH UH",
    )
    assert run.champion is not None
    write_report(run_report(run.artifacts, champion=run.champion.path, audio=2), root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile"), Path("/dev/null")) as page:
        yield page


def show(page: Page, file: Path, *, width: int, dark: bool) -> None:
    page.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    page.command("Emulation.setEmulatedMedia", features=features)
    page.open(file.as_uri())
    page.wait_for("document.readyState === 'complete' && document.querySelector('footer')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_text_can_be_read(browser: Page, file: Path, width: int, dark: bool) -> None:
    show(browser, file, width=width, dark=dark)
    answer: dict[str, Any] = browser.ask(LOW_CONTRAST)
    assert answer["seen"] > 300
    assert answer["found"] == []
    background = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(background.replace("rgb(", "[").replace(")", "]"))) < 150) is dark


@pytest.mark.parametrize("width", [320, 360, 700, 1280])
def test_nothing_is_cut_off(browser: Page, file: Path, width: int) -> None:
    show(browser, file, width=width, dark=False)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(CUT_OFF) == []
    assert browser.ask(SMALLEST_LABEL) >= 9


def test_a_phone_needs_no_sideways_scrolling_in_tables(browser: Page, file: Path) -> None:
    show(browser, file, width=360, dark=False)
    wide = "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth).length"
    assert browser.ask(wide) == 0


def test_the_verdict_is_seen_without_scrolling(browser: Page, file: Path) -> None:
    show(browser, file, width=360, dark=False)
    assert browser.ask("document.querySelector('h1').getBoundingClientRect().bottom") < 250


def test_recordings_can_be_played(browser: Page, file: Path) -> None:
    show(browser, file, width=1280, dark=False)
    browser.wait_for("[...document.querySelectorAll('audio')].every((a) => a.readyState > 0)")
    lengths = browser.ask("[...document.querySelectorAll('audio')].map((a) => a.error ? a.error.message : a.duration)")
    assert len(lengths) == 2
    assert all(0.5 < length < 10 for length in lengths), lengths


def test_nothing_runs_and_nothing_is_fetched(browser: Page, file: Path) -> None:
    browser.complaints.clear()
    show(browser, file, width=1280, dark=False)
    assert browser.complaints == []
    fetched = "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith('data:'))"
    assert browser.ask(fetched) == []
    assert browser.ask("typeof window.hacked") == "undefined"
    # If an attack got through the escaping, the page's own policy would stop it.
    attack = '<img src=x onerror=\\"window.hacked=1\\"><iframe src=\\"https://example.org\\"></iframe>'
    browser.ask(f'document.body.insertAdjacentHTML("beforeend", "{attack}")')
    browser.ask("new Promise((done) => setTimeout(done, 300))")
    assert browser.ask("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_the_keyboard_reaches_the_verdict_and_every_section(browser: Page, file: Path) -> None:
    show(browser, file, width=1280, dark=False)
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.className") == "skip-link"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Tab", 9)
    assert browser.ask("document.activeElement.closest('nav') !== null")
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
