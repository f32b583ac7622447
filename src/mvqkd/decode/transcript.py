"""What was recognised in a recording: segments, their tokens with times, and the words that these make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mvqkd.data.tokens import SPACE
from mvqkd.frames import STUDENT_RATE_HZ

# A transducer says when a token begins, not when it ends: the last one of a word is taken to last this long, unless
# another word begins before.
_LAST_TOKEN_S = 0.24
_FRAME_S = float(1 / STUDENT_RATE_HZ)


@dataclass(frozen=True)
class Word:
    """A word and when it was said, in seconds from the recording's start."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, recognised in one piece.

    ``tokens`` are symbols as in tokens.txt; ``times_s`` says when each was emitted. Seconds from the recording's start.
    """

    text: str
    tokens: tuple[str, ...]
    times_s: tuple[float, ...]
    start_s: float
    end_s: float

    def words(self) -> list[Word]:
        """The words, from the tokens: U+2581 begins one, or is the space before it."""
        found: list[tuple[str, float, float]] = []
        begins = True
        for token, time_s in zip(self.tokens, self.times_s, strict=True):
            begins = begins or token.startswith(SPACE)
            letters = token.replace(SPACE, "")
            if not letters:
                continue
            if begins:
                found.append((letters, time_s, time_s))
            else:
                text, start_s, _ = found[-1]
                found[-1] = (text + letters, start_s, time_s)
            begins = False
        words = []
        for position, (text, start_s, last_s) in enumerate(found):
            limit_s = found[position + 1][1] if position + 1 < len(found) else self.end_s
            words.append(Word(text, start_s, max(start_s + _FRAME_S, min(last_s + _LAST_TOKEN_S, limit_s))))
        return words


@dataclass(frozen=True)
class Transcript:
    """A recording's segments in order; ``wall_s`` is the time that features and decoding took."""

    audio: str
    duration_s: float
    segments: tuple[Segment, ...]
    wall_s: float = 0.0

    @property
    def text(self) -> str:
        return text_of(self.segments)

    @property
    def rtf(self) -> float:
        """Time of computing a second of audio."""
        return self.wall_s / self.duration_s if self.duration_s else 0.0

    def words(self) -> Iterator[Word]:
        for segment in self.segments:
            yield from segment.words()

    def as_json(self) -> dict[str, Any]:
        """For programs: every number with its unit in its name."""
        return {
            "audio": self.audio,
            "text": self.text,
            "duration_s": round(self.duration_s, 3),
            "rtf": round(self.rtf, 5),
            "tokens": [token for segment in self.segments for token in segment.tokens],
            "times_s": [round(time_s, 3) for segment in self.segments for time_s in segment.times_s],
            "words": [word_as_json(word) for word in self.words()],
            "segments": [
                {"text": segment.text, "start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3)}
                for segment in self.segments
            ],
        }


def text_of(segments: Iterable[Segment]) -> str:
    """The text of segments in order; those in which nothing was said leave no trace."""
    return " ".join(segment.text for segment in segments if segment.text)


def word_as_json(word: Word) -> dict[str, Any]:
    """A word as a JSON object."""
    return {"word": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
