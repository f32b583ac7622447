"""Recordings inside the page: FLAC in data: URIs, so that what is heard is exactly what the student heard."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

from mvqkd.artifacts import Artifact
from mvqkd.errors import MvqkdError
from mvqkd.report.text import duration

# All clips of a page together, as files; base64 makes them a third larger.
MAX_BYTES = 6_000_000


@dataclass(frozen=True)
class Clip:
    """A recording to listen to; ``uri`` is None where it was left out, ``note`` then says why."""

    uri: str | None
    note: str


def clips(data: Artifact, split: str, cut_ids: Iterable[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Clip]:
    """Encode recordings of a split, in the order given, while there is room.

    A recording that cannot be read costs its own clip only: the page is about more than audio.

    Args:
        data: the cut-manifest that the split belongs to.
        max_bytes: of all clips together.
    """
    from mvqkd.data.cuts import load_cuts

    wanted = list(cut_ids)
    try:
        cuts = {str(cut.id): cut for cut in load_cuts(data, split)}
    except MvqkdError as error:
        return dict.fromkeys(wanted, Clip(None, f"No audio: {error}"))
    found: dict[str, Clip] = {}
    room = max_bytes
    for cut_id in wanted:
        if cut_id not in cuts:
            found[cut_id] = Clip(None, f"No audio: split {split} of {data.short_id} has no such cut.")
            continue
        try:
            content = _flac(cuts[cut_id])
        except MvqkdError as error:
            found[cut_id] = Clip(None, f"No audio: {error}")
            continue
        length = duration(float(cuts[cut_id].duration))
        if len(content) > room:
            found[cut_id] = Clip(None, f"Audio of {length} left out: the page has room for {max_bytes:,} bytes.")
            continue
        room -= len(content)
        found[cut_id] = Clip(f"data:audio/flac;base64,{base64.b64encode(content).decode()}", length)
    return found


def _flac(cut: object) -> bytes:
    import soundfile

    from mvqkd.data.audio import load_audio
    from mvqkd.frames import SAMPLE_RATE_HZ

    stream = io.BytesIO()
    soundfile.write(stream, load_audio(cut), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return stream.getvalue()
