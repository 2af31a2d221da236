"""Titles and descriptions of KubeSpawner, which may be HTML, to plain text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

from qhub_spawner.errors import shown
from qhub_spawner.fields import hidden_character

__all__ = ["one_line"]

_LONGEST_TEXT = 2000
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->|&(?:[A-Za-z]+|#[0-9]+|#[xX][0-9A-Fa-f]+);")
_INLINE = frozenset({"a", "b", "code", "em", "i", "span", "strong"})


class _Words(HTMLParser):
    """Collects the text of HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - its signature
        self.words.append("" if tag in _INLINE else " ")


def one_line(value: object, say: Callable[[str], None]) -> str:
    """Return a text on one line, without HTML: our page shows texts as they are."""
    text = str(value)
    if _MARKUP.search(text):
        parser = _Words()
        parser.feed(text)
        parser.close()
        plain = "".join(parser.words)
        if re.search(r"</?[A-Za-z]", text):
            say(f"HTML was taken out of {shown(text)}")
        text = plain
    text = " ".join(text.split())
    while (hidden := hidden_character(text, "\u200c\u200d")) is not None:
        text = text.replace(hidden, "")
    if len(text) > _LONGEST_TEXT:
        say(f"a text was cut after {_LONGEST_TEXT} characters: {shown(text)}")
        text = text[:_LONGEST_TEXT].rstrip()
    return text
