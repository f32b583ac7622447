"""Every recording is decoded and judged once: usable, usable after conversion, or rejected with a reason."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.config import PrepareDataConfig
from mvqkd.data.audio import Decoded, Samples, audio_sha256, decode_file, resample, stereo_error
from mvqkd.data.sources import UNTRANSCRIBED, Row
from mvqkd.data.text import ambiguous_number, normalize_text
from mvqkd.errors import AudioError, DataError
from mvqkd.frames import SAMPLE_RATE_HZ

# Below telephone quality no teacher hears speech; above studio rates the header is wrong.
_MIN_RATE_HZ, _MAX_RATE_HZ = 8_000, 192_000
_TEXT_REASONS = frozenset({"no-text", "empty-text", "ambiguous-number", "duplicate-id"})


@dataclass(frozen=True)
class Rejected:
    """A recording that is not used: why, in the words of an error message."""

    id: str
    audio: str
    reason: str
    expected: str
    got: str
    next_step: str


@dataclass(frozen=True)
class Accepted:
    """A usable recording.

    ``text`` is normalised, None for untranscribed speech. ``converted`` holds float32 (samples,) at 16 kHz when the
    file itself is not 16 kHz mono that soundfile reads, else None and ``path`` is used as it is, from ``start_s`` on.
    ``source_sha256`` identifies the recording as its source holds it.
    """

    row: Row
    text: str | None
    num_samples: int
    source_sha256: str
    path: Path | None = None
    start_s: float = 0.0
    recording: Any = None
    converted: Samples | None = None

    @property
    def duration_s(self) -> float:
        return self.num_samples / SAMPLE_RATE_HZ


class _RejectedError(Exception):
    def __init__(self, reason: str, expected: str, got: str, next_step: str) -> None:
        super().__init__(reason)
        self.arguments = (reason, expected, got, next_step)


def examine(row: Row, config: PrepareDataConfig) -> Accepted | Rejected:
    """Decode and judge one recording; problems are returned, not raised."""
    try:
        text = _text_of(row, config)
        accepted, samples = _open(row, text)
        _check_sound(samples, config)
    except _RejectedError as rejection:
        return Rejected(row.id, row.shown_as, *rejection.arguments)
    return accepted


def duplicate(row: Row) -> Rejected:
    """The rejection of a row whose id an earlier row has."""
    return Rejected(row.id, row.shown_as, "duplicate-id", "distinct ids", f"id {row.id} again", "rename or remove one")


def _text_of(row: Row, config: PrepareDataConfig) -> str | None:
    if row.text is None:
        if row.split == UNTRANSCRIBED:
            return None
        raise _RejectedError(
            "no-text", "a transcript", "none", f"add its text, or set its split to {UNTRANSCRIBED} if it has none"
        )
    number = ambiguous_number(row.text, config.text_normalizer)
    if number is not None:
        raise _RejectedError(
            "ambiguous-number",
            "numbers written as they are spoken",
            f"{number!r} in its text",
            "write the number in words",
        )
    text = normalize_text(row.text, config.text_normalizer)
    if not text:
        raise _RejectedError(
            "empty-text",
            f"words after the normaliser {config.text_normalizer}",
            f"{row.text[:60]!r}, which has none",
            "mend its text or remove the recording",
        )
    return text


def _open(row: Row, text: str | None) -> tuple[Accepted, Samples]:
    if row.cut is not None:
        return _open_cut(row, text)
    assert row.path is not None, "a row has a path or a cut"
    decoded = _decoded(row.path)
    _check_format(decoded)
    digest = audio_sha256(row.path)
    samples = decoded.samples[0]
    if decoded.by_soundfile and decoded.rate_hz == SAMPLE_RATE_HZ:
        return Accepted(row, text, samples.size, digest, path=row.path.resolve()), samples
    samples = resample(samples, decoded.rate_hz) if samples.size else samples
    return Accepted(row, text, samples.size, digest, converted=samples), samples


def _open_cut(row: Row, text: str | None) -> tuple[Accepted, Samples]:
    """A plain cut out of a 16 kHz mono file is referred to; anything else (mixes, transforms, arrays) is rendered."""
    cut = row.cut
    recording = getattr(cut, "recording", None)
    sources = recording.sources if recording is not None else []
    try:
        samples = cut.load_audio()
        rate_hz = int(cut.sampling_rate)
    except Exception as error:  # a cut may hold any lazy transform, reader or command
        raise _RejectedError(
            "unreadable",
            "a cut whose audio lhotse can load",
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200],
            "mend or remove the cut",
        ) from error
    if samples is None:
        raise _RejectedError("unreadable", "a cut with audio", "a cut without a recording", "attach its recording")
    decoded = Decoded(np.asarray(samples, dtype=np.float32), rate_hz, by_soundfile=True)
    _check_format(decoded)
    mono = decoded.samples[0]
    file = Path(sources[0].source) if len(sources) == 1 and sources[0].type == "file" else None
    digest = audio_sha256(file) if file is not None else hashlib.sha256(mono.tobytes()).hexdigest()
    if (
        file is not None
        and recording is not None
        and file.suffix.lower() in {".wav", ".flac"}
        and not recording.transforms
        and recording.num_channels == 1
        and rate_hz == SAMPLE_RATE_HZ
    ):
        accepted = Accepted(
            row, text, mono.size, digest, path=file.resolve(), start_s=float(cut.start), recording=recording
        )
        return accepted, mono
    mono = resample(mono, rate_hz)
    return Accepted(row, text, mono.size, digest, converted=mono), mono


def _decoded(path: Path) -> Decoded:
    try:
        return decode_file(path)
    except AudioError as error:
        raise _RejectedError("unreadable", error.expected, error.got, error.next_step) from error


def _check_format(decoded: Decoded) -> None:
    if decoded.num_channels != 1:
        error = stereo_error("", decoded)
        raise _RejectedError("stereo", error.expected, error.got, error.next_step)
    if not _MIN_RATE_HZ <= decoded.rate_hz <= _MAX_RATE_HZ:
        raise _RejectedError(
            "sampling-rate",
            f"{_MIN_RATE_HZ} .. {_MAX_RATE_HZ} Hz",
            f"{decoded.rate_hz} Hz",
            "record it again or mend its header",
        )


def _check_sound(samples: Samples, config: PrepareDataConfig) -> None:
    duration_s = samples.size / SAMPLE_RATE_HZ
    if duration_s < config.min_duration_s:
        raise _RejectedError(
            "too-short", f"at least {config.min_duration_s:g} s", f"{duration_s:.2f} s", "remove it, or lower the limit"
        )
    if duration_s > config.max_duration_s:
        raise _RejectedError(
            "too-long", f"at most {config.max_duration_s:g} s", f"{duration_s:.2f} s", "cut it into sentences"
        )
    if not np.isfinite(samples).all():
        raise _RejectedError("not-finite", "finite samples", "NaN or infinite samples", "replace the file")
    # Without its mean: a constant offset is as silent as zeros.
    level_db = 20 * math.log10(max(float(np.std(samples, dtype=np.float64)), 1e-9))
    if level_db < config.min_rms_db:
        raise _RejectedError(
            "silent", f"speech louder than {config.min_rms_db:g} dB", f"{level_db:.0f} dB", "replace or remove it"
        )


def count_reasons(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Reason -> number of recordings rejected for it."""
    return dict(sorted(Counter(rejection.reason for rejection in rejected).items()))


def as_json(rejection: Rejected) -> dict[str, str]:
    """A rejection as a row of rejected.jsonl."""
    return asdict(rejection)


def refuse_too_many(rejected: Sequence[Rejected], total: int, config: PrepareDataConfig, listed_in: Path) -> None:
    """Stop when more than ``max_rejected_share`` of the recordings are unusable.

    Raises:
        AudioError: the first offender's audio is at fault.
        DataError: its text or id is.
    """
    if not rejected or len(rejected) <= config.max_rejected_share * total:
        return
    first = rejected[0]
    kind = DataError if first.reason in _TEXT_REASONS else AudioError
    raise kind(
        f"recording {first.audio} ({first.reason})",
        expected=first.expected,
        got=f"{first.got} ({len(rejected)} of {total} recordings unusable, more than the "
        f"{config.max_rejected_share:.0%} of max_rejected_share)",
        next_step=f"{first.next_step}; every rejection is listed in {listed_in}",
    )
