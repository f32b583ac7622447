"""Raw PCM that arrives in pieces of any size, and the header of a WAV file that is still being written."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.audio import Decoded, OnlineResampler, stereo_error
from mvqkd.errors import AudioError

Samples = NDArray[np.float32]

# Format -> type of a sample, the value that means 0, the amplitude that means 1. Names are ffmpeg's.
PCM_FORMATS: dict[str, tuple[str, float, float]] = {
    "u8": ("u1", 128.0, 128.0),
    "s16le": ("<i2", 0.0, 32768.0),
    "s16be": (">i2", 0.0, 32768.0),
    "s32le": ("<i4", 0.0, 2147483648.0),
    "f32le": ("<f4", 0.0, 1.0),
}
_WAV_INTEGER, _WAV_FLOAT, _WAV_EXTENSIBLE = 1, 3, 0xFFFE
_FORMAT_OF_WAV = {(_WAV_INTEGER, 8): "u8", (_WAV_INTEGER, 16): "s16le", (_WAV_INTEGER, 32): "s32le"} | {
    (_WAV_FLOAT, 32): "f32le"
}


@dataclass(frozen=True)
class PcmLayout:
    """How samples lie in a byte stream: a key of PCM_FORMATS, their rate, interleaved channels."""

    form: str
    rate_hz: int
    num_channels: int = 1


class PcmDecoder:
    """Bytes in, float32 samples at 16 kHz out, one channel; keeps what does not make a whole sample, and the resampler.

    Args:
        subject: what error messages call the stream.
        mix_down: average the channels instead of refusing more than one.
    Raises:
        AudioError: more than one channel without ``mix_down``.
    """

    def __init__(self, layout: PcmLayout, subject: str, *, mix_down: bool = False) -> None:
        if layout.num_channels != 1 and not mix_down:
            raise stereo_error(subject, Decoded(np.zeros((layout.num_channels, 0), np.float32), layout.rate_hz, False))
        kind, self._zero, self._one = PCM_FORMATS[layout.form]
        self._dtype = np.dtype(kind)
        self._num_channels = layout.num_channels
        self._subject = subject
        self._rest = b""
        self._resampler = OnlineResampler(layout.rate_hz)

    def accept(self, data: bytes) -> Samples:
        """Samples that ``data`` completes, float32 (n,); n may be 0.

        Raises:
            AudioError: NaN or infinite samples.
        """
        data = self._rest + data
        whole = len(data) - len(data) % (self._dtype.itemsize * self._num_channels)
        self._rest = data[whole:]
        frames = np.frombuffer(data, self._dtype, count=whole // self._dtype.itemsize).reshape(-1, self._num_channels)
        samples = ((frames.astype(np.float32) - self._zero) / self._one).mean(axis=1, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise AudioError(
                self._subject,
                expected="finite samples",
                got="NaN or infinite ones",
                next_step="check the format of the stream",
            )
        return self._resampler.accept(samples)

    def finish(self) -> Samples:
        """What the resampler still holds, at the end of the stream."""
        return self._resampler.finish()


def read_wav_header(stream: BinaryIO, subject: str) -> PcmLayout:
    """Read the header of a WAV stream up to its first sample; what follows is raw PCM.

    The lengths in it are not looked at: a recorder that writes to a pipe does not know them.

    Args:
        stream: need not be seekable; stands behind ``RIFF``.
    Raises:
        AudioError: no WAV, or samples of another type than PCM_FORMATS.
    """
    if _exactly(stream, 8, subject)[4:] != b"WAVE":
        raise _no_wav(subject, "another RIFF file")
    layout: PcmLayout | None = None
    while True:
        name, size = struct.unpack("<4sI", _exactly(stream, 8, subject))
        if name == b"data" and layout is not None:
            return layout
        body = _exactly(stream, size + size % 2, subject)
        if name == b"fmt ":
            if size < 16:
                raise _no_wav(subject, f"a format of {size} bytes")
            kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if kind == _WAV_EXTENSIBLE and size >= 26:
                (kind,) = struct.unpack("<H", body[24:26])
            form = _FORMAT_OF_WAV.get((kind, bits))
            if form is None or not channels or not rate_hz:
                raise _no_wav(subject, f"samples of {bits} bits, type {kind}")
            layout = PcmLayout(form, rate_hz, channels)


def _exactly(stream: BinaryIO, num_bytes: int, subject: str) -> bytes:
    data = b""
    while len(data) < num_bytes:
        more = stream.read(num_bytes - len(data))
        if not more:
            raise _no_wav(subject, "its end within the header")
        data += more
    return data


def _no_wav(subject: str, got: str) -> AudioError:
    return AudioError(
        subject,
        expected="a WAV stream of 8, 16 or 32 bit integers or 32 bit floats",
        got=got,
        next_step="convert it, for example with `ffmpeg -i IN -f wav -ac 1 -ar 16000 -`",
    )
