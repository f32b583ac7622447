"""How text and numbers appear on the page."""

from __future__ import annotations

import unicodedata
from typing import Any

from markupsafe import Markup

# Both join letters as some scripts are written; nothing else that is invisible is needed to read a transcript.
_JOINERS = "\u200c\u200d"
# Control, format (among them what changes the direction of writing), surrogate, and the separators of lines.
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_WIDE_SPACE = "\t\n\r"
MAX_VALUE_LENGTH = 300
NO_BREAK = "\u00a0"
MINUS = "\u2212"


def visible(value: Any) -> Any:
    """A value as the page may show it: in text, characters that are invisible or turn the writing are spelled out.

    For jinja's ``finalize``, which sees everything that a template prints; markup of the template's own passes.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable():
        return value
    return "".join(f"⟨U+{ord(sign):04X}⟩" if _is_invisible(sign) else sign for sign in value)


def _is_invisible(sign: str) -> bool:
    return sign not in _JOINERS and sign not in _WIDE_SPACE and unicodedata.category(sign) in _INVISIBLE


def shortened(text: Any, length: int = MAX_VALUE_LENGTH) -> str:
    """The beginning of a text that is too long to show."""
    shown = str(text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def percent(share: float, digits: int = 1) -> str:
    """``44.5 %``."""
    return f"{100 * share:.{digits}f}{NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """``33.8 to 55.9 %``."""
    return f"{100 * low:.1f} to {100 * high:.1f}{NO_BREAK}%"


def points(difference: float) -> str:
    """A difference of two shares in points of a hundred, signed: ``−1.25``, ``+0.40``, ``0.00``."""
    rounded = round(100 * difference, 2)
    return f"{MINUS if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.2f}"


def signed_interval(low: float, high: float) -> str:
    """``−2.10 to +0.35``."""
    return f"{points(low)} to {points(high)}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 word``, ``1,204 words``."""
    return f"{number:,}{NO_BREAK}{noun if number == 1 else plural or noun + 's'}"


def figure(value: Any) -> str:
    """Any figure in few digits; a digest by its beginning; nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    is_digest = len(text) >= 40 and all(sign in "0123456789abcdef" for sign in text)
    return f"{text[:12]}…" if is_digest else shortened(text)


def size(num_bytes: float) -> str:
    """``9.71 MB``."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g}{NO_BREAK}{unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g}{NO_BREAK}GB"


def duration(seconds: float) -> str:
    """``6.6 s``, ``7 min 04 s``, ``35 min``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if 10 <= minutes < 60:
        return f"{round(seconds / 60)}{NO_BREAK}min"
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min{NO_BREAK}{rest:02d}{NO_BREAK}s"
    return f"{minutes // 60}{NO_BREAK}h{NO_BREAK}{minutes % 60:02d}{NO_BREAK}min"


def moment(utc: str) -> str:
    """``2026-11-23 17:03 UTC`` of a time in ISO 8601; nothing of nothing."""
    return f"{utc[:16].replace('T', ' ')}{NO_BREAK}UTC" if utc else ""


def prose(text: str) -> Markup:
    """A sentence in which `commands` stand between backticks."""
    parts = str(text).split("`")
    closed = len(parts) % 2 == 1
    return Markup("").join(
        Markup("<code>{}</code>").format(visible(part)) if closed and number % 2 else visible(part)
        for number, part in enumerate(parts)
    )


FILTERS = {
    "moment": moment,
    "prose": prose,
    "percent": percent,
    "interval": interval,
    "points": points,
    "signed_interval": signed_interval,
    "figure": figure,
    "size": size,
    "duration": duration,
    "shortened": shortened,
}
