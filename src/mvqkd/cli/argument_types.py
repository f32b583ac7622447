"""Types of command-line arguments, for ``type=`` of argparse; a wrong value is wrong usage, exit code 2."""

from __future__ import annotations

from argparse import ArgumentTypeError


def positive_int(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} is not 1 or more")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"{text} is not above 0")
    return value


def port(text: str) -> int:
    """A TCP port; 0 stands for any that is free."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise ArgumentTypeError(f"{value} is no port")
    return value
