"""The stage evaluate: decode a split with the torch student, beside its teacher, and count errors.

The same weights are scored at every latency asked for: a row a decoder in the model's own chunks, and a row a decoder
in every other chunk size.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mvqkd.artifacts import Artifact, PartialArtifact, atomic_open, load_artifact
from mvqkd.config import Decoder, EvaluateConfig
from mvqkd.data.audio import load_audio
from mvqkd.data.features import log_mel
from mvqkd.data.text import normalize_text
from mvqkd.decode.batching import by_length, pad_features
from mvqkd.decode.report import (
    GREEDY,
    TEACHER,
    Row,
    Runtime,
    WerReport,
    build_report,
    chunk_ms,
    chunked_decoder,
    row_figures,
)
from mvqkd.decode.scored_split import ScoredSplit, load_scored_split
from mvqkd.decode.scoring import align_words
from mvqkd.decode.search import Hypothesis, ctc_greedy_search, greedy_search, modified_beam_search
from mvqkd.decode.torch_runtime import TorchTransducer, load_transducer
from mvqkd.device import resolve_device
from mvqkd.errors import ConfigError
from mvqkd.progress import track
from mvqkd.teacher.base import Teacher

UTTERANCES_FILE = "utterances.jsonl"
# Padded seconds a batch: bounds memory, and leaves a progress bar something to show.
BATCH_DURATION_S = 120.0
# A teacher may cost half a second a recording whatever its length; it batches by itself.
TEACHER_BATCH_CUTS = 16

Seconds = dict[str, float]


def evaluate(
    config: EvaluateConfig, *, data: Path, student: Path, out: Path, teacher_embeddings: Path | None = None
) -> Artifact:
    """Decode a split with every configured decoder and write a wer-report.

    Args:
        teacher_embeddings: names the teacher whose own WER is reported beside the student's, where it can transcribe.
    Returns:
        wer-report: wer.json (``WerReport``), utterances.jsonl with the alignment of every utterance.
        ``figures["wer"]`` is greedy decoding's, or the first decoder's when greedy is not among them, in the model's
        own chunks. ``chunk_ms`` beside every WER is the latency that its chunks imply, None: the whole utterance.
    Raises:
        ArtifactError: an input is missing, corrupt, or the student was not made from this data.
        EmptyCutSetError: the data has no such split.
        ConfigError: no decoder is named, or the device is not there.
    """
    if not config.decoders:
        raise ConfigError(
            "evaluate.decoders", expected="at least one decoder", got="an empty list", next_step="name greedy, for one"
        )
    manifest = load_artifact(data, "cut-manifest")
    device = resolve_device(config.device)
    transducer, tokens, student_artifact = load_transducer(student, device)
    student_artifact.require_parent(manifest)
    parents = [manifest, student_artifact]
    teacher = None
    if config.teacher_wer and teacher_embeddings is not None:
        embeddings = load_artifact(teacher_embeddings, "teacher-embeddings")
        embeddings.require_parent(manifest)
        parents.append(embeddings)
        teacher = _teacher_of(embeddings, device)
    partial = PartialArtifact(
        out, "wer-report", stage="evaluate", config=config.model_dump(mode="json"), parents=parents
    )

    scored = load_scored_split(manifest, config.split)
    passes = _passes(config, transducer.student.config.chunk_frames)
    decoded, seconds = _decode(config, passes, transducer, scored)
    hyps: dict[tuple[str, Runtime], list[str]] = {
        (decoder, "torch"): [normalize_text(tokens.decode(found.tokens), scored.text_normalizer) for found in results]
        for decoder, results in decoded.items()
    }
    teacher_texts = _transcribe(teacher, scored, seconds) if teacher is not None else None
    if teacher_texts is not None:
        hyps[TEACHER, "teacher"] = teacher_texts
    report = build_report(
        test_set_sha256=scored.sha256,
        text_normalizer=scored.text_normalizer,
        split=scored.split,
        ids=scored.ids,
        refs=scored.refs,
        hyps=hyps,
        speakers=scored.speakers,
        bootstrap_samples=config.bootstrap_samples,
        seed=config.seed,
    )
    report.save(partial.path)
    write_alignments(report, partial.path)
    return partial.commit(
        facts={
            "split": report.split,
            "test_set_sha256": report.test_set_sha256,
            "text_normalizer": report.text_normalizer,
            "teacher_id": teacher.id if teacher_texts is not None and teacher is not None else None,
        },
        figures=_figures(report, scored, seconds, passes),
    )


def _teacher_of(embeddings: Artifact, device: str) -> Teacher:
    from mvqkd.teacher.extract import teacher_of

    teacher: Teacher = teacher_of(embeddings, device)
    return teacher


@dataclass(frozen=True)
class _Pass:
    """A run of the encoder in chunks of one size, and the rows that are decoded from it: row's decoder -> search."""

    chunk_frames: int
    searches: dict[str, Decoder]


