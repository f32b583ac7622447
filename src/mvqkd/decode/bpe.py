"""Encode text with a BPE vocabulary file, as sentencepiece would, without sentencepiece: for hotwords."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from mvqkd.data.tokens import BPE_VOCAB_FILE, SPACE, UNKNOWN_ID, Tokens
from mvqkd.errors import ArtifactCorruptError, ArtifactNotFoundError


class BpeEncoder:
    """Merges symbols by the scores of a vocabulary.

    Args:
        pieces: symbols with their scores in order of their ids; the first two, blank and unknown, are never merged to.
    """

    def __init__(self, pieces: Sequence[tuple[str, float]]) -> None:
        self._id_of = {piece: token for token, (piece, _) in enumerate(pieces) if token > UNKNOWN_ID}
        self._score_of = {piece: score for piece, score in pieces[UNKNOWN_ID + 1 :]}

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised text: the neighbours whose union scores highest are merged, the leftmost of equals, until
        no union is a piece. A character that the vocabulary lacks becomes the id of ``<unk>``.
        """
        words = text.split()
        symbols = [SPACE, *SPACE.join(words)] if words else []
        while True:
            scores = [self._score_of.get(left + right) for left, right in itertools.pairwise(symbols)]
            known = [(-score, place) for place, score in enumerate(scores) if score is not None]
            if not known:
                return [self._id_of.get(symbol, UNKNOWN_ID) for symbol in symbols]
            _, place = min(known)
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]

    @classmethod
    def load(cls, bundle_dir: Path, tokens: Tokens) -> BpeEncoder:
        """Read ``bpe.vocab`` of a bundle: ``piece<TAB>score`` lines in order of their ids.

        Raises:
            ArtifactNotFoundError, ArtifactCorruptError: there is none, or its pieces are not those of tokens.txt.
        """
        path = bundle_dir / BPE_VOCAB_FILE
        subject, next_step = f"bundle {bundle_dir}", "re-run export-onnx with this version of mvqkd"
        try:
            rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
            pieces = [(piece, float(score)) for piece, score in rows]
        except OSError as error:
            raise ArtifactNotFoundError(
                subject, expected=f"{BPE_VOCAB_FILE}, to encode hotwords", got="no such file", next_step=next_step
            ) from error
        except ValueError as error:
            raise ArtifactCorruptError(
                f"{subject}, {BPE_VOCAB_FILE}", expected="piece<TAB>score lines", got=str(error), next_step=next_step
            ) from error
        if tuple(piece for piece, _ in pieces) != tokens.symbols:
            raise ArtifactCorruptError(
                f"{subject}, {BPE_VOCAB_FILE}",
                expected="the symbols of tokens.txt",
                got=f"{len(pieces)} other ones",
                next_step=next_step,
            )
        return cls(pieces)
