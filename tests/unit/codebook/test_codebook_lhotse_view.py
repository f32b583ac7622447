from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvqkd.artifacts import PartialArtifact
from mvqkd.codebook.lhotse_view import FIELD, attach
from mvqkd.codebook.store import KIND, CodebookIndexStore, Shard, write_index
from mvqkd.errors import ArtifactMismatchError, FrameAlignmentError
from mvqkd.torchaudio_compat import import_torchaudio

import_torchaudio()

from lhotse import CutSet, Recording  # noqa: E402 # the shim comes first
from lhotse.audio import AudioSource  # noqa: E402 # the shim comes first
from lhotse.cut import MonoCut  # noqa: E402 # the shim comes first
from lhotse.dataset.collation import collate_custom_field  # noqa: E402 # the shim comes first


def cut_of(cut_id: str, num_samples: int, sampling_rate: int = 16_000) -> Any:
    source = AudioSource(type="file", channels=[0], source="/nowhere.wav")
    duration = num_samples / sampling_rate
    recording = Recording(
        id=cut_id, sources=[source], sampling_rate=sampling_rate, num_samples=num_samples, duration=duration
    )
    return MonoCut(id=cut_id, start=0, duration=duration, channel=0, recording=recording)


LENGTHS = {"a": 100, "b": 60}


@pytest.fixture
def store(tmp_path: Path) -> CodebookIndexStore:
    partial = PartialArtifact(tmp_path / "ci", KIND, stage="encode-ci", config={})
    shard = Shard(0, list(LENGTHS.items()))
    rows = np.random.default_rng(0).integers(0, 256, (shard.num_frames, 4), dtype=np.uint8)
    np.save(partial.path / shard.file, rows)
    write_index(partial.path, [shard])
    facts = {"num_codebooks": 4, "codebook_size": 256, "rate_hz": "50/1", "frame_offsets": [0, 0]}
    return CodebookIndexStore(partial.commit(facts=facts))


def cuts(**num_samples: int) -> Any:
    return CutSet.from_cuts(cut_of(cut_id, count) for cut_id, count in num_samples.items())


def test_lhotse_loads_the_indexes_of_a_cut(store: CodebookIndexStore) -> None:
    original = cuts(a=32_000, b=19_200)
    attached = attach(original, store)
    for cut in attached:
        np.testing.assert_array_equal(cut.load_codebook_indexes(), store.read(cut.id))
    assert not any((cut.custom or {}).get(FIELD) for cut in original)


def test_a_window_of_a_cut_loads_its_own_frames(store: CodebookIndexStore) -> None:
    (cut,) = attach(cuts(a=32_000), store)
    window = cut.truncate(offset=0.5, duration=1.0)
    np.testing.assert_array_equal(window.load_codebook_indexes(), store.read("a")[25:75])


def test_manifests_survive_a_file(store: CodebookIndexStore, tmp_path: Path) -> None:
    attach(cuts(a=32_000, b=19_200), store).to_file(tmp_path / "cuts.jsonl.gz")
    for cut in CutSet.from_file(tmp_path / "cuts.jsonl.gz"):
        np.testing.assert_array_equal(cut.load_codebook_indexes(), store.read(cut.id))


def test_collating_pads_with_the_ignore_index(store: CodebookIndexStore) -> None:
    batch = collate_custom_field(attach(cuts(a=32_000, b=19_200), store), FIELD, pad_value=-100)
    indexes, lengths = batch
    assert lengths.tolist() == [100, 60]
    np.testing.assert_array_equal(indexes[1, :60], store.read("b"))
    assert (indexes[1, 60:] == -100).all()


@pytest.mark.parametrize("extra", [-1, 320])
def test_audio_that_is_a_frame_shorter_or_longer_is_refused(store: CodebookIndexStore, extra: int) -> None:
    with pytest.raises(FrameAlignmentError, match=r"cut a: expected (99|101) teacher frames .* got 100"):
        attach(cuts(a=32_000 + extra), store)


def test_samples_that_make_no_frame_are_fine(store: CodebookIndexStore) -> None:
    (cut,) = attach(cuts(a=32_100), store)
    assert len(cut.load_codebook_indexes()) == 100


def test_a_cut_of_another_duration_is_refused(store: CodebookIndexStore) -> None:
    with pytest.raises(FrameAlignmentError, match="cut a: expected 110 teacher frames"):
        attach(cuts(a=35_200), store)


def test_speed_perturbed_audio_needs_its_own_indexes(store: CodebookIndexStore) -> None:
    perturbed = CutSet.from_cuts(cut.perturb_speed(0.9, affix_id=False) for cut in cuts(a=32_000))
    with pytest.raises(FrameAlignmentError, match="speed-perturbed cuts need codebook indexes of their own"):
        attach(perturbed, store)


def test_a_cut_without_indexes_is_refused(store: CodebookIndexStore) -> None:
    with pytest.raises(ArtifactMismatchError, match="cut c"):
        attach(cuts(c=16_000), store)


def test_another_sampling_rate_is_refused(store: CodebookIndexStore) -> None:
    with pytest.raises(FrameAlignmentError, match="got 8000 Hz"):
        attach(CutSet.from_cuts([cut_of("a", 16_000, sampling_rate=8_000)]), store)
