"""Colours of the page, light and dark, and the arithmetic that says whether they can be told apart."""

from __future__ import annotations

# What WCAG 2.2 asks of text (1.4.3) and of what else must be seen (1.4.11).
TEXT_CONTRAST = 4.5
MARK_CONTRAST = 3.0

# name -> light, dark. Lines of charts come from the palette of Okabe and Ito, darkened or lightened for contrast.
COLOURS = {
    "page": ("#ffffff", "#0f1419"),
    "card": ("#f5f7fa", "#182029"),
    "ink": ("#1b2027", "#e8ebef"),
    "soft": ("#545d68", "#a5afba"),
    "edge": ("#d3d9e0", "#35404c"),
    "link": ("#0a58a8", "#79b8ff"),
    "pass": ("#17692f", "#56d07c"),
    "fail": ("#b3231b", "#ff938a"),
    "skip": ("#545d68", "#a5afba"),
    "warn": ("#8a4b00", "#f0b060"),
    "warn-card": ("#fdf3e3", "#2b2114"),
    "one": ("#0067a6", "#63b3ed"),
    "two": ("#b84f00", "#f49b4a"),
    "three": ("#00765a", "#3ec9a0"),
    "four": ("#8d4a82", "#d796cb"),
    "inserted": ("#14612b", "#7fe0a0"),
    "inserted-card": ("#def3e4", "#12331f"),
    "deleted": ("#a01f18", "#ffaaa3"),
    "deleted-card": ("#fbe4e2", "#3d1a19"),
}
# Text that appears on a background, and marks that must stand out from it.
TEXT_ON = {
    "page": ("ink", "soft", "link", "pass", "fail", "skip", "warn", "one", "two", "three", "four"),
    "card": ("ink", "soft", "link", "pass", "fail", "skip", "warn", "one", "two", "three", "four"),
    "warn-card": ("ink", "warn", "link"),
    "inserted-card": ("inserted", "ink"),
    "deleted-card": ("deleted", "ink"),
}
MARKS_ON = {"page": ("one", "two", "three", "four", "soft"), "card": ("one", "two", "three", "four", "soft")}


def variables(scheme: int) -> str:
    """CSS declarations of one scheme: 0 light, 1 dark."""
    return " ".join(f"--{name}: {pair[scheme]};" for name, pair in COLOURS.items())


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours ``#rrggbb``, from 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, from 0 to 1."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
