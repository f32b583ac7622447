"""The searches against plain definitions of what they compute, over small random transducers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mvqkd.data.tokens import BLANK_ID, UNKNOWN_ID
from mvqkd.decode.search import (
    BEFORE_START,
    Hypothesis,
    ctc_greedy_search,
    greedy_search,
    log_softmax,
    modified_beam_search,
)

JOINER_DIM = 6


class TableTransducer:
    """Its predictor is a table over the whole context, computed row by row: batch mates cannot matter."""

    def __init__(self, seed: int, vocab_size: int, context_size: int) -> None:
        rng = np.random.default_rng(seed)
        self._context_size = context_size
        self.table = rng.normal(size=(context_size, vocab_size + 1, JOINER_DIM)).astype(np.float32)
        self.output = 2 * rng.normal(size=(JOINER_DIM, vocab_size)).astype(np.float32)
        self.contexts_seen: list[tuple[int, ...]] = []

    @property
    def context_size(self) -> int:
        return self._context_size

    def predict(self, contexts: NDArray[np.int64]) -> NDArray[np.float32]:
        self.contexts_seen += [tuple(row) for row in contexts.tolist()]
        return np.stack(
            [np.sum([self.table[i, s] for i, s in enumerate(row)], axis=0, dtype=np.float32) for row in contexts]
        )

    def join(self, encoded: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([np.tanh(e + p) @ self.output for e, p in zip(encoded, predicted, strict=True)])

    def log_probs(self, frame: NDArray[np.float32], symbols: tuple[int, ...]) -> NDArray[np.float64]:
        """Log-probabilities of the next symbol after ``symbols`` at one frame."""
        padded = (*[BEFORE_START] * (self._context_size - 1), BLANK_ID, *symbols)[-self._context_size :]
        predicted = self.predict(np.array([padded]))
        return log_softmax(self.join(frame[None], predicted))[0]


def random_encoded(seed: int, lengths: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    encoded = np.random.default_rng(seed + 1).normal(size=(len(lengths), max(lengths), JOINER_DIM)).astype(np.float32)
    for row, length in zip(encoded, lengths, strict=True):
        row[length:] = np.nan  # whoever looks at padding spoils the result
    return encoded, np.array(lengths, dtype=np.int64)


def all_path_probabilities(model: TableTransducer, frames: NDArray[np.float32]) -> dict[tuple[int, ...], float]:
    """Probability of every symbol sequence: the sum over all its paths, each written out."""
    paths: dict[tuple[int, ...], list[float]] = {(): [0.0]}
    for frame in frames:
        extended: dict[tuple[int, ...], list[float]] = {}
        for symbols, path_scores in paths.items():
            scores = model.log_probs(frame, symbols)
            for token, score in enumerate(scores.tolist()):
                longer = symbols if token in (BLANK_ID, UNKNOWN_ID) else (*symbols, token)
                extended.setdefault(longer, []).extend(path + score for path in path_scores)
        paths = extended
    return {symbols: float(np.logaddexp.reduce(scores)) for symbols, scores in paths.items()}


seeds = st.integers(0, 10_000)
lengths_of_batches = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda lengths: max(lengths) > 0)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, num_frames=st.integers(1, 4), vocab_size=st.integers(3, 5), context_size=st.integers(1, 3))
def test_a_beam_that_drops_nothing_sums_over_all_paths(
    seed: int, num_frames: int, vocab_size: int, context_size: int
) -> None:
    model = TableTransducer(seed, vocab_size, context_size)
    encoded, lengths = random_encoded(seed, [num_frames])
    expected = all_path_probabilities(model, encoded[0])
    assert math.isclose(np.logaddexp.reduce(list(expected.values())), 0.0, abs_tol=1e-9)
    (found,) = modified_beam_search(model, encoded, lengths, beam_size=vocab_size**num_frames * num_frames)
    best = max(expected, key=lambda symbols: expected[symbols] / (len(symbols) + context_size))
    assert found.tokens == best
    assert math.isclose(found.log_prob, expected[best], abs_tol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, lengths=lengths_of_batches, context_size=st.integers(1, 3))
def test_greedy_takes_the_best_symbol_of_every_frame(seed: int, lengths: list[int], context_size: int) -> None:
    model = TableTransducer(seed, 6, context_size)
    encoded, num_frames = random_encoded(seed, lengths)
    for found, frames, length in zip(greedy_search(model, encoded, num_frames), encoded, lengths, strict=True):
        tokens: tuple[int, ...] = ()
        emitted, score = [], 0.0
        for index in range(length):
            scores = model.log_probs(frames[index], tokens)
            best = int(scores.argmax())
            score += scores[best]
            if best not in (BLANK_ID, UNKNOWN_ID):
                tokens, emitted = (*tokens, best), [*emitted, index]
        assert found.tokens == tokens
        assert found.frames == tuple(emitted)
        assert math.isclose(found.log_prob, score, abs_tol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, lengths=lengths_of_batches, beam_size=st.integers(1, 5))
def test_an_utterance_decodes_the_same_with_and_without_batch_mates(
    seed: int, lengths: list[int], beam_size: int
) -> None:
    encoded, num_frames = random_encoded(seed, lengths)
    for search in (greedy_search, lambda *args: modified_beam_search(*args, beam_size=beam_size)):
        together = search(TableTransducer(seed, 6, 2), encoded, num_frames)
        for row, found in enumerate(together):
            alone = search(
                TableTransducer(seed, 6, 2), encoded[row : row + 1, : max(1, lengths[row])], num_frames[row : row + 1]
            )
            assert alone[0].tokens == found.tokens
            assert alone[0].frames == found.frames


@settings(max_examples=60, deadline=None)
@given(seed=seeds, num_frames=st.integers(0, 40), ahead=st.integers(1, 50))
def test_frames_joined_ahead_change_nothing(seed: int, num_frames: int, ahead: int) -> None:
    encoded, lengths = random_encoded(seed, [num_frames or 1])
    lengths[0] = num_frames
    model = TableTransducer(seed, 6, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvqkd.decode.search._JOINED_AHEAD", ahead)
        (alone,) = greedy_search(model, encoded, lengths)
    # Two of it are a batch, which goes frame by frame.
    frame_by_frame, _ = greedy_search(model, np.repeat(encoded, 2, axis=0), np.repeat(lengths, 2))
    assert (alone.tokens, alone.frames) == (frame_by_frame.tokens, frame_by_frame.frames)
    assert math.isclose(alone.log_prob, frame_by_frame.log_prob, abs_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, lengths=lengths_of_batches)
def test_a_beam_of_one_is_greedy(seed: int, lengths: list[int]) -> None:
    model = TableTransducer(seed, 6, 2)
    batch = random_encoded(seed, lengths)
    greedy, beam = greedy_search(model, *batch), modified_beam_search(model, *batch, beam_size=1)
    assert [(found.tokens, found.frames) for found in greedy] == [(found.tokens, found.frames) for found in beam]


@settings(max_examples=40, deadline=None)
@given(seed=seeds, lengths=lengths_of_batches, beam_size=st.integers(1, 6))
def test_hypotheses_are_well_formed(seed: int, lengths: list[int], beam_size: int) -> None:
    model = TableTransducer(seed, 6, 2)
    batch = random_encoded(seed, lengths)
    for results in (greedy_search(model, *batch), modified_beam_search(model, *batch, beam_size=beam_size)):
        for found, length in zip(results, lengths, strict=True):
            assert len(found.tokens) == len(found.frames) <= length
            assert all(a < b for a, b in itertools.pairwise(found.frames)), "at most one symbol a frame"
            assert all(0 <= frame < length for frame in found.frames)
            assert not {BLANK_ID, UNKNOWN_ID} & set(found.tokens)
            assert found.log_prob <= 1e-9
    assert UNKNOWN_ID not in {symbol for context in model.contexts_seen for symbol in context}


@settings(max_examples=60, deadline=None)
@given(seed=seeds, lengths=lengths_of_batches)
def test_ctc_merges_repetitions_and_drops_blanks(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    # Few symbols, so that repetitions and blanks between them are common.
    logits = 3 * rng.normal(size=(len(lengths), max(lengths), 4)).astype(np.float32)
    log_probs = log_softmax(logits).astype(np.float32)
    for found, scores, length in zip(ctc_greedy_search(log_probs, np.array(lengths)), log_probs, lengths, strict=True):
        path = scores[:length].argmax(axis=1).tolist()
        collapsed = [symbol for symbol, _ in itertools.groupby(path) if symbol not in (BLANK_ID, UNKNOWN_ID)]
        assert list(found.tokens) == collapsed
        assert all(path[frame] == token for frame, token in zip(found.frames, found.tokens, strict=True))
        assert math.isclose(found.log_prob, scores[:length].max(axis=1).sum(), abs_tol=1e-4)


@pytest.mark.parametrize("search", [greedy_search, modified_beam_search])
def test_no_frames_give_an_empty_hypothesis(search: object) -> None:
    model = TableTransducer(0, 5, 2)
    empty = np.zeros((2, 0, JOINER_DIM), dtype=np.float32)
    assert search(model, empty, np.zeros(2, dtype=np.int64)) == [Hypothesis(), Hypothesis()]


def test_each_context_is_computed_once() -> None:
    model = TableTransducer(3, 5, 2)
    modified_beam_search(model, *random_encoded(3, [12, 9, 12]), beam_size=4)
    assert len(model.contexts_seen) == len(set(model.contexts_seen))


class Direct:
    """A transducer whose encoder output is the logits."""

    context_size = 1

    def predict(self, contexts: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((len(contexts), 3), dtype=np.float32)

    def join(self, encoded: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        return encoded + predicted


@pytest.mark.parametrize(("token_probabilities", "frame"), [((0.2, 0.9), 1), ((0.9, 0.2), 0)])
def test_merged_hypotheses_keep_the_emission_time_of_the_likelier_path(
    token_probabilities: tuple[float, float], frame: int
) -> None:
    logits = np.log(np.array([[[1 - p - 1e-6, 1e-6, p] for p in token_probabilities]], dtype=np.float32))
    (found,) = modified_beam_search(Direct(), logits, np.array([2]), beam_size=9)
    assert (found.tokens, found.frames) == ((2,), (frame,))
    first, second = token_probabilities
    assert math.isclose(math.exp(found.log_prob), first * (1 - second) + (1 - first) * second, abs_tol=1e-4)
