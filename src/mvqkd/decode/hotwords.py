"""Hotwords: phrases that a beam search is helped to find, by a bonus for each of their tokens.

The bonus is given token by token while a phrase is being spoken, and taken back when the phrase breaks off: only whole
phrases count in the end. Scores mean what they mean to the transducer searches of sherpa-onnx, so that a file of
hotwords and its scores can be carried over: after a whole phrase, matching begins anew, so that the shorter of two
phrases of which one begins the other is found first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvqkd.data.tokens import UNKNOWN_ID
from mvqkd.errors import ConfigError

# What sherpa-onnx takes by default.
DEFAULT_SCORE = 1.5

_LINE_SCORE = re.compile(r"\s:(?P<score>[-+0-9.eE]+)\s*$")


@dataclass(frozen=True)
class Hotword:
    """A phrase as token ids and the bonus for each of them, in natural log-probability."""

    tokens: tuple[int, ...]
    score: float


class ContextGraph:
    """An Aho-Corasick automaton over hotwords: states are numbers, 0 is the root, where nothing has been matched.

    Args:
        hotwords: phrases of at least one token; where phrases share a beginning, its tokens get the higher score.
    """

    root = 0

    def __init__(self, hotwords: Iterable[Hotword]) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._is_end = [False]
        token_scores = [0.0]
        for hotword in hotwords:
            state = self.root
            for token in hotword.tokens:
                if token not in self._next[state]:
                    self._next[state][token] = len(self._next)
                    self._next.append({})
                    self._is_end.append(False)
                    token_scores.append(hotword.score)
                state = self._next[state][token]
                token_scores[state] = max(token_scores[state], hotword.score)
            self._is_end[state] = state != self.root
        self._link(token_scores)

    def _link(self, token_scores: Sequence[float]) -> None:
        """Breadth first: bonus of each state, where it falls back to, and the longest phrase that ends in it."""
        self._bonus = [0.0] * len(self._next)
        self._fallback = [self.root] * len(self._next)
        self._ending = [state if is_end else self.root for state, is_end in enumerate(self._is_end)]
        waiting = deque([self.root])
        while waiting:
            state = waiting.popleft()
            for token, child in self._next[state].items():
                self._bonus[child] = self._bonus[state] + token_scores[child]
                if state != self.root:
                    self._fallback[child] = self._longest_match(self._fallback[state], token)
                if not self._is_end[child]:
                    self._ending[child] = self._ending[self._fallback[child]]
                waiting.append(child)

    def _longest_match(self, state: int, token: int) -> int:
        while state != self.root and token not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(token, self.root)

    def step(self, state: int, token: int) -> tuple[int, float]:
        """Say a token: the new state, and the change of the bonus, negative where a match broke off."""
        reached = self._longest_match(state, token)
        ending = self._ending[reached]
        if ending != self.root:
            return self.root, self._bonus[ending] - self._bonus[state]
        return reached, self._bonus[reached] - self._bonus[state]

    def unfinished(self, state: int) -> float:
        """Bonus for a phrase that has only begun: to be taken back where the audio ends."""
        return self._bonus[state]


def read_hotwords(path: Path, encode: Callable[[str], Sequence[int]], *, score: float = DEFAULT_SCORE) -> list[Hotword]:
    """Read a file of hotwords: a phrase a line, ``PHRASE :SCORE`` for a score of its own; empty lines are skipped.

    Args:
        encode: text to token ids, ``<unk>`` for what the vocabulary lacks.
        score: of phrases without one.
    Raises:
        ConfigError: the file cannot be read or holds no phrase, or a line cannot be said in these tokens.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"hotwords {path}", expected="a text file in UTF-8", got=str(error), next_step="check the path"
        ) from error
    hotwords = []
    for number, line in enumerate(lines, start=1):
        phrase, own_score = _split_score(line, f"hotwords {path}, line {number}")
        if not phrase:
            continue
        tokens = tuple(encode(phrase))
        if not tokens or UNKNOWN_ID in tokens:
            raise ConfigError(
                f"hotwords {path}, line {number}",
                expected="a phrase in the bundle's own symbols",
                got=repr(phrase),
                next_step="write it as the training texts would, or remove it",
            )
        hotwords.append(Hotword(tokens, score if own_score is None else own_score))
    if not hotwords:
        raise ConfigError(f"hotwords {path}", expected="a phrase a line", got="none", next_step="write some into it")
    return hotwords


def _split_score(line: str, subject: str) -> tuple[str, float | None]:
    match = _LINE_SCORE.search(line)
    if match is None:
        return line.strip(), None
    try:
        return line[: match.start()].strip(), float(match["score"])
    except ValueError as error:
        raise ConfigError(
            subject,
            expected="a number behind the colon",
            got=match["score"],
            next_step="write for example `MAIN STREET :2.0`",
        ) from error
