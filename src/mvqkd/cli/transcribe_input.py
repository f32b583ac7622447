"""What ``mvqkd transcribe`` hears: files, folders, stdin as a file, as a WAV that is being recorded, or as raw PCM."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mvqkd.errors import AudioError

if TYPE_CHECKING:
    from mvqkd.data.audio import Samples
    from mvqkd.data.pcm import PcmLayout

# What a folder is searched for; a file that is named itself may have any suffix.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".aac", ".aif", ".aiff", ".au", ".g722", ".webm", ".wma"}
)
STDIN = "-"
# Small against the latency that is measured, large against the cost of a call.
BLOCK_S = 0.02
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """How recordings are read.

    Args:
        stdin: what ``-`` stands for; may be a pipe.
        layout: of raw PCM; None: files that say themselves what they are.
        mix_down: average the channels of a recording that has several.
    """

    stdin: BinaryIO
    layout: PcmLayout | None = None
    mix_down: bool = False

    def read(self, name: str) -> Samples:
        """A whole recording, float32 (num_samples,), 16 kHz, one channel.

        Raises:
            AudioError, MissingDependencyError: see ``mvqkd.data.audio.read_audio``.
        """
        from mvqkd.data.audio import decode_stream, one_channel, read_audio

        if self.layout is not None:
            return _joined(self._raw(name), subject_of(name))
        if name != STDIN:
            return read_audio(Path(name), mix_down=self.mix_down)
        content = io.BytesIO(self.stdin.read())
        return one_channel(decode_stream(content, subject_of(name)), subject_of(name), mix_down=self.mix_down)

    def blocks(self, name: str) -> Iterator[Samples]:
        """A recording in blocks, from stdin as they arrive."""
        if self.layout is not None:
            yield from self._raw(name)
        elif name == STDIN:
            yield from self._piped_file()
        else:
            yield from in_blocks(self.read(name))

    def _raw(self, name: str) -> Iterator[Samples]:
        assert self.layout is not None
        if name == STDIN:
            yield from self._decoded(self.stdin, self.layout, name)
            return
        try:
            with Path(name).open("rb") as stream:
                yield from self._decoded(stream, self.layout, name)
        except OSError as error:
            raise AudioError(
                subject_of(name), expected="a file of raw PCM", got=str(error), next_step="check the path"
            ) from error

    def _piped_file(self) -> Iterator[Samples]:
        from mvqkd.data.audio import decode_stream, one_channel
        from mvqkd.data.pcm import read_wav_header

        start = self.stdin.read(4)
        if start == b"RIFF":
            yield from self._decoded(self.stdin, read_wav_header(self.stdin, subject_of(STDIN)), STDIN)
            return
        content = io.BytesIO(start + self.stdin.read())
        decoded = decode_stream(content, subject_of(STDIN))
        yield from in_blocks(one_channel(decoded, subject_of(STDIN), mix_down=self.mix_down))

    def _decoded(self, stream: BinaryIO, layout: PcmLayout, name: str) -> Iterator[Samples]:
        from mvqkd.data.pcm import PcmDecoder

        decoder = PcmDecoder(layout, subject_of(name), mix_down=self.mix_down)
        # read1 gives what has arrived: waiting for a full buffer would hold the words back.
        read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        if name == STDIN:
            read = _UntilInterrupted(read)
        while data := read(_READ_BYTES):
            yield from in_blocks(decoder.accept(data))
        yield decoder.finish()


class _UntilInterrupted:
    """A ``read`` that finds the end of the stream at Ctrl-C: what was said into the microphone is still to be printed.

    A second Ctrl-C interrupts as usual.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._reading = self._interrupted = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_signal)

    def __call__(self, num_bytes: int) -> bytes:
        try:
            self._reading = True
            return b"" if self._interrupted else self._read(num_bytes)
        except KeyboardInterrupt:
            return b""
        finally:
            self._reading = False

    def _on_signal(self, number: int, frame: object) -> None:
        # Outside of a read, an exception would lose the block that is being decoded.
        if self._reading or self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True


def in_blocks(samples: Samples) -> Iterator[Samples]:
    """Cut samples into blocks of BLOCK_S."""
    from mvqkd.frames import SAMPLE_RATE_HZ

    size = round(BLOCK_S * SAMPLE_RATE_HZ)
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def find_audio(given: Path) -> Iterator[str | AudioError]:
    """The file itself, or the audio files below a folder in a stable order."""
    if not given.is_dir():
        yield str(given)
        return
    found = sorted(
        path
        for path in given.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        yield AudioError(
            f"folder {given}",
            expected=f"audio files ({', '.join(sorted(AUDIO_SUFFIXES))})",
            got="none",
            next_step="name the files themselves, or another folder",
        )
    yield from map(str, found)


def _joined(blocks: Iterator[Samples], subject: str) -> Samples:
    import numpy as np

    samples = np.concatenate([*blocks, np.zeros(0, dtype=np.float32)])
    if not len(samples):
        raise no_samples(subject)
    return samples


def no_samples(subject: str) -> AudioError:
    """The refusal of a recording in which there is nothing."""
    return AudioError(subject, expected="samples", got="none", next_step="check where the audio comes from")


def subject_of(name: str) -> str:
    """What error messages call a recording."""
    return "audio on stdin" if name == STDIN else f"recording {name}"
