"""Codebook indexes on lhotse cuts: a TemporalArray in the field ``codebook_indexes``, read from the CI store.

Importing this module registers the storage backend with lhotse, in every process that imports it (also a data
loader's worker): that is what lhotse looks up when a cut's array is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from mvqkd.codebook.packing import Bytes
from mvqkd.codebook.store import CodebookIndexStore
from mvqkd.errors import FrameAlignmentError
from mvqkd.frames import SAMPLE_RATE_HZ, as_rate, check_teacher_frames
from mvqkd.torchaudio_compat import import_torchaudio

import_torchaudio()  # lhotse imports it, and must find it usable

from lhotse import CutSet, fastcopy  # noqa: E402 # the shim comes first
from lhotse.array import Array, TemporalArray  # noqa: E402 # the shim comes first
from lhotse.features.io import FeaturesReader, register_reader  # noqa: E402 # the shim comes first

STORAGE_TYPE = "mvqkd_codebook_indexes"
FIELD = "codebook_indexes"


@register_reader
class CodebookIndexReader(FeaturesReader):  # type: ignore[misc]  # lhotse is untyped
    """lhotse's reader of a CI store: the storage path is the artifact directory, the key is the cut id."""

    name = STORAGE_TYPE

    def __init__(self, storage_path: str, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()
        self._store = _opened(str(storage_path))

    def read(self, key: str, left_offset_frames: int = 0, right_offset_frames: int | None = None) -> Bytes:
        """uint8 (T, N) of a cut, or of the frames between the offsets."""
        return self._store.read(key)[left_offset_frames:right_offset_frames]


def attach(cuts: Iterable[Any], store: CodebookIndexStore) -> Any:
    """Give every cut its codebook indexes as the field ``codebook_indexes``.

    Args:
        cuts: lhotse cuts, speed copies included (``mvqkd.data.cuts.speed_copies`` makes the ids that were encoded).
    Returns:
        An eager CutSet of copies; ``cut.load_codebook_indexes()`` gives uint8 (T, N), also of a window of the cut.
        lhotse rounds the duration to frames: a last frame that the teacher gave beyond it is left out.
    Raises:
        ArtifactMismatchError: the store lacks a cut.
        FrameAlignmentError: a cut's duration is not that of its stored frames.
    """
    rate_hz = as_rate(store.artifact.facts["rate_hz"])
    return CutSet.from_cuts(_attached(cut, store, rate_hz) for cut in cuts)


def _attached(cut: Any, store: CodebookIndexStore, rate_hz: Any) -> Any:
    num_frames = store.num_frames(cut.id)
    if cut.sampling_rate != SAMPLE_RATE_HZ:
        raise FrameAlignmentError(
            f"cut {cut.id}",
            expected=f"audio at {SAMPLE_RATE_HZ} Hz",
            got=f"{cut.sampling_rate} Hz",
            next_step="use the cuts that prepare-data has written",
        )
    check_teacher_frames(f"cut {cut.id}", num_frames, cut.num_samples, rate_hz, store.frame_offsets)
    array = Array(
        storage_type=STORAGE_TYPE,
        storage_path=str(store.artifact.path),
        storage_key=cut.id,
        shape=[num_frames, store.num_codebooks],
    )
    view = TemporalArray(array=array, temporal_dim=0, frame_shift=float(1 / rate_hz), start=cut.start)
    return fastcopy(cut, custom={**(cut.custom or {}), FIELD: view})


@functools.lru_cache(maxsize=8)
def _opened(path: str) -> CodebookIndexStore:
    return CodebookIndexStore.open(path)
