"""The params file of a command: the one that is named, else params.yaml where there is one."""

from __future__ import annotations

from pathlib import Path

_DEFAULT = Path("params.yaml")


def params_file(given: Path | None) -> Path | None:
    """The file to read; None stands for the defaults of every section."""
    if given is not None:
        return given
    return _DEFAULT if _DEFAULT.is_file() else None


def model_name(given: Path | None) -> str:
    """The name under which ``promote`` registers bundles."""
    from mvqkd.config import PromoteConfig, load_section

    return load_section(PromoteConfig, params_file(given)).model_name
