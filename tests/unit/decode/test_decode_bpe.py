"""The small BPE encoder gives the ids of sentencepiece for every text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvqkd.data.tokens import BPE_VOCAB_FILE, UNKNOWN_ID, Tokens
from mvqkd.decode.bpe import BpeEncoder
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError

TEXTS = [
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "SHE SELLS SEA SHELLS ON THE SEA SHORE AND THE SHELLS THAT SHE SELLS ARE SEA SHELLS",
    "AN ANNA BANANA CABANA HANNAH'S ANANAS",
    "MISSISSIPPI RIVER ISSUES MISS THE MISSION",
    "TURN THE LIGHTS OFF IN THE LIVING ROOM AND TURN THE RADIO ON IN THE KITCHEN",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, BpeEncoder, Path]:
    directory = tmp_path_factory.mktemp("bpe")
    tokens = Tokens.train(TEXTS, "bpe", 90)
    tokens.save(directory)
    tokens.save_bpe_vocabulary(directory)
    return tokens, BpeEncoder.load(directory, tokens), directory


def test_training_texts(trained: tuple[Tokens, BpeEncoder, Path]) -> None:
    tokens, encoder, _ = trained
    for text in TEXTS:
        assert encoder.encode(text) == tokens.encode(text)
        assert tokens.decode(encoder.encode(text)) == text
    assert any(len(tokens.symbols[token]) > 3 for token in encoder.encode(TEXTS[1])), "pieces, not letters"


@settings(max_examples=400, deadline=None)
@given(text=st.text(alphabet="AENSHTILMO'RBC ", max_size=40))
def test_any_text(trained: tuple[Tokens, BpeEncoder, Path], text: str) -> None:
    tokens, encoder, _ = trained
    assert encoder.encode(text) == tokens.encode(text)


@pytest.mark.parametrize("text", ["", "  ", " A  B ", "<unk>", "<blk> A"])
def test_corners(trained: tuple[Tokens, BpeEncoder, Path], text: str) -> None:
    tokens, encoder, _ = trained
    found = encoder.encode(text)
    # sentencepiece gives one <unk> for a run of unknown characters; for hotwords any of them is an error.
    assert (UNKNOWN_ID in found) == (UNKNOWN_ID in tokens.encode(text))
    if UNKNOWN_ID not in found:
        assert found == tokens.encode(text)


def test_a_vocabulary_that_is_missing_broken_or_another(
    trained: tuple[Tokens, BpeEncoder, Path], tmp_path: Path
) -> None:
    tokens, _, directory = trained
    with pytest.raises(ArtifactNotFoundError, match="re-run export-onnx"):
        BpeEncoder.load(tmp_path, tokens)
    good = (directory / BPE_VOCAB_FILE).read_text(encoding="utf-8")
    for bad in (good.replace("\t", " "), good + "X\t0\n", "\n".join(reversed(good.splitlines()))):
        (tmp_path / BPE_VOCAB_FILE).write_text(bad, encoding="utf-8")
        with pytest.raises(ArtifactCorruptError):
            BpeEncoder.load(tmp_path, tokens)
