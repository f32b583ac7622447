"""Recognise audio while it arrives: partial results, segments that end at pauses, and how late the words are."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mvqkd.cli.transcribe_input import no_samples, subject_of
from mvqkd.decode.endpoint import EndpointRules
from mvqkd.decode.streaming import AudioStream, StreamingRecognizer
from mvqkd.decode.transcript import Segment, Transcript
from mvqkd.errors import MvqkdError
from mvqkd.frames import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from mvqkd.cli.transcribe_input import Source
    from mvqkd.cli.transcribe_output import Output
    from mvqkd.data.audio import Samples


def transcribe(
    arguments: argparse.Namespace, directory: Path, names: Sequence[str | MvqkdError], source: Source, output: Output
) -> Iterator[tuple[Transcript | MvqkdError, str]]:
    """Write recordings to ``output`` while they arrive; give each transcript, or why there is none, and its latency."""
    recognizer = StreamingRecognizer(directory, num_threads=arguments.num_threads, int8=arguments.int8)
    for name in names:
        try:
            if isinstance(name, MvqkdError):
                raise name
            output.begin(name)
            clock = WallClock() if arguments.real_time else ModelClock()
            live = LiveTranscription(recognizer, EndpointRules(), output, clock)
            transcript, latency = live.run(name, source.blocks(name))
        except MvqkdError as error:
            output.abandon()
            yield error, ""
            continue
        output.end(transcript)
        yield transcript, f", {latency}"


class Clock(Protocol):
    """Tells when something is shown, in seconds from the recording's start."""

    def feed(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Pass blocks on, as fast as this clock allows."""
        ...

    def shown_s(self, heard_s: float, computing_s: float) -> float:
        """The time after ``computing_s`` more of computing, when ``heard_s`` of audio have been passed on."""
        ...


class ModelClock:
    """The time that it would be were the audio live: a block is there when it was spoken, and computing takes its time.

    Audio is passed on at once, so that a file need not be waited for.
    """

    def __init__(self) -> None:
        self._busy_until_s = 0.0

    def feed(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        yield from blocks

    def shown_s(self, heard_s: float, computing_s: float) -> float:
        self._busy_until_s = max(self._busy_until_s, heard_s) + computing_s
        return self._busy_until_s


class WallClock:
    """The real time: each block is held back until its last sample would have been spoken."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def feed(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        self._started = time.monotonic()
        num_samples = 0
        for block in blocks:
            num_samples += len(block)
            time.sleep(max(0.0, self._started + num_samples / SAMPLE_RATE_HZ - time.monotonic()))
            yield block

    def shown_s(self, heard_s: float, computing_s: float) -> float:
        return time.monotonic() - self._started


@dataclass(frozen=True)
class Latency:
    """How late words are shown.

    ``first_token_s``: of each segment, from its first token's place in the audio until it is shown. ``final_s``: from
    the end of the audio until the last text is final.
    """

    first_token_s: tuple[float, ...]
    final_s: float

    def __str__(self) -> str:
        first = f"first token after {statistics.median(self.first_token_s):.3f} s, " if self.first_token_s else ""
        return f"{first}final {max(0.0, self.final_s):.3f} s after the end"


class LiveTranscription:
    """One recording through a stream.

    Args:
        recognizer: is used by nobody else meanwhile.
        rules: when a segment ends.
        output: gets partial texts and final segments as they come.
    """

    def __init__(self, recognizer: StreamingRecognizer, rules: EndpointRules, output: Output, clock: Clock) -> None:
        self._recognizer = recognizer
        self._rules = rules
        self._output = output
        self._clock = clock
        self._stream: AudioStream = recognizer.open_stream()
        self._segments: list[Segment] = []
        self._segment_start_s = 0.0
        self._shown_text = ""
        self._shown_s = 0.0
        self._first_token_s: list[float] = []
        self._wall_s = 0.0

    def run(self, audio: str, blocks: Iterable[Samples]) -> tuple[Transcript, Latency]:
        """Recognise a recording that arrives in blocks, float32 (n,), 16 kHz mono.

        Raises:
            AudioError: there was nothing in it, or what ``blocks`` raises.
        """
        stream = self._stream
        for block in self._clock.feed(blocks):
            started = time.perf_counter()
            stream.accept(block)
            self._advance(started)
        if not stream.duration_s:
            raise no_samples(subject_of(audio))
        started = time.perf_counter()
        stream.finish()
        self._advance(started)
        self._close_segment()
        transcript = Transcript(audio, stream.duration_s, tuple(self._segments), self._wall_s)
        return transcript, Latency(tuple(self._first_token_s), self._shown_s - stream.duration_s)

    def _advance(self, started: float) -> None:
        """Decode what is ready; ``started``: when work on the block began."""
        stream = self._stream
        while self._recognizer.decode([stream]):
            started = self._count(started)
            result = stream.result
            if result.tokens and not self._shown_text:
                self._first_token_s.append(self._shown_s - result.times_s[0])
            if result.text != self._shown_text:
                self._shown_text = result.text
                self._output.partial(result.text, stream.duration_s)
            if self._rules.reached(
                has_words=bool(result.tokens),
                trailing_silence_s=stream.trailing_silence_s,
                segment_s=stream.decoded_s - self._segment_start_s,
            ):
                self._close_segment()
        self._count(started)

    def _count(self, started: float) -> float:
        now = time.perf_counter()
        self._wall_s += now - started
        self._shown_s = self._clock.shown_s(self._stream.duration_s, now - started)
        return now

    def _close_segment(self) -> None:
        end_s = min(self._stream.decoded_s, self._stream.duration_s)
        result = self._stream.reset()
        if result.tokens:
            segment = Segment(result.text, result.tokens, result.times_s, self._segment_start_s, end_s)
            self._segments.append(segment)
            self._output.final(segment)
        self._segment_start_s, self._shown_text = end_s, ""
