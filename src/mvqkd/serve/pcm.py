"""Binary messages of a stream to samples for the recogniser."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.pcm import PcmDecoder, PcmLayout
from mvqkd.serve.protocol import MAX_MESSAGE_BYTES, SAMPLE_FORMATS, ClientFault, Start

Floats = NDArray[np.float32]

# Resampling and effects overshoot 1 a little; integers sent as floats overshoot it by thousands.
_MAX_AMPLITUDE = 8.0


class MessageDecoder:
    """Turns one client's messages into float32 samples at 16 kHz, checked; keeps the resampler's state.

    Args:
        start: sampling rate and format of the messages.
    """

    def __init__(self, start: Start) -> None:
        self._dtype = np.dtype(SAMPLE_FORMATS[start.sample_format])
        self._pcm = PcmDecoder(PcmLayout(start.sample_format, start.sample_rate_hz), "audio message")

    def decode(self, message: bytes) -> Floats:
        """Samples of one message; fewer or more than it holds where the rate differs.

        Raises:
            ClientFault: not whole samples, not finite, far out of [-1, 1], or too many at once.
        """
        if len(message) > MAX_MESSAGE_BYTES or len(message) % self._dtype.itemsize:
            raise _fault(
                f"at most {MAX_MESSAGE_BYTES} bytes, whole samples of {self._dtype.itemsize}", f"{len(message)} bytes"
            )
        # NaN fails every comparison, so that one test finds it, too.
        if self._dtype.kind == "f" and not (np.abs(np.frombuffer(message, self._dtype)) <= _MAX_AMPLITUDE).all():
            raise _fault("finite samples in [-1, 1]", "NaN, infinite or far larger ones")
        return self._pcm.accept(message)

    def flush(self) -> Floats:
        """What the resampler still holds, at the end."""
        return self._pcm.finish()


def _fault(expected: str, got: str) -> ClientFault:
    return ClientFault(
        "audio message",
        code="malformed",
        expected=expected,
        got=got,
        next_step='send what the start message\'s "format" says, little-endian, one channel',
    )
