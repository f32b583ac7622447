"""A page taken apart: what tests ask of its structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_IN_LINE = frozenset(("bdi", "code", "strong", "span", "del", "ins", "a"))
_VOID = frozenset(("meta", "br", "hr", "img", "link", "input", "col"))


@dataclass
class Element:
    """A tag with its attributes, and what is in it: texts and other elements."""

    tag: str
    attributes: dict[str, str | None]
    content: list[Element | str] = field(default_factory=list)

    @property
    def children(self) -> list[Element]:
        return [part for part in self.content if isinstance(part, Element)]

    def all(self, *tags: str) -> list[Element]:
        """Everything below with one of these tags, in the order of the page; all without any tag."""
        found = [self] if self.tag in tags or not tags else []
        return found + [element for child in self.children for element in child.all(*tags)]

    @property
    def text(self) -> str:
        """All text below, white space as the page shows it."""
        return " ".join("".join(self._words()).split())

    def _words(self) -> Iterator[str]:
        for part in self.content:
            if isinstance(part, str):
                yield part
            else:
                yield from part._words()
                # Words of neighbours in the flow are apart, even where the source has no white space.
                yield "" if part.tag in _IN_LINE else " "

    def by_id(self, name: str) -> Element:
        (found,) = [element for element in self.all() if element.attributes.get("id") == name]
        return found


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self._open[-1].content.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].content.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].content.append(data)


def parse(page: str) -> Element:
    """The tree of a page; every tag must be closed by its own."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.root.children, "an empty page"
    assert len(builder._open) == 1, f"left open: {[element.tag for element in builder._open]}"
    return builder.root


def attribute_values(root: Element) -> list[tuple[str, str, Any]]:
    """(tag, attribute, value) of everything."""
    return [(e.tag, name, value) for e in root.all() for name, value in e.attributes.items()]
