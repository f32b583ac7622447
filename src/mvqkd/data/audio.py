"""Reading recordings: always float32, one channel, 16 kHz.

soundfile decodes WAV, FLAC, OGG and MP3; PyAV, where it is installed, what soundfile cannot (G.722, AAC, ...). Other
sampling rates are converted with soxr. More than one channel is refused unless the caller asks for a mix: which
channel holds the speech is the user's knowledge.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from mvqkd.artifacts import file_sha256
from mvqkd.errors import AudioError, MissingDependencyError
from mvqkd.frames import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]


def _refuse_to_open(*_: object) -> NoReturn:
    raise OSError("a recording refers to something outside itself")


# For PyAV: containers that hold their audio. Not hls, dash, concat, sdp and others, which open what their text names.
_CONTAINERS = "mov,mp4,m4a,3gp,matroska,webm,ogg,mp3,aac,flac,wav,w64,aiff,au,caf,amr,asf,g722"
SELF_CONTAINED: dict[str, Any] = {"container_options": {"format_whitelist": _CONTAINERS}, "io_open": _refuse_to_open}


@dataclass(frozen=True)
class Decoded:
    """A decoded file: float32 (channels, samples) at its own rate, and whether soundfile could read it."""

    samples: Samples
    rate_hz: int
    by_soundfile: bool

    @property
    def num_channels(self) -> int:
        return int(self.samples.shape[0])


def decode_file(path: Path) -> Decoded:
    """Decode every channel of an audio file at its own sampling rate.

    Raises:
        AudioError: no such file, or neither soundfile nor PyAV finds audio in it.
        MissingDependencyError: soundfile finds no audio in it, and PyAV is not installed.
    """
    if not path.is_file():
        raise AudioError(f"recording {path}", expected="a file", got="no such file", next_step="check the path")
    with path.open("rb") as stream:
        return decode_stream(stream, f"recording {path}")


def decode_stream(stream: BinaryIO, subject: str) -> Decoded:
    """Decode an audio file that is open, or in memory, and can be sought in; see ``decode_file``.

    Args:
        subject: what error messages call it.
    """
    import soundfile

    try:
        samples, rate_hz = soundfile.read(stream, dtype="float32", always_2d=True)
        return Decoded(np.ascontiguousarray(samples.T), int(rate_hz), by_soundfile=True)
    except soundfile.LibsndfileError as error:
        stream.seek(0)
        return _decode_with_av(stream, subject, str(error).rpartition(": ")[2])


def _decode_with_av(stream: BinaryIO, subject: str, earlier_error: str) -> Decoded:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            subject,
            expected="WAV, FLAC, OGG or MP3, or the package av for other formats",
            got=f"a file that soundfile cannot decode ({earlier_error.strip(' .')}), and no av",
            next_step="pip install av, or convert it to 16 kHz mono WAV",
        ) from error

    try:
        with av.open(stream, **SELF_CONTAINED) as container:
            if not container.streams.audio:
                raise ValueError("no audio stream")
            track = container.streams.audio[0]
            rate_hz = int(track.rate)
            to_float = av.AudioResampler(format="fltp")
            frames = [part for frame in container.decode(track) for part in to_float.resample(frame)]
            frames += to_float.resample(None)
        if not frames:
            raise ValueError("no audio frames")
        samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise AudioError(
            subject,
            expected="an audio file that soundfile or PyAV can decode",
            got=f"{stream.seek(0, io.SEEK_END)} bytes that neither can ({earlier_error.strip(' .')}; {error})",
            next_step="replace or remove it, or convert it to 16 kHz mono WAV",
        ) from error
    return Decoded(np.ascontiguousarray(samples, dtype=np.float32), rate_hz, by_soundfile=False)


def resample(samples: Samples, rate_hz: int) -> Samples:
    """Convert float32 (samples,) from ``rate_hz`` to 16 kHz; unchanged when it is 16 kHz already."""
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ, quality="HQ"), dtype=np.float32)


class OnlineResampler:
    """Audio that arrives in pieces to 16 kHz; keeps what the next piece is needed for.

    Args:
        rate_hz: of the pieces; at 16 kHz they come out as they are.
    """

    def __init__(self, rate_hz: int) -> None:
        self._stream: Any = None
        if rate_hz != SAMPLE_RATE_HZ:
            import soxr

            self._stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")

    def accept(self, samples: Samples) -> Samples:
        """What the next samples, float32 (n,), give; float32 (m,), m may be 0."""
        return self._resampled(samples, last=False)

    def finish(self) -> Samples:
        """What was kept, at the end."""
        return self._resampled(np.zeros(0, dtype=np.float32), last=True)

    def _resampled(self, samples: Samples, *, last: bool) -> Samples:
        if self._stream is None:
            return samples
        return np.asarray(self._stream.resample_chunk(samples, last=last), dtype=np.float32)


def read_audio(path: Path, *, mix_down: bool = False) -> Samples:
    """Read any audio file as float32 (samples,), 16 kHz, one channel.

    Args:
        mix_down: average the channels instead of refusing more than one.
    Raises:
        AudioError: unreadable, empty, not finite, or more than one channel.
    """
    return one_channel(decode_file(Path(path)), f"recording {path}", mix_down=mix_down)


def one_channel(decoded: Decoded, subject: str, *, mix_down: bool = False) -> Samples:
    """What was decoded as float32 (samples,), 16 kHz, one channel; arguments and errors as for ``read_audio``."""
    if decoded.num_channels != 1 and not mix_down:
        raise stereo_error(subject, decoded)
    samples = decoded.samples.mean(axis=0, dtype=np.float32)
    if samples.size == 0 or not np.isfinite(samples).all():
        raise AudioError(
            subject,
            expected="finite samples",
            got="no samples" if samples.size == 0 else "NaN or infinite samples",
            next_step="replace or remove the file",
        )
    return resample(samples, decoded.rate_hz)


def stereo_error(subject: str, decoded: Decoded) -> AudioError:
    """The refusal of a recording with more than one channel."""
    return AudioError(
        subject,
        expected="one channel",
        got=f"{decoded.num_channels} channels at {decoded.rate_hz} Hz",
        next_step="mix it down (`ffmpeg -i IN -ac 1 -ar 16000 OUT.wav`) or keep the channel with the speech",
    )


def num_samples(cut: Any) -> int:
    """Exact number of samples that ``load_audio(cut)`` gives, without reading audio."""
    return int(cut.num_samples)


def load_audio(cut: Any) -> Samples:
    """Read a cut's audio, speed perturbation and other transforms applied.

    The file's bytes are compared with the digest that prepare-data recorded, once a process and file.

    Returns:
        float32 (num_samples(cut),), 16 kHz, one channel.
    Raises:
        AudioError: naming the cut: missing, unreadable, changed since prepare-data, or of another length.
    """
    from lhotse.audio import AudioLoadingError, DurationMismatchError

    _check_digest(cut)
    try:
        samples = cut.load_audio()
    except (AudioLoadingError, DurationMismatchError, OSError, AssertionError) as error:
        raise AudioError(
            f"cut {cut.id}",
            expected="readable audio",
            got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
            next_step="restore the recording, then re-run prepare-data",
        ) from error
    if samples is None or samples.shape != (1, num_samples(cut)):
        raise AudioError(
            f"cut {cut.id}",
            expected=f"{num_samples(cut)} samples of one channel",
            got="no recording" if samples is None else f"{samples.shape[1]} samples of {samples.shape[0]} channels",
            next_step="re-run prepare-data: the recording is not the one it has seen",
        )
    return np.ascontiguousarray(samples[0], dtype=np.float32)


def _check_digest(cut: Any) -> None:
    recorded = (getattr(cut, "custom", None) or {}).get("audio_sha256")
    if recorded is None:
        return
    path = Path(cut.recording.sources[0].source)
    try:
        digest = audio_sha256(path)
    except OSError as error:
        raise AudioError(
            f"cut {cut.id}",
            expected=f"recording {path}",
            got=error.strerror or str(error),
            next_step="restore the recording or re-run prepare-data",
        ) from error
    if digest != recorded:
        raise AudioError(
            f"cut {cut.id}",
            expected=f"recording {path} with sha256 {recorded[:16]}",
            got=f"sha256 {digest[:16]}: it has changed since prepare-data",
            next_step="restore the recording or re-run prepare-data and everything after it",
        )


def audio_sha256(path: Path) -> str:
    """sha256 of a recording's bytes, computed once a process while its size and time of change stay the same."""
    status = path.stat()
    return _sha256_of_state(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 17)
def _sha256_of_state(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    return file_sha256(path)
