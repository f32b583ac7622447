"""The WER report: one schema for the torch student (wer-report) and for what ships (wer.json of a bundle).

Nothing volatile is inside: how fast a machine decoded is a figure of the artifact, not part of the report, so that
equal students on equal data give equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mvqkd.artifacts import write_json
from mvqkd.decode.scoring import ErrorCounts, bootstrap_interval, character_errors, total, word_errors
from mvqkd.errors import ArtifactCorruptError
from mvqkd.frames import STUDENT_RATE_HZ

REPORT_FILE = "wer.json"

Runtime = Literal[
    "torch",
    "onnxruntime",
    "onnxruntime-int8",
    "onnxruntime-streaming",
    "onnxruntime-streaming-int8",
    "teacher",
]
TEACHER = "teacher"
GREEDY, CTC_GREEDY = "greedy", "ctc_greedy"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Row(_Record):
    """Score of one decoder on one runtime; rates are shares, not percent.

    ``name`` is the key of this row's texts in ``Utterance.hyp``. ``rtf`` and ``decode_s`` stay None on disk.
    """

    name: str
    decoder: str
    runtime: Runtime
    wer: float = Field(ge=0)
    cer: float = Field(ge=0)
    insertions: int = Field(ge=0, alias="ins")
    deletions: int = Field(ge=0, alias="del")
    substitutions: int = Field(ge=0, alias="sub")
    words: int = Field(gt=0)
    interval_95: tuple[float, float]
    rtf: float | None = None
    decode_s: float | None = None

    @model_validator(mode="after")
    def _wer_is_what_the_counts_say(self) -> Row:
        errors = self.insertions + self.deletions + self.substitutions
        if not math.isclose(self.wer, errors / self.words, abs_tol=1e-9):
            raise ValueError(f"row {self.name}: wer {self.wer} is not {errors} errors / {self.words} words")
        return self


class Utterance(_Record):
    """Reference and hypotheses of one utterance, normalised; ``hyp`` maps a row's name to its text.

    ``speaker`` is None where the data names none, and in reports of older versions.
    """

    id: str
    ref: str
    hyp: dict[str, str]
    speaker: str | None = None


class WerReport(_Record):
    """Scores of one test set: a row a decoder, and every utterance's texts."""

    test_set_sha256: str
    text_normalizer: str
    split: str
    num_utterances: int = Field(gt=0)
    num_words: int = Field(gt=0)
    rows: list[Row]
    utterances: list[Utterance]

    @model_validator(mode="after")
    def _rows_and_utterances_belong_together(self) -> WerReport:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names) or len({(row.decoder, row.runtime) for row in self.rows}) != len(names):
            raise ValueError("rows must differ in name and in (decoder, runtime)")
        if self.num_utterances != len(self.utterances):
            raise ValueError(f"num_utterances {self.num_utterances}, but {len(self.utterances)} utterances")
        for row in self.rows:
            if row.words != self.num_words:
                raise ValueError(f"row {row.name}: {row.words} words, the report has {self.num_words}")
        for utterance in self.utterances:
            if set(utterance.hyp) != set(names):
                raise ValueError(f"utterance {utterance.id}: texts of {sorted(utterance.hyp)}, rows {sorted(names)}")
        return self

    def row(self, decoder: str, runtime: Runtime) -> Row | None:
        """The row of that decoder and runtime, None when the report has no such row."""
        return next((row for row in self.rows if (row.decoder, row.runtime) == (decoder, runtime)), None)

    def references(self) -> list[str]:
        """Reference texts, in the order of the utterances."""
        return [utterance.ref for utterance in self.utterances]

    def texts(self, row: Row) -> list[str]:
        """That row's texts, in the order of the utterances: what a paired test needs."""
        return [utterance.hyp[row.name] for utterance in self.utterances]

    def save(self, directory: Path) -> None:
        """Write wer.json; equal reports give equal bytes."""
        write_json(directory / REPORT_FILE, self.model_dump(mode="json", by_alias=True))

    @classmethod
    def load(cls, directory: Path) -> WerReport:
        """Read and check wer.json.

        Raises:
            ArtifactCorruptError: it is missing, malformed or contradicts itself.
        """
        path = Path(directory) / REPORT_FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            got = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
        except (OSError, ValueError) as error:
            got = str(error)
        raise ArtifactCorruptError(
            f"WER report {path}",
            expected="the report that this version of mvqkd writes",
            got=got,
            next_step="re-run evaluate or export-onnx",
        )


