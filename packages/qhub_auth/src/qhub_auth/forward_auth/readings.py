r"""Every way in which a program behind the proxy might read a path. Pure.

What one program takes for a plain name is a way out of a folder for another: ``..%2fadmin``,
``/admin;x``, ``/\admin``. A rule that decides by the beginning of a path is safe only if it
decides the same for each reading; so :func:`readings` gives them all. Letters keep their size: who
compares readings does so with and without regard to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

__all__ = ["LONGEST_PATH", "AmbiguousError", "readings"]

LONGEST_PATH = 4096
"""Most characters of a path; Traefik's own limit is that of the whole request's head."""
MOST_READINGS = 64
# Read by everybody alike: no escape, parameter, backslash, empty or dotted part.
_PLAIN = re.compile(r"(?:/(?!\.{0,2}(?:/|$))[A-Za-z0-9_~.@:,+=!$&'()*-]+)*/?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PARAMETER = re.compile(r";[^/]*")


class AmbiguousError(ValueError):
    """A request that different programs would read differently; the message says why."""


def _unescaped(text: str) -> str:
    """Decode percent escapes once; a percent sign that begins none stands for itself."""
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    try:
        result = raw.decode()
    except UnicodeDecodeError as error:
        raise AmbiguousError("the path is not UTF-8") from error
    if _CONTROL.search(result):
        raise AmbiguousError("a control character is in the path")
    return result


def _resolved(text: str) -> str:
    """Take out empty parts, ``.`` and ``..``, as RFC 3986, 5.2.4 and Go's path.Clean do."""
    kept: list[str] = []
    for part in text.split("/"):
        if part == "..":
            if kept:
                kept.pop()
        elif part not in {"", "."}:
            kept.append(part)
    return "/" + "/".join(kept)


_WAYS: tuple[Callable[[str], str], ...] = (
    _unescaped,
    lambda text: text.replace("\\", "/"),
    lambda text: _PARAMETER.sub("", text),
    _resolved,
    lambda text: unicodedata.normalize("NFKC", text),
)


def readings(path: str) -> frozenset[str]:
    """Return `path` and every other path that some program might take it for.

    Args:
        path: As the proxy hands it on, percent escapes and all, without the query.

    Raises:
        AmbiguousError: It does not begin with a slash, is no proper path (an incomplete escape, not
            UTF-8, control characters, a fragment), is too long, or has too many readings.
    """
    if not path.startswith("/"):
        raise AmbiguousError("the path does not begin with a slash")
    if len(path) > LONGEST_PATH:
        raise AmbiguousError(f"the path is longer than {LONGEST_PATH} characters")
    if _PLAIN.fullmatch(path):
        return frozenset((path,))
    if not path.isascii() or "#" in path or _CONTROL.search(path) or " " in path:
        raise AmbiguousError("a character that has to be escaped is in the path")
    if _BAD_ESCAPE.search(path):
        raise AmbiguousError("a percent sign without two hexadecimal digits is in the path")
    found = {path}
    fresh = [path]
    while fresh:
        text = fresh.pop()
        for way in _WAYS:
            other = way(text)
            if other not in found:
                if len(found) >= MOST_READINGS:
                    raise AmbiguousError("the path can be read in too many ways")
                found.add(other)
                fresh.append(other)
    return frozenset(found)
