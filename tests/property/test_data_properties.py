from __future__ import annotations

import string
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvqkd.data.audio import load_audio, num_samples
from mvqkd.data.cuts import speed_copies
from mvqkd.data.sources import Row
from mvqkd.data.splits import assign_splits, is_test
from mvqkd.data.text import ambiguous_number, normalize_text
from mvqkd.data.tokens import Tokens
from mvqkd.data.validate import Accepted
from mvqkd.torchaudio_compat import import_torchaudio

WORD = st.text(string.ascii_uppercase, min_size=1, max_size=8) | st.sampled_from(["DON'T", "'TIS", "BOYS'", "O'CLOCK"])
NORMAL_TEXT = st.lists(WORD, min_size=1, max_size=8).map(" ".join)
READ_OUT = {"MR", "MRS", "DR"}

CHAR_TOKENS = Tokens.train([string.ascii_uppercase + "'"], "char", 0)
BPE_TOKENS = Tokens.train(
    [
        " ".join(string.ascii_uppercase) + " '",
        "".join(string.ascii_uppercase),
        "THE CAT AND THE DOG DON'T SIT",
        "O'CLOCK",
    ],
    "bpe",
    80,
)


@given(st.text(max_size=60))
def test_normalising_gives_clean_words_and_is_idempotent(text: str) -> None:
    once = normalize_text(text)
    assert set(once) <= set(string.ascii_uppercase + "' ")
    assert once == " ".join(once.split())
    assert normalize_text(once) == once
    assert ambiguous_number(once) is None


@given(NORMAL_TEXT.filter(lambda text: not READ_OUT & set(text.split())))
def test_a_normal_text_passes_unchanged(text: str) -> None:
    assert normalize_text(text) == text


@given(st.integers(0, 999_999))
def test_every_number_is_read_as_words(number: int) -> None:
    words = normalize_text(f"x{number}y").split()
    assert words[0] == "X"
    assert words[-1] == "Y"
    assert len(words) > 2
    assert normalize_text(f"{number}") == " ".join(words[1:-1])


@given(st.text(max_size=40).map(normalize_text))
def test_decoding_gives_back_any_normalised_text(text: str) -> None:
    for tokens in (CHAR_TOKENS, BPE_TOKENS):
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text
        assert all(1 < token < tokens.vocab_size for token in ids)
        # Blanks anywhere change nothing: a decoder may pass them on.
        assert tokens.decode([0, *(part for token in ids for part in (token, 0))]) == text


def _recording(index: int, text: str, speaker: str) -> Accepted:
    row = Row(id=f"r{index}", shown_as=f"r{index}", path=None, text=text, speaker=speaker)
    return Accepted(row, text, 16_000, "")


@given(
    st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.sampled_from("uvwxyz")), min_size=2, max_size=40),
    st.sampled_from(["speaker", "prompt"]),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_splits_are_disjoint_complete_and_independent_of_order(
    pairs: list[tuple[str, str]], split_by: str, seed: int, random: SimpleNamespace
) -> None:
    def key(recording: Accepted) -> str | None:
        return recording.row.speaker if split_by == "speaker" else recording.text

    recordings = [_recording(index, text, speaker) for index, (text, speaker) in enumerate(pairs)]
    if len({key(recording) for recording in recordings}) < 2:
        return
    options = {"split_by": split_by, "test_share": 0.2, "dev_share": 0.1, "seed": seed}
    splits = assign_splits(recordings, **options)
    assert set(splits) == {recording.row.id for recording in recordings}
    assert "train" in splits.values()
    assert any(map(is_test, splits.values()))
    by_key: dict[str | None, set[str]] = {}
    for recording in recordings:
        by_key.setdefault(key(recording), set()).add(splits[recording.row.id])
    assert all(len(names) == 1 for names in by_key.values())
    shuffled = list(recordings)
    random.shuffle(shuffled)
    assert assign_splits(shuffled, **options) == splits


def test_large_sets_split_by_the_hash_alone_and_additions_move_nothing() -> None:
    options = {"split_by": "prompt", "test_share": 0.2, "dev_share": 0.0, "seed": 0}
    few = [_recording(index, f"TEXT {index}", "s") for index in range(400)]
    more = [*few, *(_recording(index, f"TEXT {index}", "s") for index in range(400, 600))]
    before, after = assign_splits(few, **options), assign_splits(more, **options)
    assert all(after[name] == split for name, split in before.items())
    assert 0.15 < sum(map(is_test, before.values())) / 400 < 0.25


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 16_000)
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(1_600, 40_000),
    speed=st.sampled_from([0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 2.0]),
)
def test_loaded_audio_has_the_stated_length_at_every_speed(noise: Path, length: int, speed: float) -> None:
    import_torchaudio()
    from lhotse import AudioSource, Recording

    path = noise.with_name(f"{length}.wav")
    samples, _ = soundfile.read(noise, dtype="float32")
    soundfile.write(path, samples[:length], 16_000)
    source = AudioSource("file", [0], str(path))
    recording = Recording("noise", [source], sampling_rate=16_000, num_samples=length, duration=length / 16_000)
    (copy,) = speed_copies([recording.to_cut()], [speed])
    loaded = load_audio(copy)
    assert loaded.shape == (num_samples(copy),)
    np.testing.assert_array_equal(loaded, load_audio(copy))
