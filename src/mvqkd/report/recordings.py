"""Recordings to listen to: files, or rows of a manifest or of a lhotse CutSet; read when their turn comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mvqkd.config import PrepareDataConfig
from mvqkd.data.audio import Decoded, Samples, one_channel, read_audio
from mvqkd.data.sources import Row, read_source
from mvqkd.errors import AudioError


@dataclass(frozen=True)
class Recording:
    """Something to listen to. ``text``: what is said in it; None where nobody knows.

    ``read`` gives float32 (samples,), 16 kHz, or raises an AudioError.
    """

    id: str
    read: Callable[[], Samples]
    text: str | None = None


def from_file(path: Path, *, mix_down: bool = False) -> Recording:
    """A file of any format that can be decoded."""
    return Recording(str(path), partial(read_audio, path, mix_down=mix_down))


def from_manifest(path: Path, *, mix_down: bool = False) -> list[Recording]:
    """Recordings of a manifest as prepare-data reads it: JSON lines of audio[, text, id].

    Raises:
        DataError: it is missing or malformed, naming the line.
    """
    rows = read_source(PrepareDataConfig.model_validate({"source": "manifest", "manifest": str(path)})).rows
    return [_from_row(row, mix_down) for row in rows]


def from_cuts(path: Path, *, mix_down: bool = False) -> list[Recording]:
    """Cuts of a lhotse CutSet; a cut's text is that of its supervisions.

    Raises:
        DataError: it is missing or no CutSet.
    """
    rows = read_source(PrepareDataConfig.model_validate({"source": "cuts", "cuts": str(path)})).rows
    return [_from_row(row, mix_down) for row in rows]


def _from_row(row: Row, mix_down: bool) -> Recording:
    if row.path is not None:
        return Recording(row.id, partial(read_audio, row.path, mix_down=mix_down), row.text)
    return Recording(row.id, partial(_read_cut, row.cut, mix_down), row.text)


def _read_cut(cut: Any, mix_down: bool) -> Samples:
    subject = f"cut {cut.id}"
    try:
        samples = cut.load_audio()
    except Exception as error:  # a cut may hold any lazy transform, reader or command
        raise AudioError(
            subject,
            expected="a cut whose audio lhotse can load",
            got=(str(error).strip().splitlines() or [type(error).__name__])[0][:200],
            next_step="mend or remove the cut",
        ) from error
    decoded = Decoded(np.zeros((1, 0), np.float32) if samples is None else samples, int(cut.sampling_rate), True)
    return one_channel(decoded, subject, mix_down=mix_down)
