"""Names to slugs: one rule for the converter and for whoever still sends KubeSpawner's names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from html import unescape

__all__ = ["dashed", "distinct", "slugged"]

_LONGEST = 63


def slugged(text: str) -> str:
    """Return ``text`` as a slug: ``resource_allocation`` gives ``resource-allocation``.

    Lower case; accents go, whatever else is not an ASCII letter or digit becomes a dash, at most 63
    characters. A text without any gives an empty one.
    """
    return dashed(text)[:_LONGEST].strip("-")


def dashed(text: str) -> str:
    """Return ``text`` as :func:`slugged` does, of any length.

    Of ASCII it makes what python-slugify 8 does, by which KubeSpawner names a profile without slug.
    """
    plain = unicodedata.normalize("NFKD", text.replace("'", "-").replace("\u2019", ""))
    plain = _ENTITY.sub(lambda found: unescape(found[0]), plain)
    plain = unicodedata.normalize("NFKD", plain).lower().replace("'", "")
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"(?<=[0-9]),(?=[0-9])", "", plain)
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")


def distinct(slug: str, taken: Container[str]) -> str:
    """Return ``slug`` if it is free, else the first of ``slug-2``, ``slug-3``, … that is."""
    number = 1
    made = slug
    while made in taken:
        number += 1
        ending = f"-{number}"
        made = slug[: _LONGEST - len(ending)].rstrip("-") + ending
    return made
