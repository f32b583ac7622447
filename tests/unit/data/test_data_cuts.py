from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvqkd.artifacts import Artifact, load_artifact
from mvqkd.data.audio import load_audio, num_samples
from mvqkd.data.cuts import load_cuts, speed_copies, write_cuts
from mvqkd.errors import ArtifactCorruptError, DataError, EmptyCutSetError


def test_unknown_split_names_the_known_ones(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    with pytest.raises(EmptyCutSetError, match=r"split dev: expected one of the splits test, train, got no such split"):
        load_cuts(prepare(corpus), "dev")


def test_cuts_carry_text_speaker_and_digest(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    for cut in load_cuts(prepare(corpus), "train"):
        (supervision,) = cut.supervisions
        assert supervision.text == supervision.text.upper()
        assert supervision.speaker.startswith("speaker-")
        assert len(cut.custom["audio_sha256"]) == 64


def test_writing_cuts_twice_gives_equal_bytes(tmp_path: Path, corpus: Path, prepare: Callable[..., Artifact]) -> None:
    cuts = load_cuts(prepare(corpus), "train")
    for name in ("a.jsonl.gz", "other-name.jsonl.gz"):
        write_cuts(tmp_path / name, cuts)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "other-name.jsonl.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines()) == len(cuts)


def test_converted_audio_moves_with_the_artifact(
    tmp_path: Path, corpus: Path, edit: Callable[..., Path], prepare: Callable[..., Artifact], tone: Callable[..., None]
) -> None:
    tone(corpus.parent / "audio" / "telephone.wav", rate_hz=8_000)
    edit(lambda rows: rows.append({"audio": "audio/telephone.wav", "text": "BEEP", "split": "train"}))
    data = prepare(corpus)
    assert sorted(path.name for path in (data.path / "audio").iterdir()) == ["audio-telephone.flac"]
    shutil.move(data.path, tmp_path / "elsewhere")
    moved = load_artifact(tmp_path / "elsewhere", "cut-manifest")
    cut = load_cuts(moved, "train")["audio-telephone"]
    assert Path(cut.recording.sources[0].source).is_relative_to(tmp_path / "elsewhere")
    assert load_audio(cut).size == 16_000


def test_broken_cuts_file_is_corrupt(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    data = prepare(corpus)
    path = data.path / "cuts" / "train.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactCorruptError, match=r"re-run prepare-data"):
        load_cuts(data, "train")


def test_speed_copies_have_affixed_ids_and_perturbed_audio(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    cuts = load_cuts(prepare(corpus), "train")
    copies = speed_copies(cuts, [0.9, 1.0, 1.1])
    assert len(copies) == 3 * len(cuts)
    first = cuts[0]
    assert copies[first.id] == first
    slow = copies[f"{first.id}-sp0.9"]
    assert slow.supervisions[0].text == first.supervisions[0].text
    assert abs(num_samples(slow) - num_samples(first) / 0.9) <= 1
    samples = load_audio(slow)
    assert samples.size == num_samples(slow)
    np.testing.assert_array_equal(samples, load_audio(slow))
    # Slower by 0.9: the strongest frequency falls by that factor.
    assert _peak_hz(samples) == pytest.approx(0.9 * _peak_hz(load_audio(first)), rel=0.01)


def _peak_hz(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / samples.size)


def test_speed_copies_refuse_stale_indexes_and_repeated_speeds(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    cuts = load_cuts(prepare(corpus), "train")
    with pytest.raises(DataError, match="the same id twice"):
        speed_copies(cuts, [0.9, 0.9])
    cuts[0].custom["codebook_indexes"] = "anything"
    with pytest.raises(DataError, match="make the speed copies first"):
        speed_copies(cuts, [0.9])
    assert len(speed_copies(cuts, [1.0])) == len(cuts)


def test_few_of_many_cuts_are_loaded_by_position(corpus: Path, prepare: Callable[..., Artifact]) -> None:
    data = prepare(corpus)
    every = [cut.to_dict() for cut in load_cuts(data, "train")]
    assert [cut.to_dict() for cut in load_cuts(data, "train", {2, 0})] == [every[0], every[2]]
