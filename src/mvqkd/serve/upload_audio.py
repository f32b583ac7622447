"""Audio that strangers send: decoded piece by piece, so that a small file cannot become a huge array.

``mvqkd.data.audio`` reads the user's own files, whole. Here the length is bounded while decoding (headers may lie), and
PyAV is held to containers that refer to no other file or address.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mvqkd.data.audio import SELF_CONTAINED, Decoded, OnlineResampler, stereo_error
from mvqkd.errors import AudioError
from mvqkd.frames import SAMPLE_RATE_HZ
from mvqkd.serve.protocol import ClientFault

Floats = NDArray[np.float32]
# float32 (samples, channels) and its sampling rate.
Block = tuple[Floats, int]

_SUBJECT = "upload"


def decode_upload(file: IO[bytes], *, max_duration_s: float, mix_down: bool = False) -> Floats:
    """Decode a recording to float32 (n,), 16 kHz, one channel.

    Args:
        mix_down: average the channels instead of refusing more than one.
    Raises:
        AudioError: not audio, empty, not finite, or more than one channel.
        ClientFault: longer than ``max_duration_s``.
    """
    parts: list[Floats] = []
    resampler: OnlineResampler | None = None
    num_samples = 0
    for samples, rate_hz in _blocks(file):
        channels = samples.shape[1]
        if channels != 1 and not mix_down:
            raise stereo_error(_SUBJECT, Decoded(np.empty((channels, 0), np.float32), rate_hz, by_soundfile=True))
        mono = samples.mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise _unusable("NaN or infinite samples")
        resampler = resampler or OnlineResampler(rate_hz)
        parts.append(resampler.accept(mono))
        num_samples += len(parts[-1])
        if num_samples > max_duration_s * SAMPLE_RATE_HZ:
            raise ClientFault(
                _SUBJECT,
                code="too_long",
                status=413,
                expected=f"at most {max_duration_s:g} s of audio",
                got="more",
                next_step="cut it into parts",
            )
    if resampler is not None:
        parts.append(resampler.finish())
    if not num_samples:
        raise _unusable("no samples")
    return np.concatenate(parts)


def _blocks(file: IO[bytes]) -> Iterator[Block]:
    import soundfile

    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, RuntimeError, TypeError):
        file.seek(0)
        yield from _blocks_with_av(file)
        return
    with sound:
        rate_hz = int(sound.samplerate)
        try:
            for block in sound.blocks(blocksize=rate_hz, dtype="float32", always_2d=True):
                yield block, rate_hz
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise _unusable("a damaged file") from error


def _blocks_with_av(file: IO[bytes]) -> Iterator[Block]:
    try:
        import av
    except ModuleNotFoundError:
        raise _unusable("bytes that soundfile cannot decode (the server has no PyAV for other formats)") from None
    try:
        with av.open(file, **SELF_CONTAINED) as container:
            if not container.streams.audio:
                raise _unusable("a file without audio")
            stream = container.streams.audio[0]
            to_float = av.AudioResampler(format="flt")
            for frame in container.decode(stream):
                for converted in to_float.resample(frame):
                    yield _interleaved(converted), int(converted.sample_rate)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _unusable("bytes that are no audio file") from error


def _interleaved(frame: Any) -> Floats:
    samples = np.asarray(frame.to_ndarray(), dtype=np.float32)
    channels = int(frame.layout.nb_channels)
    return samples.reshape(-1, channels)


def _unusable(got: str) -> AudioError:
    return AudioError(
        _SUBJECT,
        expected="a recording that can be decoded",
        got=got,
        next_step="send WAV, FLAC, OGG or MP3, or check the file",
    )
