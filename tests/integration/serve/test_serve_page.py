"""The page in headless Chromium: a file, a fake microphone, errors, a server that goes away, the keyboard."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mvqkd.artifacts import Artifact
from mvqkd.testing.tones import say, silence
from tests.browser import CHROMIUM, Page, browsing
from tests.serving import Server, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

SAID = "ABCA DAB CAD BAD DAC"
STATE = "document.documentElement.dataset.state"


def words(model: str) -> str:
    """JavaScript for the lines of a model's panel."""
    return (
        f"[...document.querySelectorAll('[data-model={model}] .words p > span:last-child')].map((x) => x.textContent)"
    )


def figure(model: str, name: str) -> str:
    return f"document.querySelector('[data-model={model}] [data-figure={name}]').textContent"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 kHz; the microphone's own rate is another, so that the server resamples."""
    file = tmp_path_factory.mktemp("audio") / "said.wav"
    soundfile.write(file, np.concatenate([silence(0.5), say(SAID), silence(20)]), 16_000, subtype="PCM_16")
    return file


@pytest.fixture
def own_server(bundle: Artifact, other_bundle: Artifact, tmp_path: Path) -> Iterator[Server]:
    with serving(bundle.path, tmp_path / "server", "--challenger", str(other_bundle.path)) as running:
        yield running


@pytest.fixture
def page(own_server: Server, recording: Path, tmp_path: Path) -> Iterator[Page]:
    with browsing(tmp_path / "profile", recording) as opened:
        opened.open(own_server.url)
        opened.wait_for(f"{STATE} === 'idle'")
        yield opened


def test_the_microphone_is_read_word_by_word(page: Page, own_server: Server) -> None:
    page.ask("document.getElementById('record').click()")
    page.wait_for(f"{STATE} === 'listening'")
    assert page.ask("document.getElementById('record').getAttribute('aria-pressed')") == "true"
    # Words are there before the speaker has said all of them.
    page.wait_for(f"{words('champion')}.join(' ').startsWith('ABCA')")
    assert own_server.metric("mvqkd_streams_open") == 2
    page.wait_for(f"{words('champion')}.join(' ') === '{SAID}'")
    page.ask("document.getElementById('record').click()")
    page.wait_for(f"{STATE} === 'idle'")
    assert page.ask(words("champion")) == [SAID]
    assert page.ask(words("challenger")) == [SAID.lower()]
    assert page.ask(figure("champion", "lag")).endswith((" ms", " s"))
    assert page.ask(figure("champion", "first")) != "–"
    # Told to screen readers once it will not change.
    assert page.ask("document.getElementById('announce').textContent") == SAID
    # All words differ, in case.
    assert page.ask("document.querySelectorAll('[data-model=champion] mark').length") == len(SAID.split())
    assert page.complaints == []
    own_server.wait_for(lambda: own_server.metric("mvqkd_streams_open") == 0)


def test_files_good_and_bad(page: Page, recording: Path, tmp_path: Path) -> None:
    page.choose_file("#file", recording)
    page.wait_for(f"{STATE} === 'idle' && document.getElementById('status-text').textContent.startsWith('Done')")
    assert page.ask(words("champion")) == [SAID]
    assert page.ask(figure("champion", "audio")).startswith(f"{soundfile.info(recording).duration:.0f}"[:2])
    assert page.complaints == []

    (tmp_path / "note.txt").write_text("not audio")
    page.choose_file("#file", tmp_path / "note.txt")
    page.wait_for(f"{STATE} === 'error'")
    assert "note.txt is not audio" in page.ask("document.getElementById('status-text').textContent")
    assert page.ask(words("champion")) == []

    # AIFF is not known to browsers, but to the server.
    samples, rate = soundfile.read(recording)
    soundfile.write(tmp_path / "said.aiff", samples, rate)
    page.choose_file("#file", tmp_path / "said.aiff")
    page.wait_for(f"{STATE} === 'idle'")
    assert page.ask(words("champion")) == [SAID]


def test_a_server_that_goes_away_is_told(page: Page, own_server: Server) -> None:
    page.ask("document.getElementById('record').click()")
    page.wait_for(f"{words('champion')}.length > 0")
    own_server.process.send_signal(signal.SIGKILL)
    page.wait_for(f"{STATE} === 'disconnected'")
    assert "lost" in page.ask("document.getElementById('status-text').textContent")
    # What was heard stays readable.
    assert page.ask(words("champion"))


def test_stopping_at_once_ends_the_stream(page: Page, own_server: Server) -> None:
    """Before the connection is open: nothing may wait for words that will never come."""
    page.ask(
        "new Promise((done) => { const button = document.getElementById('record');"
        f" new MutationObserver(() => {{ if ({STATE} === 'listening') {{ button.click(); done(); }} }})"
        ".observe(document.documentElement, { attributes: true }); button.click(); })"
    )
    page.wait_for(f"{STATE} === 'idle'")
    assert page.ask("document.querySelector('[data-model=champion] .words').innerText") == "No words were recognised."
    assert page.complaints == []
    own_server.wait_for(lambda: own_server.metric("mvqkd_streams_open") == 0)


def test_keyboard_dark_and_narrow(page: Page) -> None:
    reached = []
    for _ in range(7):
        page.press("Tab", 9)
        reached.append(page.ask("document.activeElement.id || document.activeElement.className"))
    assert reached[:3] == ["skip", "record", "choose"]
    assert "words" in reached
    page.ask("document.getElementById('record').focus()")
    page.press("Enter", 13)
    page.wait_for(f"{STATE} === 'listening'")
    page.press("Enter", 13)
    page.wait_for(f"{STATE} === 'idle'")
    for scheme in ("light", "dark"):
        page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for selector in (
            "h1",
            ".status",
            "#record",
            "#choose",
            ".bundle",
            ".words .at, .words .empty",
            "dt",
            "footer a",
        ):
            assert page.ask(_CONTRAST.replace("SELECTOR", selector)) >= 4.5, (scheme, selector)
    page.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.ask("document.documentElement.scrollWidth") == 360
    assert page.ask("document.getElementById('record').getBoundingClientRect().height") >= 44


# WCAG's contrast ratio between an element's colour and the nearest opaque background behind it.
_CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let node = document.querySelector("SELECTOR");
  const ink = luminance(parse(getComputedStyle(node).color));
  let ground = [0, 0, 0, 0];
  while (node && (ground[3] ?? 1) === 0) {
    ground = parse(getComputedStyle(node).backgroundColor);
    node = node.parentElement;
  }
  const back = luminance(ground);
  return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
})()"""
