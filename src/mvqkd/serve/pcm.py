"""Binary messages of a stream to samples for the recogniser."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.serve.protocol import MAX_MESSAGE_BYTES, SAMPLE_FORMATS, ClientFault, Start

Floats = NDArray[np.float32]

# Resampling and effects overshoot 1 a little; integers sent as floats overshoot it by thousands.
_MAX_AMPLITUDE = 8.0


class PcmDecoder:
    """Turns one client's messages into float32 samples at 16 kHz, checked; keeps the resampler's state.

    Args:
        start: sampling rate and format of the messages.
    """

    def __init__(self, start: Start) -> None:
        self._dtype = np.dtype(SAMPLE_FORMATS[start.sample_format])
        self._resampler = None
        if start.sample_rate_hz != SAMPLE_RATE_HZ:
            import soxr

            self._resampler = soxr.ResampleStream(start.sample_rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def decode(self, message: bytes) -> Floats:
        """Samples of one message; fewer or more than it holds where the rate differs.

        Raises:
            ClientFault: not whole samples, not finite, far out of [-1, 1], or too many at once.
        """
        if len(message) > MAX_MESSAGE_BYTES or len(message) % self._dtype.itemsize:
            raise _fault(
                f"at most {MAX_MESSAGE_BYTES} bytes, whole samples of {self._dtype.itemsize}", f"{len(message)} bytes"
            )
        samples = np.frombuffer(message, dtype=self._dtype)
        if samples.dtype.kind == "i":
            samples = samples.astype(np.float32) / 32768.0
        else:
            # NaN fails every comparison, so that one test finds it, too.
            if not (np.abs(samples) <= _MAX_AMPLITUDE).all():
                raise _fault("finite samples in [-1, 1]", "NaN, infinite or far larger ones")
            samples = samples.astype(np.float32)
        return self._resample(samples, last=False)

    def flush(self) -> Floats:
        """What the resampler still holds, at the end."""
        return self._resample(np.zeros(0, dtype=np.float32), last=True)

    def _resample(self, samples: Floats, *, last: bool) -> Floats:
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(samples, last=last), dtype=np.float32)


def _fault(expected: str, got: str) -> ClientFault:
    return ClientFault(
        "audio message",
        code="malformed",
        expected=expected,
        got=got,
        next_step='send what the start message\'s "format" says, little-endian, one channel',
    )
