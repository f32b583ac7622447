"""Subtitles from words with times: SubRip (SRT) and WebVTT.

A cue is what a person can read at a glance: at most two lines of 42 characters, at most 7 s. It ends where the speaker
pauses, and stays at least a second where the next one leaves room.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mvqkd.decode.transcript import Word

LINE_CHARACTERS = 42
MAX_LINES = 2
MAX_CUE_S = 7.0
MIN_CUE_S = 1.0
# A silence between two words from which on they stand in different cues.
PAUSE_S = 0.8


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from ``start_s`` to ``end_s``."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(words: Iterable[Word]) -> list[Cue]:
    """Group words, in order of time, into cues that do not overlap."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or word.start_s - groups[-1][-1].end_s >= PAUSE_S:
            groups.append([word])
        elif _fits([*groups[-1], word]):
            groups[-1].append(word)
        else:
            place = _longest_pause([*groups[-1], word])
            groups.append([*groups[-1][place:], word])
            del groups[-2][place:]
    cues = []
    for position, group in enumerate(groups):
        start_s, end_s = group[0].start_s, group[-1].end_s
        limit_s = groups[position + 1][0].start_s if position + 1 < len(groups) else float("inf")
        end_s = min(max(end_s, start_s + MIN_CUE_S), max(limit_s, start_s))
        cues.append(Cue(start_s, end_s, _lines(group)))
    return cues


def render(cues: Sequence[Cue], form: Literal["srt", "vtt"]) -> str:
    """The text of a subtitle file."""
    if form == "srt":
        blocks = [
            f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n"
            for number, cue in enumerate(cues, start=1)
        ]
        return "\n".join(blocks)
    blocks = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n"
        for cue in cues
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _fits(group: Sequence[Word]) -> bool:
    lines = textwrap.wrap(_joined(group), LINE_CHARACTERS, break_long_words=False)
    return group[-1].end_s - group[0].start_s <= MAX_CUE_S and len(lines) <= MAX_LINES


def _longest_pause(group: Sequence[Word]) -> int:
    """Which word of the second half a new cue begins with: the one after the longest pause, the last of equals."""
    places = range((len(group) + 1) // 2, len(group))
    return max(places, key=lambda place: (round(group[place].start_s - group[place - 1].end_s, 3), place))


def _joined(group: Sequence[Word]) -> str:
    return " ".join(word.text for word in group)


def _lines(group: Sequence[Word]) -> tuple[str, ...]:
    """One line where it fits, else two of similar length."""
    text = _joined(group)
    if len(text) <= LINE_CHARACTERS:
        return (text,)
    for width in range(-(-len(text) // MAX_LINES), LINE_CHARACTERS):
        lines = textwrap.wrap(text, width, break_long_words=False)
        if len(lines) <= MAX_LINES:
            return tuple(lines)
    return tuple(textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False))


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(time_s: float, point: str) -> str:
    milliseconds = round(time_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
