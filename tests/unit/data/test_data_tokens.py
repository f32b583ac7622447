from __future__ import annotations

from pathlib import Path

import pytest

from mvqkd.data.tokens import SPACE, Tokens
from mvqkd.errors import ConfigError, DataError

TEXTS = ["HELLO WORLD", "IT'S A SMALL WORLD", "SMALL WORDS HELP", "A LOAD OF OLD WORDS", "HELD AND SOLD"]


def test_characters_are_those_of_the_texts_and_a_word_separator() -> None:
    tokens = Tokens.train(["AB B", "C'S"], "char", 500)
    assert tokens.symbols == ("<blk>", "<unk>", SPACE, "'", "A", "B", "C", "S")
    assert tokens.vocab_size == 8
    assert tokens.encode("AB C") == [4, 5, 2, 6]
    assert tokens.decode([4, 5, 2, 6]) == "AB C"


def test_unknown_characters_encode_to_unk_and_decode_to_nothing() -> None:
    tokens = Tokens.train(["AB"], "char", 500)
    assert tokens.encode("AZB") == [3, tokens.unknown_id, 4]
    assert tokens.decode([0, 3, 1, 0, 4]) == "AB"


@pytest.mark.parametrize("token_type", ["char", "bpe"])
def test_saved_tokens_load_again_and_equal_training_gives_equal_bytes(tmp_path: Path, token_type: str) -> None:
    for folder in ("first", "second"):
        Tokens.train(TEXTS, token_type, 40).save(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == (["bpe.model", "tokens.txt"] if token_type == "bpe" else ["tokens.txt"])
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    loaded = Tokens.load(tmp_path / "first")
    assert loaded.token_type == token_type
    assert [loaded.decode(loaded.encode(text)) for text in TEXTS] == TEXTS


def test_tokens_file_has_the_lines_that_sherpa_reads(tmp_path: Path) -> None:
    Tokens.train(TEXTS, "bpe", 40).save(tmp_path)
    lines = (tmp_path / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["<blk> 0", "<unk> 1"]
    assert [int(line.split()[1]) for line in lines] == list(range(40))
    assert all(len(line.split()) == 2 for line in lines)
    assert any(line.startswith(SPACE) and len(line.split()[0]) > 1 for line in lines)


def test_bpe_model_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    Tokens.train(TEXTS, "bpe", 40).save(tmp_path)
    model = (tmp_path / "bpe.model").read_bytes()
    assert b"/" not in model.replace(b"</", b"")


def test_bpe_never_encodes_to_blank() -> None:
    tokens = Tokens.train(TEXTS, "bpe", 40)
    assert tokens.symbols[0] == "<blk>"
    assert all(0 not in tokens.encode(text) for text in [*TEXTS, "<blk>"])


def test_too_large_a_vocabulary_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"vocab_size: .*5 texts.*got 5000 .*; set a smaller vocab_size"):
        Tokens.train(TEXTS, "bpe", 5000)


@pytest.mark.parametrize("content", ["A 0\nB 1\n", "<blk> 0\n<unk> 2\n", "<blk> 0\n<unk> 1\nA\n", "", None])
def test_malformed_tokens_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokens.txt").write_text(content)
    with pytest.raises(DataError, match=r"tokens.txt.*re-run prepare-data"):
        Tokens.load(tmp_path)


def test_tokens_of_another_model_are_refused(tmp_path: Path) -> None:
    Tokens.train(TEXTS, "bpe", 40).save(tmp_path / "a")
    Tokens.train(TEXTS, "bpe", 38).save(tmp_path / "b")
    (tmp_path / "a" / "bpe.model").write_bytes((tmp_path / "b" / "bpe.model").read_bytes())
    with pytest.raises(DataError, match=r"the pieces of bpe.model"):
        Tokens.load(tmp_path / "a")


def test_truncated_model_is_refused(tmp_path: Path) -> None:
    Tokens.train(TEXTS, "bpe", 40).save(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"\xff not a model")
    with pytest.raises(DataError, match="a sentencepiece model"):
        Tokens.load(tmp_path)


def test_bundle_without_its_model_decodes_but_does_not_encode(tmp_path: Path) -> None:
    tokens = Tokens.train(TEXTS, "bpe", 40)
    tokens.save(tmp_path)
    (tmp_path / "bpe.model").unlink()
    bundle = Tokens.load(tmp_path)
    assert bundle.decode(tokens.encode("HELLO WORLD")) == "HELLO WORLD"
    with pytest.raises(DataError, match=r"expected bpe.model beside it"):
        bundle.encode("HELLO")
