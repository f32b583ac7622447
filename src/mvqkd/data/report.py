"""What is in the data: hours, speakers, vocabulary, and how much of the test set's words training never shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvqkd.data.sources import TRAIN
from mvqkd.data.splits import is_test
from mvqkd.data.tokens import Tokens
from mvqkd.data.validate import Accepted
from mvqkd.frames import num_feature_frames, num_student_frames

_SHOWN_OOV_WORDS = 30


def data_report(
    splits: Mapping[str, Sequence[Accepted]], tokens: Tokens, rejected: Mapping[str, int]
) -> dict[str, Any]:
    """Figures of every split, out-of-vocabulary words of each test split, and rejections by reason.

    Returns:
        A JSON value: ``splits`` {name: figures}, ``vocabulary``, ``oov`` {test split: figures}, ``tokens``,
        ``rejected`` {reason: count}.
    """
    known = _words(splits.get(TRAIN, ()))
    return {
        "splits": {name: _figures(recordings, tokens) for name, recordings in sorted(splits.items())},
        "vocabulary": len(known),
        "oov": {name: _oov(recordings, known) for name, recordings in sorted(splits.items()) if is_test(name)},
        "tokens": {"type": tokens.token_type, "vocab_size": tokens.vocab_size},
        "rejected": dict(rejected),
    }


def hours(recordings: Sequence[Accepted]) -> float:
    """Hours of audio, rounded to a microhour so that summing order cannot show."""
    return round(sum(recording.num_samples for recording in recordings) / 16_000 / 3600, 6)


def _words(recordings: Sequence[Accepted]) -> Counter[str]:
    return Counter(word for recording in recordings for word in (recording.text or "").split())


def _figures(recordings: Sequence[Accepted], tokens: Tokens) -> dict[str, Any]:
    durations_s = np.array([recording.duration_s for recording in recordings])
    words = _words(recordings)
    encoded = [tokens.encode(recording.text) for recording in recordings if recording.text is not None]
    crowded = sum(
        len(tokens.encode(recording.text)) > num_student_frames(num_feature_frames(recording.num_samples))
        for recording in recordings
        if recording.text is not None
    )
    return {
        "cuts": len(recordings),
        "hours": hours(recordings),
        "speakers": len({recording.row.speaker for recording in recordings if recording.row.speaker is not None}),
        "duration_s": {
            "min": round(float(durations_s.min()), 3),
            "median": round(float(np.median(durations_s)), 3),
            "max": round(float(durations_s.max()), 3),
        },
        "words": sum(words.values()),
        "vocabulary": len(words),
        "tokens": sum(map(len, encoded)),
        "unknown_tokens": sum(ids.count(tokens.unknown_id) for ids in encoded),
        # No alignment exists for these: at most one symbol a student frame.
        "cuts_with_more_tokens_than_student_frames": crowded,
    }


def _oov(recordings: Sequence[Accepted], known: Counter[str]) -> dict[str, Any]:
    words = _words(recordings)
    unknown = Counter({word: count for word, count in words.items() if word not in known})
    total = sum(words.values())
    ranked = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    return {
        "word_rate": round(sum(unknown.values()) / total, 6) if total else 0.0,
        "words": sum(unknown.values()),
        "distinct_words": len(unknown),
        "most_frequent": [word for word, _ in ranked[:_SHOWN_OOV_WORDS]],
    }
