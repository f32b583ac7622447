"""Tokens: text to ids and back, as characters or sentencepiece BPE, in sherpa-onnx's file layout.

``tokens.txt`` holds ``symbol id`` lines: ``<blk>`` 0, ``<unk>`` 1, then the rest. U+2581 stands for the space
between words in both types: BPE pieces begin words with it, the character type uses it as a symbol of its own
between words. sherpa-onnx turns a leading U+2581 into a space and joins symbols, which gives the same text as
``decode``.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from mvqkd.artifacts import atomic_open
from mvqkd.errors import ConfigError, DataError

BLANK, UNKNOWN, SPACE = "<blk>", "<unk>", "▁"
BLANK_ID, UNKNOWN_ID = 0, 1
TOKENS_FILE, BPE_FILE, BPE_VOCAB_FILE = "tokens.txt", "bpe.model", "bpe.vocab"


class Tokens:
    """An immutable vocabulary.

    Args:
        symbols: every symbol in order of its id; begins with ``<blk>``, ``<unk>``.
        bpe_model: serialised sentencepiece model, or None for the character type.
    """

    blank_id = BLANK_ID
    unknown_id = UNKNOWN_ID

    def __init__(self, symbols: Sequence[str], bpe_model: bytes | None = None) -> None:
        if list(symbols[:2]) != [BLANK, UNKNOWN] or len(set(symbols)) != len(symbols):
            raise DataError(
                TOKENS_FILE,
                expected=f"distinct symbols that begin with {BLANK}, {UNKNOWN}",
                got=f"{len(symbols)} symbols beginning with {', '.join(symbols[:2]) or 'nothing'}",
                next_step="re-run prepare-data",
            )
        self.symbols = tuple(symbols)
        self._id_of = {symbol: token for token, symbol in enumerate(self.symbols)}
        self._bpe_model = bpe_model
        self._processor = _processor(bpe_model) if bpe_model is not None else None

    @property
    def vocab_size(self) -> int:
        """Number of symbols, blank included."""
        return len(self.symbols)

    @property
    def token_type(self) -> Literal["bpe", "char"]:
        return "char" if self._bpe_model is None else "bpe"

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised text; never blank. What the vocabulary lacks becomes the id of ``<unk>``.

        Raises:
            DataError: a BPE vocabulary was loaded without its bpe.model (a bundle): it can only decode.
        """
        if self._processor is not None:
            return list(self._processor.encode(text, out_type=int))
        if any(len(symbol) > 1 for symbol in self.symbols[2:]):
            raise DataError(
                TOKENS_FILE,
                expected=f"{BPE_FILE} beside it",
                got="BPE symbols only, which can decode but not encode",
                next_step="load the tokens of the prepare-data artifact",
            )
        symbols = SPACE.join(text.split())
        return [self._id_of.get(symbol, UNKNOWN_ID) for symbol in symbols]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; blank and ``<unk>`` give nothing. ``decode(encode(text)) == text`` where nothing is unknown."""
        symbols = (self.symbols[token] for token in ids if token not in (BLANK_ID, UNKNOWN_ID))
        return " ".join("".join(symbols).replace(SPACE, " ").split())

    def save(self, directory: Path) -> None:
        """Write tokens.txt, and bpe.model when this is a BPE vocabulary; equal vocabularies give equal bytes."""
        with atomic_open(directory / TOKENS_FILE) as stream:
            stream.writelines(f"{symbol} {token}\n" for token, symbol in enumerate(self.symbols))
        if self._bpe_model is not None:
            with atomic_open(directory / BPE_FILE, "wb") as stream:
                stream.write(self._bpe_model)

    def save_bpe_vocabulary(self, directory: Path) -> None:
        """Write bpe.vocab, ``piece<TAB>score`` lines, from which sherpa-onnx encodes hotwords; nothing without BPE."""
        if self._processor is None:
            return
        with atomic_open(directory / BPE_VOCAB_FILE) as stream:
            stream.writelines(
                f"{symbol}\t{self._processor.get_score(token):g}\n" for token, symbol in enumerate(self.symbols)
            )

    @classmethod
    def load(cls, directory: Path) -> Tokens:
        """Read tokens.txt, and bpe.model where there is one.

        Raises:
            DataError: a file is missing, malformed or the two disagree.
        """
        path = Path(directory) / TOKENS_FILE
        subject = f"tokens {path}"
        next_step = "re-run prepare-data, or name a directory that holds its tokens"
        symbols: list[str] = []
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                symbol, token = line.rsplit(" ", 1)
                if int(token) != len(symbols):
                    raise ValueError(f"id {token} on line {len(symbols) + 1}")
                symbols.append(symbol)
        except (OSError, ValueError) as error:
            raise DataError(
                subject, expected="`symbol id` lines with ids 0, 1, 2, ...", got=str(error), next_step=next_step
            ) from error
        bpe = path.with_name(BPE_FILE)
        tokens = cls(symbols, bpe.read_bytes() if bpe.is_file() else None)
        if tokens._processor is not None and _pieces(tokens._processor) != tokens.symbols:
            raise DataError(subject, expected=f"the pieces of {BPE_FILE}", got="other symbols", next_step=next_step)
        return tokens

    @classmethod
    def train(cls, texts: Iterable[str], token_type: Literal["bpe", "char"], vocab_size: int) -> Tokens:
        """Make the vocabulary of normalised training texts.

        Args:
            vocab_size: BPE symbols in all, ``<blk>`` and ``<unk>`` included; ignored for characters.
        Raises:
            ConfigError: the texts are too few for a BPE vocabulary of this size.
        """
        texts = list(texts)
        if token_type == "char":
            characters = set("".join(texts)) - {" "}
            return cls([BLANK, UNKNOWN, SPACE, *sorted(characters)])
        model = _train_bpe(texts, vocab_size)
        return cls(_pieces(_processor(model)), model)


def _processor(model: bytes) -> Any:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise DataError(
            BPE_FILE, expected="a sentencepiece model", got=f"{len(model)} other bytes", next_step="re-run prepare-data"
        ) from error
    return processor


def _pieces(processor: Any) -> tuple[str, ...]:
    return tuple(processor.id_to_piece(token) for token in range(processor.get_piece_size()))


def _train_bpe(texts: list[str], vocab_size: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        # An iterator and a writer, not paths: paths would be stored in the model and change its digest.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            control_symbols=[BLANK],
            unk_id=UNKNOWN_ID,
            unk_piece=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            input_sentence_size=0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        words = len({word for text in texts for word in text.split()})
        raise ConfigError(
            "prepare-data.vocab_size",
            expected=f"a number of BPE pieces that {len(texts)} texts with {words} distinct words can give",
            got=f"{vocab_size} ({str(error).splitlines()[-1].rpartition('] ')[2]})",
            next_step="set a smaller vocab_size or token_type char",
        ) from error
    return model.getvalue()
