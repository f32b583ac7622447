"""Words from tokens, subtitles from words, endpoints."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.decode.endpoint import EndpointRules
from mvqkd.decode.subtitles import LINE_CHARACTERS, MAX_CUE_S, MAX_LINES, PAUSE_S, Cue, make_cues, render
from mvqkd.decode.transcript import Segment, Transcript, Word


def segment(tokens: str, times_s: list[float], end_s: float = 10.0, start_s: float = 0.0) -> Segment:
    parts = tuple(tokens.split())
    text = " ".join("".join(parts).replace("▁", " ").split())
    return Segment(text, parts, tuple(times_s), start_s, end_s)


def test_words_of_characters_and_of_pieces() -> None:
    characters = segment("▁ H I ▁ ▁ Y O U ▁", [0.0, 0.4, 0.48, 0.6, 0.64, 1.0, 1.2, 1.32, 1.6])
    assert characters.words() == [Word("HI", 0.4, 0.72), Word("YOU", 1.0, pytest.approx(1.56))]
    pieces = segment("▁HEL LO ▁THERE ▁ YOU", [0.4, 0.6, 0.68, 1.0, 1.04])
    assert pieces.words() == [Word("HELLO", 0.4, 0.68), Word("THERE", 0.68, 0.92), Word("YOU", 1.04, 1.28)]
    assert segment("LO ▁A", [0.0, 0.04]).words()[0].text == "LO", "a segment may begin within a word"


def test_a_word_ends_with_its_segment_and_lasts_a_frame_at_least() -> None:
    assert segment("▁A", [1.0], end_s=1.1).words() == [Word("A", 1.0, 1.1)]
    assert segment("▁A", [1.0], end_s=0.9).words() == [Word("A", 1.0, 1.04)]
    assert segment("", []).words() == []


def test_transcript_joins_its_segments() -> None:
    silent = Segment("", (), (), 1.0, 2.0)
    whole = Transcript("a.wav", 4.0, (segment("▁A B", [0.2, 0.4], 1.0), silent, segment("C", [2.2], 4.0, 2.0)), 0.02)
    assert whole.text == "AB C"
    assert whole.rtf == 0.005
    row = whole.as_json()
    assert row["tokens"] == ["▁A", "B", "C"]
    assert row["times_s"] == [0.2, 0.4, 2.2]
    assert [word["word"] for word in row["words"]] == ["AB", "C"]
    assert row["words"][0] == {"word": "AB", "start_s": 0.2, "end_s": 0.64}
    assert row["segments"][2] == {"text": "C", "start_s": 2.0, "end_s": 4.0}
    assert Transcript("empty.wav", 0.0, ()).rtf == 0.0


WORDS = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0.04, 3.0), st.floats(0.0, 2.0)), max_size=40
)  # letters, duration, pause before


@settings(max_examples=300, deadline=None)
@given(shapes=WORDS)
def test_cues_hold_every_word_once_and_can_be_read(shapes: list[tuple[int, float, float]]) -> None:
    words, now_s = [], 0.0
    for letters, duration_s, pause_s in shapes:
        words.append(Word("W" * letters, now_s + pause_s, now_s + pause_s + duration_s))
        now_s = words[-1].end_s
    cues = make_cues(words)
    assert " ".join(line for cue in cues for line in cue.lines).split() == [word.text for word in words]
    starts = {word.start_s for word in words}
    for cue in cues:
        assert cue.start_s in starts
        assert len(cue.lines) <= MAX_LINES
        assert cue.end_s - cue.start_s <= MAX_CUE_S + 1e-6
        assert all(len(line) <= LINE_CHARACTERS or " " not in line for line in cue.lines)
    for one, other in itertools.pairwise(cues):
        assert one.end_s <= other.start_s


def spoken(text: str, pauses_s: dict[int, float] | None = None, word_s: float = 0.3) -> list[Word]:
    words, now_s = [], 0.0
    for index, word in enumerate(text.split()):
        now_s += (pauses_s or {}).get(index, 0.05)
        words.append(Word(word, round(now_s, 3), round(now_s + word_s, 3)))
        now_s += word_s
    return words


def test_cues_end_at_pauses() -> None:
    cues = make_cues(spoken("ONE TWO THREE FOUR", {2: PAUSE_S}))
    assert [cue.lines for cue in cues] == [("ONE TWO",), ("THREE FOUR",)]
    # Too much for one cue: it is cut at the longest pause of its second half, not where it overflows.
    text = " ".join(["ABCDEFGHIJ"] * 9)
    cues = make_cues(spoken(text, {5: 0.3}))
    assert [" ".join(cue.lines).count("A") for cue in cues] == [5, 4]
    assert cues[0].lines == ("ABCDEFGHIJ ABCDEFGHIJ ABCDEFGHIJ", "ABCDEFGHIJ ABCDEFGHIJ"), "lines of similar length"


def test_a_short_cue_stays_a_second_where_there_is_room() -> None:
    first, second = make_cues([Word("YES", 1.0, 1.2), Word("NO", 2.1, 2.2)])
    assert (first.start_s, first.end_s) == (1.0, 2.0)
    assert make_cues([Word("YES", 1.0, 1.2), Word("NO", 1.2 + PAUSE_S - 0.3, 2.2)])[0].lines == ("YES NO",)
    assert second.end_s == pytest.approx(3.1)


def test_files_are_as_players_read_them() -> None:
    cues = [Cue(0.0, 1.5, ("A < B & C",)), Cue(3661.0006, 3662.9996, ("TWO", "LINES"))]
    assert render(cues, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nA < B & C\n\n2\n01:01:01,001 --> 01:01:03,000\nTWO\nLINES\n"
    )
    assert render(cues, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nA &lt; B &amp; C\n\n01:01:01.001 --> 01:01:03.000\nTWO\nLINES\n"
    )
    assert render([], "srt") == ""
    assert re.fullmatch(r"WEBVTT\n+", render([], "vtt"))


@pytest.mark.parametrize(
    ("has_words", "silence_s", "segment_s", "ends"),
    [
        (False, 2.36, 2.36, False),
        (False, 2.4, 2.4, True),
        (True, 1.16, 8.0, False),
        (True, 1.2, 8.0, True),
        (True, 0.28, 21.0, False),
        (True, 0.32, 19.9, False),
        (True, 0.32, 20.0, True),
    ],
)
def test_endpoint_rules(has_words: bool, silence_s: float, segment_s: float, ends: bool) -> None:
    rules = EndpointRules()
    assert rules.reached(has_words=has_words, trailing_silence_s=silence_s, segment_s=segment_s) is ends
