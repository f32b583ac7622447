"""Transcribe whole recordings, one by one or in batches, with hotwords where the user gives some."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvqkd.data.text import normalize_text
from mvqkd.decode.bpe import BpeEncoder
from mvqkd.decode.hotwords import DEFAULT_SCORE, ContextGraph, read_hotwords
from mvqkd.decode.onnx_runtime import OnnxTransducer
from mvqkd.decode.search import NO_HOTWORDS
from mvqkd.decode.transcript import Transcript
from mvqkd.errors import MvqkdError
from mvqkd.frames import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from mvqkd.cli.transcribe_input import Source
    from mvqkd.cli.transcribe_output import Output
    from mvqkd.data.audio import Samples
    from mvqkd.data.tokens import Tokens

# How much audio, in batches, is read before it is decoded: with more, batches are of more equal lengths.
_BATCHES_READ = 4


def transcribe(
    arguments: argparse.Namespace, directory: Path, names: Sequence[str | MvqkdError], source: Source, output: Output
) -> Iterator[tuple[Transcript | MvqkdError, str]]:
    """Write each recording to ``output``; give its transcript, or why there is none, and a note on it."""
    transducer = OnnxTransducer(directory, num_threads=arguments.num_threads, int8=arguments.int8)
    hotwords = NO_HOTWORDS
    if arguments.hotwords:
        hotwords = _hotwords(arguments.hotwords, arguments.hotwords_score, directory, transducer.tokens)
    for group in _groups(names, source, _BATCHES_READ * arguments.batch_duration):
        audio = [samples for _, samples in group if not isinstance(samples, MvqkdError)]
        started = time.perf_counter()
        found = transducer.recognise(
            audio,
            decoder=arguments.decoder or ("modified_beam_search" if arguments.hotwords else "greedy"),
            beam_size=arguments.beam_size,
            hotwords=hotwords,
            batch_duration_s=arguments.batch_duration,
        )
        wall_s = time.perf_counter() - started
        remaining, num_samples = iter(found), sum(map(len, audio))
        for name, samples in group:
            if isinstance(samples, MvqkdError):
                yield samples, ""
                continue
            # Recordings of a batch share its time by their lengths.
            share_s = wall_s * len(samples) / num_samples
            transcript = Transcript(name, len(samples) / SAMPLE_RATE_HZ, next(remaining), share_s)
            output.begin(name)
            output.end(transcript)
            yield transcript, ""


def _groups(
    names: Sequence[str | MvqkdError], source: Source, duration_s: float
) -> Iterator[list[tuple[str, Samples | MvqkdError]]]:
    """Read recordings, or why they cannot be read, in groups of at least ``duration_s`` of audio."""
    group: list[tuple[str, Samples | MvqkdError]] = []
    read_s = 0.0
    for name in names:
        try:
            if isinstance(name, MvqkdError):
                raise name
            samples = source.read(name)
            group.append((name, samples))
            read_s += len(samples) / SAMPLE_RATE_HZ
        except MvqkdError as error:
            group.append(("", error))
        if read_s >= duration_s:
            yield group
            group, read_s = [], 0.0
    if group:
        yield group


def _hotwords(file: Path, score: float | None, directory: Path, tokens: Tokens) -> ContextGraph:
    version = json.loads((directory / "bundle.json").read_text(encoding="utf-8"))["text_normalizer"]
    is_bpe = any(len(symbol) > 1 for symbol in tokens.symbols[2:])
    encode = BpeEncoder.load(directory, tokens).encode if is_bpe else tokens.encode
    return ContextGraph(
        read_hotwords(
            file, lambda text: encode(normalize_text(text, version)), score=DEFAULT_SCORE if score is None else score
        )
    )
