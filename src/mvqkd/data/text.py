"""Versioned text normalisers: what a transcript becomes before it is tokenised or scored.

``upper-ascii-1``:

1. Unicode compatibility decomposition; accents are dropped (``café`` -> ``CAFE``), typographic apostrophes become
   ``'``, letters outside ASCII that have no decomposition are spelled (``æ`` -> ``AE``) or dropped.
2. Upper case; ``&`` is read ``AND``, ``%`` is read ``PERCENT``; Mr, Mrs and Dr are read out.
3. Numbers are read as words: up to 999 and whole thousands as cardinals, ordinals likewise (``21st``), decimals with
   ``POINT``, anything else digit by digit. ``ambiguous_number`` finds the numbers that people read in several ways.
4. Everything but A-Z, the apostrophe and the space becomes a space, so hyphenated words and initialisms come apart
   (``A.M.`` -> ``A M``). An apostrophe stays only beside a letter.
5. Runs of spaces collapse; no space at the ends.

A text of A-Z, apostrophes within words and single spaces (LibriSpeech's transcripts) passes unchanged, and
normalising twice changes nothing. A change of these rules is a new version: WERs compare under one version only.
"""

from __future__ import annotations

import re
import unicodedata

from mvqkd.errors import ConfigError

_LETTERS = str.maketrans(
    {
        **dict.fromkeys("’‘‛ʼʹ´`′", "'"),
        **{"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
        **{"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "TH", "ß": "ss", "ẞ": "SS", "ı": "i"},
    }
)
_READ_OUT = {"MR": "MISTER", "MRS": "MISSUS", "DR": "DOCTOR"}
_UNITS = (
    *("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"),
    *("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN"),
)
_TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")
_IRREGULAR_ORDINALS = {
    "ONE": "FIRST",
    "TWO": "SECOND",
    "THREE": "THIRD",
    "FIVE": "FIFTH",
    "EIGHT": "EIGHTH",
    "NINE": "NINTH",
    "TWELVE": "TWELFTH",
}
_NUMBER = re.compile(r"(?P<currency>[$£€]\s*)?(?P<whole>\d+)(?:\.(?P<fraction>\d+)|(?P<ordinal>ST|ND|RD|TH)\b)?")
_GROUPED_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def normalize_text(text: str, version: str = "upper-ascii-1") -> str:
    """Normalise a transcript or a hypothesis.

    Args:
        version: name of the normaliser; part of the data artifact's facts.
    Returns:
        Words of A-Z and apostrophes, separated by single spaces; empty when nothing is left.
    Raises:
        ConfigError: an unknown version.
    """
    text = _NUMBER.sub(_read_number, _fold(text, version))
    text = re.sub(r"[^A-Z' ]", " ", text.replace("&", " AND ").replace("%", " PERCENT "))
    # Twice the same: "'" beside a letter on either side is kept, one that stands alone or doubled is not.
    text = re.sub(r"'+", "'", text)
    text = re.sub(r"(?<![A-Z])'(?![A-Z])", " ", text)
    return " ".join(_READ_OUT.get(word, word) for word in text.split())


def ambiguous_number(text: str, version: str = "upper-ascii-1") -> str | None:
    """The first number that people read in more than one way (``1984``, ``$5``, ``323``), or None.

    Such a transcript may differ from what is spoken, so a training corpus must write it in words.
    """
    for match in _NUMBER.finditer(_fold(text, version)):
        whole = match["whole"]
        value = int(whole)
        plain = value <= 100 or (value < 1000 and value % 100 == 0)
        if match["currency"] or not plain or (len(whole) > 1 and whole.startswith("0")):
            return match[0].strip()
    return None


def _fold(text: str, version: str) -> str:
    if version != "upper-ascii-1":
        raise ConfigError(
            "prepare-data.text_normalizer",
            expected="upper-ascii-1",
            got=version,
            next_step="use a known normaliser or the version of mvqkd that wrote this artifact",
        )
    # The table before decomposition (which would turn an acute accent into a space) and after it (an accented ae).
    folded = unicodedata.normalize("NFKD", text.translate(_LETTERS)).translate(_LETTERS).upper()
    kept = "".join(c if c.isascii() or c in "£€" else "" if unicodedata.combining(c) else " " for c in folded)
    return _GROUPED_THOUSANDS.sub("", kept)


def _read_number(match: re.Match[str]) -> str:
    whole, fraction, ordinal = match["whole"], match["fraction"], match["ordinal"]
    words = _cardinal(whole)
    if fraction:
        words += ["POINT", *(_UNITS[int(digit)] for digit in fraction)]
    elif ordinal:
        words[-1] = _as_ordinal(words[-1])
    return f" {' '.join(words)} "


def _cardinal(digits: str) -> list[str]:
    value = int(digits)
    if len(digits) > 1 and digits.startswith("0"):
        return [_UNITS[int(digit)] for digit in digits]
    if value < 1000:
        return _below_thousand(value)
    if value < 1_000_000 and value % 1000 == 0:
        return [*_below_thousand(value // 1000), "THOUSAND"]
    return [_UNITS[int(digit)] for digit in digits]


def _below_thousand(value: int) -> list[str]:
    words: list[str] = []
    if value >= 100:
        words += [_UNITS[value // 100], "HUNDRED"]
        value %= 100
        if value == 0:
            return words
    if value < 20:
        return [*words, _UNITS[value]]
    words.append(_TENS[value // 10 - 2])
    if value % 10:
        words.append(_UNITS[value % 10])
    return words


def _as_ordinal(word: str) -> str:
    if word in _IRREGULAR_ORDINALS:
        return _IRREGULAR_ORDINALS[word]
    return f"{word[:-1]}IETH" if word.endswith("Y") else f"{word}TH"
