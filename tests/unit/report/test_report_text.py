"""Text and numbers as the page shows them."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from mvqkd.report.text import count, duration, figure, interval, moment, percent, points, prose, size, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("café, naïve, שלום, 日本", "café, naïve, שלום, 日本"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\u2066x\u2069", "⟨U+2066⟩x⟨U+2069⟩"),
        ("zero\u200bwidth", "zero⟨U+200B⟩width"),
        ("bell\x07", "bell⟨U+0007⟩"),
        ("half \ud83d", "half ⟨U+D83D⟩"),
        ("line\u2028break", "line⟨U+2028⟩break"),
        # Persian and Devanagari are written with these.
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    visible(text).encode("utf-8")


def test_markup_and_numbers_pass() -> None:
    assert visible(Markup("<b>\u202e</b>")) == "<b>\u202e</b>"
    assert visible(3) == 3


def test_commands_in_a_sentence_become_code_and_nothing_else_becomes_markup() -> None:
    assert prose("run `mvqkd gate` <now>") == "run <code>mvqkd gate</code> &lt;now&gt;"
    assert prose("`<b>`") == "<code>&lt;b&gt;</code>"
    assert prose("one ` only") == "one  only"
    assert prose("`\u202e`") == "<code>⟨U+202E⟩</code>"


def test_numbers() -> None:
    assert percent(0.44493) == "44.5\u00a0%"
    assert interval(0.338, 0.5587) == "33.8 to 55.9\u00a0%"
    assert points(-0.0617) == "−6.17"
    assert points(0.004) == "+0.40"
    assert points(-0.00001) == "0.00"
    assert count(1, "word") == "1\u00a0word"
    assert count(1204, "word") == "1,204\u00a0words"
    assert size(999) == "999\u00a0B"
    assert size(9_706_925) == "9.71\u00a0MB"
    assert size(5_000_000_000) == "5\u00a0GB"
    assert duration(6.62) == "6.6\u00a0s"
    assert duration(59.99) == "60.0\u00a0s"
    assert duration(424) == "7\u00a0min\u00a004\u00a0s"
    assert duration(2100) == "35\u00a0min"
    assert duration(12_000) == "3\u00a0h\u00a020\u00a0min"
    assert moment("2026-11-23T17:03:25+00:00") == "2026-11-23 17:03\u00a0UTC"
    assert moment("") == ""


def test_figures_of_a_check() -> None:
    assert figure(None) == "–"
    assert figure(0.44493392) == "0.4449"
    assert figure(-0.0617) == "−0.0617"
    assert figure(37_851_337) == "37,851,337"
    assert figure(True) == "yes"
    assert figure("b337e423" * 8) == "b337e423b337…"
    assert figure("finite, 0 or more") == "finite, 0 or more"
    assert len(figure("z" * 5000)) == 300