def row_name(decoder: str, runtime: Runtime) -> str:
    """Key of a row: ``torch/greedy``, ``onnxruntime/greedy``, ``teacher``."""
    return runtime if runtime == decoder else f"{runtime}/{decoder}"


def chunk_ms(chunk_frames: int) -> int | None:
    """Milliseconds of a chunk of student frames; None for 0, the whole utterance.

    The latency of the algorithm: what falls at a chunk's start waits that long for its end, half of it on average.
    Subsampling sees 30 ms more.
    """
    return round(1000 * chunk_frames / STUDENT_RATE_HZ) if chunk_frames else None


def chunked_decoder(decoder: str, chunk_frames: int) -> str:
    """Name of a decoder behind an encoder in chunks of a given size: ``greedy in 320 ms chunks``."""
    size_ms = chunk_ms(chunk_frames)
    return f"{decoder} on whole utterances" if size_ms is None else f"{decoder} in {size_ms} ms chunks"


def build_report(
    *,
    test_set_sha256: str,
    text_normalizer: str,
    split: str,
    ids: Sequence[str],
    refs: Sequence[str],
    hyps: Mapping[tuple[str, Runtime], Sequence[str]],
    speakers: Sequence[str | None] | None = None,
    bootstrap_samples: int = 10_000,
    seed: int = 0,
) -> WerReport:
    """Score texts of one test set.

    Args:
        ids, refs: one an utterance; refs normalised, with words in them over the whole set.
        hyps: (decoder, runtime) -> normalised texts in the order of ``ids``.
        speakers: in the same order; None where they are not known.
    Raises:
        EmptyCutSetError: the references have no words.
    """
    rows = [
        _score(decoder, runtime, refs, texts, bootstrap_samples, seed) for (decoder, runtime), texts in hyps.items()
    ]
    return WerReport(
        test_set_sha256=test_set_sha256,
        text_normalizer=text_normalizer,
        split=split,
        num_utterances=len(ids),
        num_words=sum(len(ref.split()) for ref in refs),
        rows=rows,
        utterances=[
            Utterance(
                id=utterance,
                ref=ref,
                hyp={row_name(*key): texts[position] for key, texts in hyps.items()},
                speaker=speaker,
            )
            for position, (utterance, ref, speaker) in enumerate(
                zip(ids, refs, speakers or [None] * len(ids), strict=True)
            )
        ],
    )


def _score(
    decoder: str, runtime: Runtime, refs: Sequence[str], hyps: Sequence[str], bootstrap_samples: int, seed: int
) -> Row:
    counts = [word_errors(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]
    words: ErrorCounts = total(counts)
    return Row(
        name=row_name(decoder, runtime),
        decoder=decoder,
        runtime=runtime,
        wer=words.rate,
        cer=total([character_errors(ref, hyp) for ref, hyp in zip(refs, hyps, strict=True)]).rate,
        insertions=words.insertions,
        deletions=words.deletions,
        substitutions=words.substitutions,
        words=words.reference_length,
        interval_95=bootstrap_interval(counts, samples=bootstrap_samples, seed=seed),
    )


def row_figures(row: Row) -> dict[str, Any]:
    """A row as figures of an artifact."""
    return {
        "wer": row.wer,
        "cer": row.cer,
        "wer_interval_95": list(row.interval_95),
        "insertions": row.insertions,
        "deletions": row.deletions,
        "substitutions": row.substitutions,
    }
