"""Greedy and beam search over a transducer, greedy search over CTC: one implementation for every runtime.

At most one symbol is emitted a frame. ``<blk>`` and ``<unk>`` emit nothing, as in sherpa-onnx, so that what is scored
here is what is deployed.

Shapes: N batch, S student frames, C context symbols, J joiner channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.tokens import BLANK_ID, UNKNOWN_ID
from mvqkd.decode.hotwords import ContextGraph

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

BEFORE_START = -1
NO_HOTWORDS = ContextGraph(())

# Frames that greedy search over one utterance joins in one call: a call costs as much as some tens of rows. Measured
# by benchmarks/search.py.
_JOINED_AHEAD = 8


class Transducer(Protocol):
    """Predictor and joiner of a transducer, as a search calls them; torch and onnxruntime implement it."""

    @property
    def context_size(self) -> int:
        """C: symbols that the predictor sees."""
        ...

    def predict(self, contexts: Ids) -> Floats:
        """int64 (N, C), -1 before the start -> float32 (N, J)."""
        ...

    def join(self, encoded: Floats, predicted: Floats) -> Floats:
        """Two float32 (N, J) -> logits float32 (N, V)."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """A decoded utterance.

    ``tokens`` and ``frames`` have equal length: the student frame (25 Hz, 0-based) at which each token was emitted.
    ``log_prob`` is natural: of the one path that greedy search took, or summed over the merged paths of the beam.
    """

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    log_prob: float = 0.0


def greedy_search(
    model: Transducer, encoded: Floats, num_frames: Ids, contexts: Sequence[tuple[int, ...]] = ()
) -> list[Hypothesis]:
    """Take the best symbol of every frame.

    Args:
        encoded: float32 (N, S, J), projected encoder output. Frames at or past num_frames[n] are ignored.
        num_frames: int64 (N,).
        contexts: the C symbols before each utterance, where it goes on from another one; see ``start_context``.
    Returns:
        One hypothesis an utterance, in order; symbols of ``contexts`` are not in it.
    """
    predict = _CachedPredictor(model)
    contexts = list(contexts) or [start_context(model.context_size)] * len(encoded)
    if len(encoded) == 1:
        return [_greedy_alone(model, predict, encoded[0, : int(num_frames[0])], contexts[0])]
    predicted = predict(contexts)
    tokens: list[list[int]] = [[] for _ in contexts]
    frames: list[list[int]] = [[] for _ in contexts]
    log_probs = np.zeros(len(encoded))
    for frame in range(int(num_frames.max(initial=0))):
        active = np.flatnonzero(num_frames > frame)
        logits = model.join(encoded[active, frame], predicted[active])
        best = logits.argmax(axis=1)
        log_probs[active] += _best_log_probs(logits)
        emitting = (best != BLANK_ID) & (best != UNKNOWN_ID)
        rows = active[emitting].tolist()
        for row, token in zip(rows, best[emitting].tolist(), strict=True):
            tokens[row].append(token)
            frames[row].append(frame)
            contexts[row] = (*contexts[row][1:], token)
        if rows:
            predicted[rows] = predict([contexts[row] for row in rows])
    return [
        Hypothesis(tuple(t), tuple(f), float(p)) for t, f, p in zip(tokens, frames, log_probs.tolist(), strict=True)
    ]


def _greedy_alone(
    model: Transducer, predict: _CachedPredictor, encoded: Floats, context: tuple[int, ...]
) -> Hypothesis:
    """Greedy search over one utterance, ``encoded`` (S, J), several frames a call of the joiner.

    The predictor's output stays until a symbol is emitted: frames are joined ahead with it, and what lies behind the
    first of them that emits is joined again. In a batch the rows fill the call, and this would only waste work.
    """
    tokens: list[int] = []
    frames: list[int] = []
    path: list[Floats] = []
    first = 0
    while first < len(encoded):
        ahead = encoded[first : first + _JOINED_AHEAD]
        logits = model.join(ahead, np.repeat(predict([context]), len(ahead), axis=0))
        for offset, token in enumerate(logits.argmax(axis=1).tolist()):
            if token not in (BLANK_ID, UNKNOWN_ID):
                tokens.append(token)
                frames.append(first + offset)
                context = (*context[1:], token)
                break
        path.append(logits[: offset + 1])
        first += offset + 1
    log_prob = _best_log_probs(np.concatenate(path)).sum() if path else 0.0
    return Hypothesis(tuple(tokens), tuple(frames), float(log_prob))


def modified_beam_search(
    model: Transducer,
    encoded: Floats,
    num_frames: Ids,
    *,
    beam_size: int = 4,
    hotwords: ContextGraph = NO_HOTWORDS,
) -> list[Hypothesis]:
    """Keep the ``beam_size`` best hypotheses a frame; those with equal symbols are merged by adding probabilities.

    The winner is the hypothesis with the best log-probability a symbol, start context included. That is the rule of
    icefall and sherpa-onnx, as is when the bonus of a hotword counts: after the ``beam_size`` were chosen.

    Args and returns: as ``greedy_search``; ``log_prob`` is without any bonus.
    """
    predict = _CachedPredictor(model)
    start = start_context(model.context_size)
    beams = [[_Path((), (), 0.0, hotwords.root, 0.0)] for _ in range(len(encoded))]
    for frame in range(int(num_frames.max(initial=0))):
        active = np.flatnonzero(num_frames > frame).tolist()
        paths = [path for row in active for path in beams[row]]
        rows = np.repeat(active, [len(beams[row]) for row in active])
        predicted = predict([(*start, *path.tokens[-len(start) :])[-len(start) :] for path in paths])
        scores = log_softmax(model.join(encoded[rows, frame], predicted))
        scores += np.array([path.score for path in paths])[:, None]
        first = 0
        for row in active:
            beam = beams[row]
            beams[row] = _extend(beam, scores[first : first + len(beam)], frame, beam_size, hotwords)
            first += len(beam)
    best = [max(beam, key=lambda path: path.final(hotwords) / (len(path.tokens) + len(start))) for beam in beams]
    return [Hypothesis(path.tokens, path.frames, path.log_prob) for path in best]


class _Path(NamedTuple):
    """A hypothesis in a beam: its state in the graph of hotwords follows from its tokens, and so does its bonus."""

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    log_prob: float
    state: int
    bonus: float

    @property
    def score(self) -> float:
        return self.log_prob + self.bonus

    def final(self, hotwords: ContextGraph) -> float:
        return self.score - hotwords.unfinished(self.state)


def _extend(
    beam: list[_Path], scores: NDArray[np.float64], frame: int, beam_size: int, hotwords: ContextGraph
) -> list[_Path]:
    """The best continuations of a beam, merged. ``scores`` (H, V): of hypothesis and symbol."""
    flat = scores.reshape(-1)
    keep = min(beam_size, flat.size)
    best = np.argpartition(-flat, keep - 1)[:keep]
    extended: dict[tuple[int, ...], _Path] = {}
    # By score, then by position: which of two equal scores comes first must not depend on argpartition.
    for position in best[np.lexsort((best, -flat[best]))].tolist():
        source, token = divmod(position, scores.shape[1])
        path = beam[source]
        log_prob = float(flat[position]) - path.bonus
        if token in (BLANK_ID, UNKNOWN_ID):
            path = path._replace(log_prob=log_prob)
        else:
            state, change = hotwords.step(path.state, token)
            path = _Path((*path.tokens, token), (*path.frames, frame), log_prob, state, path.bonus + change)
        known = extended.get(path.tokens)
        if known is not None:
            # The more probable path came first, so its emission times stay.
            path = known._replace(log_prob=_log_add(known.log_prob, path.log_prob))
        extended[path.tokens] = path
    return list(extended.values())


def ctc_greedy_search(log_probs: Floats, num_frames: Ids) -> list[Hypothesis]:
    """Take the best symbol of every frame, merge repetitions, drop blanks.

    Args:
        log_probs: float32 (N, S, V). Frames at or past num_frames[n] are ignored.
    """
    best = log_probs.argmax(axis=2)
    path = log_probs.max(axis=2)
    results = []
    for symbols, scores, length in zip(best, path, num_frames.tolist(), strict=True):
        symbols = symbols[:length]
        is_new = np.diff(symbols, prepend=BLANK_ID) != 0
        at = np.flatnonzero(is_new & (symbols != BLANK_ID) & (symbols != UNKNOWN_ID))
        results.append(
            Hypothesis(tuple(symbols[at].tolist()), tuple(at.tolist()), float(scores[:length].sum(dtype=np.float64)))
        )
    return results


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _best_log_probs(logits: Floats) -> NDArray[np.float64]:
    """Log-probability of the best symbol over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    sums: NDArray[np.float64] = np.exp(wide).sum(axis=-1)
    return -np.log(sums)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def start_context(context_size: int) -> tuple[int, ...]:
    """The C symbols before the first one."""
    return (BEFORE_START,) * (context_size - 1) + (BLANK_ID,)


class _CachedPredictor:
    """The predictor's output depends on the last C symbols only: compute each context once a search."""

    def __init__(self, model: Transducer) -> None:
        self._model = model
        self._known: dict[tuple[int, ...], Floats] = {}

    def __call__(self, contexts: Sequence[tuple[int, ...]]) -> Floats:
        new = [context for context in dict.fromkeys(contexts) if context not in self._known]
        if new:
            self._known.update(zip(new, self._model.predict(np.array(new, dtype=np.int64)), strict=True))
        return np.stack([self._known[context] for context in contexts])
