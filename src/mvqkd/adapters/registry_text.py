"""Names and texts that others chose, on their way into MLflow: refused or made harmless. Nothing here talks to a store.

Names of models and experiments become parts of URIs, filters and paths. Texts (reasons, ids of an orchestrator, names
of test sets) end up on pages that render Markdown.
"""

from __future__ import annotations

import re
import unicodedata

from mvqkd.errors import RegistryError

_MAX_NAME = 200
# Not in a registered model's name: what MLflow refuses, separators of models:/NAME@ALIAS, quotes of filters.
_FORBIDDEN = set("/\\:@'\"`%")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def require_model_name(name: str) -> str:
    """Return a name that can be a registered model's.

    Raises:
        RegistryError: it is empty, too long, or would mean something else in a URI, a filter or a path.
    """
    found = sorted({character for character in name if character in _FORBIDDEN or _is_control(character)})
    if found:
        raise _refused(name, f"one with {', '.join(map(repr, found))}")
    if not name.strip(" .") or name != name.strip() or ".." in name or len(name) > _MAX_NAME:
        raise _refused(name, f"one of {len(name)} characters" if len(name) > _MAX_NAME else repr(name))
    return name


def require_experiment_name(name: str) -> str:
    """Return a name that can be an experiment's: as a model's, but slashes may order experiments into folders.

    Raises:
        RegistryError: as for a model's name.
    """
    for part in name.removeprefix("/").split("/"):
        require_model_name(part)
    return name


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return " ".join("".join(" " if _is_control(character) else character for character in text).split())


def plain(text: object) -> str:
    """The text for a page: no Markdown, no HTML, no line break, nothing that ends a table's cell."""
    return _MARKDOWN.sub(r"\\\1", one_line(str(text))).replace("\\<", "&lt;").replace("\\>", "&gt;")


def path_name(text: str) -> str:
    """The text as the name of a metric or parameter, which MLflow also takes for a path: no ``..``, nothing odd."""
    kept = "".join(character if character.isalnum() or character in "_-. :/" else "_" for character in text)
    parts = [re.sub(r"^\.+$", "_", part) for part in kept.split("/")]
    return "/".join(part for part in parts if part) or "_"


def quoted(text: str) -> str:
    """The text as a value in a filter of MLflow; a quote in it cannot end it."""
    return "'" + text.replace("'", "") + "'"


def _is_control(character: str) -> bool:
    # Cf: invisible ones, which also turn the direction of writing.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _refused(name: str, got: str) -> RegistryError:
    return RegistryError(
        f"name {one_line(name)[:60]!r}",
        expected=f"a name of at most {_MAX_NAME} letters, digits, spaces, dots, dashes and the like",
        got=got,
        next_step="choose another, for example mvqkd-student",
    )
