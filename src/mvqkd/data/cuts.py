"""Cuts on disk and in memory: one gzipped JSON-lines file a split inside the data artifact.

Audio that prepare-data converted lies inside the artifact and is named relative to it, so that the artifact can be
moved; recordings that needed no conversion are named by absolute path.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from mvqkd.artifacts import Artifact, atomic_open
from mvqkd.errors import ArtifactCorruptError, DataError, EmptyCutSetError
from mvqkd.torchaudio_compat import import_torchaudio

CUTS_FOLDER = "cuts"


def cuts_file(split: str) -> str:
    """Path of a split's cuts, relative to the artifact."""
    return f"{CUTS_FOLDER}/{split}.jsonl.gz"


def write_cuts(path: Path, cuts: Iterable[Any]) -> None:
    """Write cuts as gzipped JSON lines; equal cuts give equal bytes (no name, no time in the gzip header)."""
    with (
        atomic_open(path, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as stream,
    ):
        for cut in cuts:
            stream.write((json.dumps(cut.to_dict(), sort_keys=True, ensure_ascii=False) + "\n").encode())


def load_cuts(data: Artifact, split: str, positions: Container[int] | None = None) -> Any:
    """Load a split of a cut-manifest artifact.

    Args:
        positions: 0-based positions in the split of the cuts to load, for whoever needs few of very many; None: all.
    Returns:
        An eager lhotse CutSet; every audio path is absolute.
    Raises:
        EmptyCutSetError: there is no such split, or it is empty; the known splits are named.
    """
    import_torchaudio()
    from lhotse import CutSet
    from lhotse.serialization import deserialize_item

    known = [name for name, count in data.facts["splits"].items() if count]
    path = data.path / cuts_file(split)
    if split not in known or not path.is_file():
        raise EmptyCutSetError(
            f"data {data.path} ({data.short_id}), split {split}",
            expected=f"one of the splits {', '.join(sorted(known))}",
            got="no such split",
            next_step="name a known split, or give rows that split and re-run prepare-data",
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            cuts = [
                deserialize_item(json.loads(line))
                for position, line in enumerate(stream)
                if positions is None or position in positions
            ]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ArtifactCorruptError(
            f"cuts {path}", expected="gzipped lhotse cuts", got=str(error), next_step="re-run prepare-data"
        ) from error
    root = data.path.resolve()
    for cut in cuts:
        for source in cut.recording.sources:
            # Path's "/" keeps an absolute right-hand side as it is.
            source.source = str(root / source.source)
    return CutSet.from_cuts(cuts)


def speed_copies(cuts: Iterable[Any], speeds: Sequence[float]) -> Any:
    """Copies of every cut at every speed, grouped by speed; audio is perturbed lazily, at load.

    A copy's id is the cut's id plus ``-sp<speed>``; speed 1.0 leaves cut and id unchanged.

    Returns:
        An eager lhotse CutSet with distinct ids.
    Raises:
        DataError: a cut carries codebook indexes (a copy would silently keep those of the unperturbed audio), or two
            copies would share an id.
    """
    import_torchaudio()
    from lhotse import CutSet

    cuts = list(cuts)
    copies: dict[str, Any] = {}
    for speed in speeds:
        for cut in cuts:
            copy = speed_copy(cut, speed)
            if copy.id in copies:
                raise DataError(
                    f"cut {copy.id}",
                    expected="distinct cut ids over all speeds",
                    got="the same id twice",
                    next_step="rename the cut, or remove the repeated speed",
                )
            copies[copy.id] = copy
    return CutSet.from_cuts(copies.values())


def speed_copy(cut: Any, speed: float) -> Any:
    """One of ``speed_copies``.

    Raises:
        DataError: see there.
    """
    if speed == 1.0:
        return cut
    if "codebook_indexes" in (cut.custom or {}):
        raise DataError(
            f"cut {cut.id}",
            expected="a cut without codebook indexes",
            got="indexes that belong to the unperturbed audio",
            next_step="make the speed copies first, then attach the indexes of each copy",
        )
    return cut.perturb_speed(speed, affix_id=False).with_id(f"{cut.id}-sp{speed:g}")
