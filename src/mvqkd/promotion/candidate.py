"""What the gate knows of one bundle: scores, utterance by utterance, and what the bundle costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Utterances:
    """Words of the reference and word errors of every utterance of a test set; the order means nothing.

    ``speakers`` has None where the data names no speaker.
    """

    ids: tuple[str, ...]
    words: Ints
    errors: Ints
    speakers: tuple[str | None, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.words), len(self.errors), len(self.speakers)}
        assert len(lengths) == 1, "a row an utterance"


@dataclass(frozen=True)
class Scores:
    """What one decoder did on one test set.

    ``wer`` is a share of words (0.25 = 25 %), None when the report has no row of that decoder. ``utterances`` is None
    where nothing is to be compared, or where the report does not list them.
    """

    test_set: str
    test_set_sha256: str
    text_normalizer: str
    num_utterances: int
    wer: float | None
    utterances: Utterances | None = None


@dataclass(frozen=True)
class Costs:
    """What running a bundle takes. Every figure is None where the bundle does not state it.

    Args:
        bundle_bytes: all of its files.
        graph_bytes: the graphs that the WER of record was measured with.
        graphs: digests of these graphs; equal digests are the same model.
        rtf: real-time factor of the WER of record, as the machine measured it that exported the bundle.
        latency_s: from a sound to the streaming graph's output for it, by its chunks alone.
    """

    bundle_bytes: int | None = None
    graph_bytes: int | None = None
    graphs: tuple[str, ...] = ()
    rtf: float | None = None
    latency_s: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A bundle under judgement, or the champion. The WER is that of what ships: the ONNX bundle's own row.

    Args:
        scores: on the test set of record.
        parity_ok: None when the bundle carries no parity verdict.
        quantizer_error: held-out relative reconstruction error; None when the student was made without a quantizer.
        streams: whether the bundle has graphs that stream.
        streaming_wer: of these, on the test set of record; None where the report has no such row.
        others: scores on further test sets by their names, decoded by torch; the set of record is none of them.
    """

    bundle_id: str
    scores: Scores
    parity_ok: bool | None
    quantizer_error: float | None = None
    streams: bool = False
    streaming_wer: float | None = None
    costs: Costs = Costs()
    others: Mapping[str, Scores] = field(default_factory=dict)