def _passes(config: EvaluateConfig, own_chunk_frames: int) -> list[_Pass]:
    """The model's own chunks, whose rows are named after the plain decoder, then the other sizes."""
    others = [
        _Pass(chunk, {chunked_decoder(decoder, chunk): decoder for decoder in config.decoders})
        for chunk in config.chunk_frames
    ]
    return [_Pass(own_chunk_frames, {decoder: decoder for decoder in config.decoders}), *others]


def _decode(
    config: EvaluateConfig, passes: list[_Pass], runtime: TorchTransducer, scored: ScoredSplit
) -> tuple[dict[str, list[Hypothesis]], Seconds]:
    """Hypotheses of every row, in the order of the cuts; seconds each took, features and encoder included."""
    found: dict[str, dict[int, Hypothesis]] = {name: {} for each in passes for name in each.searches}
    seconds: Seconds = defaultdict(float)
    batches = by_length([cut.duration for cut in scored.cuts], max_padded=BATCH_DURATION_S)
    for batch in track(batches, "evaluate", total=len(batches), unit="batch"):
        audio = [load_audio(scored.cuts[position]) for position in batch]
        started = time.perf_counter()
        features, lengths = pad_features([log_mel(samples) for samples in audio])
        features_s = time.perf_counter() - started
        for each in passes:
            started = time.perf_counter()
            hidden, frames = runtime.hidden(features, lengths, chunk_frames=each.chunk_frames)
            shared_s = features_s + time.perf_counter() - started
            for name, decoder in each.searches.items():
                started = time.perf_counter()
                results = _search(decoder, runtime, hidden, frames, config.beam_size)
                seconds[name] += shared_s + time.perf_counter() - started
                found[name].update(zip(batch, results, strict=True))
    order = range(len(scored.cuts))
    return {name: [results[position] for position in order] for name, results in found.items()}, seconds


def _search(
    decoder: Decoder, runtime: TorchTransducer, hidden: torch.Tensor, frames: NDArray[np.int64], beam_size: int
) -> list[Hypothesis]:
    if decoder == "ctc_greedy":
        return ctc_greedy_search(runtime.ctc_log_probs(hidden), frames)
    if decoder == "greedy":
        return greedy_search(runtime, runtime.project(hidden), frames)
    return modified_beam_search(runtime, runtime.project(hidden), frames, beam_size=beam_size)


def _transcribe(teacher: Teacher, scored: ScoredSplit, seconds: Seconds) -> list[str] | None:
    """The teacher's texts, normalised; None when it has no decoder."""
    texts: list[str] = []
    starts = range(0, len(scored.cuts), TEACHER_BATCH_CUTS)
    for start in track(starts, f"evaluate {teacher.id}", total=len(starts), unit="batch"):
        audio = [load_audio(cut) for cut in scored.cuts[start : start + TEACHER_BATCH_CUTS]]
        started = time.perf_counter()
        results = teacher.transcribe(audio)
        if results is None:
            return None
        seconds[TEACHER] += time.perf_counter() - started
        texts += [normalize_text(text, scored.text_normalizer) for text in results]
    return texts


def write_alignments(report: WerReport, directory: Path) -> None:
    """Write utterances.jsonl: id, ref and, per row, the alignment as pairs of words.

    A pair [null, word] is an insertion, [word, null] a deletion, two different words a substitution.
    """
    with atomic_open(directory / UTTERANCES_FILE) as stream:
        for utterance in report.utterances:
            alignments = {name: align_words(utterance.ref, text) for name, text in utterance.hyp.items()}
            line = {"id": utterance.id, "ref": utterance.ref, "alignments": alignments}
            stream.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")


def _figures(report: WerReport, scored: ScoredSplit, seconds: Seconds, passes: list[_Pass]) -> dict[str, Any]:
    headline = report.row(GREEDY, "torch") or report.rows[0]
    rows = {row.decoder: _row_figures(row, scored, seconds) for row in report.rows}
    for each in passes:
        for name in each.searches:
            rows[name]["chunk_ms"] = chunk_ms(each.chunk_frames)
    return {
        **rows[headline.decoder],
        "num_utterances": report.num_utterances,
        "num_words": report.num_words,
        "duration_s": round(scored.duration_s, 3),
        "num_threads": torch.get_num_threads(),
        **({"teacher_wer": rows[TEACHER]["wer"]} if TEACHER in rows else {}),
        "rows": rows,
    }


def _row_figures(row: Row, scored: ScoredSplit, seconds: Seconds) -> dict[str, Any]:
    decode_s = seconds[row.decoder]
    return {**row_figures(row), "decode_s": round(decode_s, 3), "rtf": decode_s / scored.duration_s}
