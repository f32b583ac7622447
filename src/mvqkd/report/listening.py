"""Hear new audio as the teacher and the quantizer do, and where there is a text as the bundle does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mvqkd.data.audio import Samples
from mvqkd.decode.scoring import ErrorCounts
from mvqkd.errors import AudioError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.quantizer.drift import Codes, Floats, measure
from mvqkd.report.baseline import Baseline
from mvqkd.report.recordings import Recording
from mvqkd.report.word_drift import word_counter
from mvqkd.teacher.batching import length_sorted_batches

# Longer recordings are cut into equal pieces: what data are prepared of is no longer.
PIECE_S = 30.0
# How much audio is read before the teacher sees it, and how much of it at once.
_READ_S, _BATCH_S = 240.0, 60.0


@dataclass
class Heap:
    """What was heard: measured frames piece after piece, whose recording each piece is of, and word errors of each
    recording with a text."""

    pieces: list[tuple[Codes, Floats, Floats]] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    words: list[ErrorCounts] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def recordings(self) -> int:
        return len(set(self.owners))


def listen_to(recordings: Iterable[Recording], baseline: Baseline, bundle: Path | None, max_audio_s: float) -> Heap:
    """Hear recordings until there is enough audio.

    Args:
        bundle: hears those that have a text; None: nothing does.
    """
    heap = Heap()
    count_words = None if bundle is None else word_counter(bundle)
    for group in _groups(recordings, heap, max_audio_s):
        _measure(group, baseline, heap)
        for recording, samples in group:
            if count_words is not None and recording.text is not None:
                counts = count_words(samples, recording.text)
                # A text without words says nothing of a rate.
                heap.words += [counts] if counts.reference_length else []
    return heap


def _groups(
    recordings: Iterable[Recording], heap: Heap, max_audio_s: float
) -> Iterator[list[tuple[Recording, Samples]]]:
    """Recordings that can be read, some minutes at a time; the others are named in ``heap``."""
    group: list[tuple[Recording, Samples]] = []
    waiting_s = 0.0
    for recording in recordings:
        try:
            samples = recording.read()
        except AudioError as error:
            heap.unreadable.append(str(error))
            continue
        group.append((recording, samples))
        waiting_s += len(samples) / SAMPLE_RATE_HZ
        heap.duration_s += len(samples) / SAMPLE_RATE_HZ
        if heap.duration_s >= max_audio_s:
            break
        if waiting_s >= _READ_S:
            yield group
            group, waiting_s = [], 0.0
    if group:
        yield group


def _measure(group: Sequence[tuple[Recording, Samples]], baseline: Baseline, heap: Heap) -> None:
    pieces = [(recording.id, piece) for recording, samples in group for piece in _pieces(samples)]
    batches = length_sorted_batches(
        [len(piece) for _, piece in pieces], max_padded_length=round(_BATCH_S * SAMPLE_RATE_HZ)
    )
    for batch in batches:
        embeddings, lengths = baseline.teacher.embed([pieces[place][1] for place in batch])
        for place, rows, length in zip(batch, embeddings, lengths.tolist(), strict=True):
            if length:
                heap.owners.append(pieces[place][0])
                heap.pieces.append(
                    measure(baseline.quantizer, rows[:length], mode=baseline.mode, iterations=baseline.iterations)
                )


def _pieces(samples: Samples) -> list[Samples]:
    """Equal parts of at most ``PIECE_S``."""
    return np.array_split(samples, -(-len(samples) // round(PIECE_S * SAMPLE_RATE_HZ)))
