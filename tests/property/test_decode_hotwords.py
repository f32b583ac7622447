"""The graph of hotwords, and the beam search that uses it, against plain definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.data.tokens import UNKNOWN_ID, Tokens
from mvqkd.decode.hotwords import ContextGraph, Hotword, read_hotwords
from mvqkd.decode.search import modified_beam_search
from mvqkd.errors import ConfigError
from tests.property.test_decode_search import TableTransducer, all_path_probabilities, random_encoded

tokens_of_phrases = st.lists(st.integers(2, 4), min_size=1, max_size=4).map(tuple)
texts = st.lists(st.integers(2, 5), max_size=14).map(tuple)


def plain_bonus(phrases: dict[tuple[int, ...], float], text: tuple[int, ...]) -> tuple[float, float]:
    """Bonus by definition, for phrases whose tokens all have one score: (for whole phrases, for one that has begun).

    Whole: as soon as phrases end, the longest of them counts and everything before is forgotten. Begun: the longest
    beginning of a phrase that the rest ends with.
    """
    whole, rest = 0.0, ()
    for token in text:
        rest = (*rest, token)
        endings = [phrase for phrase in phrases if rest[-len(phrase) :] == phrase]
        if endings:
            longest = max(endings, key=len)
            whole, rest = whole + phrases[longest] * len(longest), ()
    begun = [
        phrases[phrase] * length
        for phrase in phrases
        for length in range(1, len(phrase))
        if length <= len(rest) and rest[len(rest) - length :] == phrase[:length]
    ]
    return whole, max(begun, default=0.0)


@settings(max_examples=500, deadline=None)
@given(phrases=st.sets(tokens_of_phrases, max_size=6), text=texts, score=st.sampled_from([0.5, 1.5, 3.0]))
def test_bonus_is_that_of_the_plain_definition(
    phrases: set[tuple[int, ...]], text: tuple[int, ...], score: float
) -> None:
    graph = ContextGraph([Hotword(phrase, score) for phrase in sorted(phrases)])
    state, total = graph.root, 0.0
    for said in range(len(text)):
        state, change = graph.step(state, text[said])
        total += change
        whole, begun = plain_bonus(dict.fromkeys(phrases, score), text[: said + 1])
        assert math.isclose(total, whole + begun, abs_tol=1e-9)
        assert math.isclose(total - graph.unfinished(state), whole, abs_tol=1e-9)


@settings(max_examples=200, deadline=None)
@given(scores=st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)), text=texts)
def test_phrases_of_unlike_beginning_keep_their_own_score(scores: tuple[float, float], text: tuple[int, ...]) -> None:
    phrases = {(2, 3): scores[0], (4, 5, 5): scores[1]}
    graph = ContextGraph([Hotword(phrase, score) for phrase, score in phrases.items()])
    state, total = graph.root, 0.0
    for token in text:
        state, change = graph.step(state, token)
        total += change
    assert math.isclose(total - graph.unfinished(state), plain_bonus(phrases, text)[0], abs_tol=1e-9)


def test_a_shared_beginning_gets_the_higher_score_and_order_does_not_matter() -> None:
    hotwords = [Hotword((2, 3), 1.0), Hotword((2, 4), 2.0)]
    for given_in in (hotwords, hotwords[::-1]):
        graph = ContextGraph(given_in)
        state, bonus = graph.step(graph.root, 2)
        assert bonus == 2.0
        assert graph.step(state, 3) == (graph.root, 1.0)
        assert graph.step(state, 4) == (graph.root, 2.0)
        assert graph.step(state, 5) == (graph.root, -2.0)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_frames=st.integers(1, 4),
    phrases=st.dictionaries(tokens_of_phrases, st.just(1.5), max_size=3),
)
def test_a_beam_that_drops_nothing_finds_the_best_sum_of_probability_and_bonus(
    seed: int, num_frames: int, phrases: dict[tuple[int, ...], float]
) -> None:
    model = TableTransducer(seed, 5, 2)
    encoded, lengths = random_encoded(seed, [num_frames])
    expected = all_path_probabilities(model, encoded[0])
    best = max(expected, key=lambda text: (expected[text] + plain_bonus(phrases, text)[0]) / (len(text) + 2))
    graph = ContextGraph([Hotword(phrase, score) for phrase, score in phrases.items()])
    (found,) = modified_beam_search(model, encoded, lengths, beam_size=5**num_frames * num_frames, hotwords=graph)
    assert found.tokens == best
    assert math.isclose(found.log_prob, expected[best], abs_tol=1e-6)


def test_hotwords_turn_a_close_call_and_not_a_clear_one() -> None:
    class Frames:
        """The encoder's output is the logits."""

        context_size = 1

        def predict(self, contexts: np.ndarray) -> np.ndarray:
            return np.zeros((len(contexts), 6), dtype=np.float32)

        def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
            return encoded

    close = np.log(np.array([[[0.01, 0.01, 0.5, 0.46, 0.01, 0.01]]], dtype=np.float32))
    clear = np.log(np.array([[[0.01, 0.01, 0.94, 0.02, 0.01, 0.01]]], dtype=np.float32))
    graph = ContextGraph([Hotword((3,), 1.5)])
    one = np.array([1])
    assert modified_beam_search(Frames(), close, one)[0].tokens == (2,)
    assert modified_beam_search(Frames(), close, one, hotwords=graph)[0].tokens == (3,)
    assert modified_beam_search(Frames(), clear, one, hotwords=graph)[0].tokens == (2,)


LETTERS = Tokens(["<blk>", "<unk>", "▁", *"ABCDE"])


def test_file_of_hotwords(tmp_path: Path) -> None:
    file = tmp_path / "hotwords.txt"
    file.write_text("BAD CAB\n\nDEAD :2.5\n  ACE  \n", encoding="utf-8")
    found = read_hotwords(file, LETTERS.encode, score=1.0)
    assert found == [
        Hotword((4, 3, 6, 2, 5, 3, 4), 1.0),
        Hotword((6, 7, 3, 6), 2.5),
        Hotword((3, 5, 7), 1.0),
    ]
    assert UNKNOWN_ID in LETTERS.encode("FADE")


@pytest.mark.parametrize(
    ("text", "got"), [("ACE\nFADE\n", "line 2"), ("", "none"), ("ACE :1.5.2\n", "1.5.2"), ("ACE :\n", "line 1")]
)
def test_faults_name_the_line(tmp_path: Path, text: str, got: str) -> None:
    file = tmp_path / "hotwords.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=got):
        read_hotwords(file, LETTERS.encode)
    with pytest.raises(ConfigError, match="No such file"):
        read_hotwords(tmp_path / "absent", LETTERS.encode)
