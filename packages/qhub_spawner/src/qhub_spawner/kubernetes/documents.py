"""The API's JSON, read without trust: a field that is missing or of another type is empty.

What the cluster writes in its own words (messages of events, conditions, refusals) goes through
`said` before a person or a log sees it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["flag", "integer", "items", "mapping", "moment", "picked", "said", "text", "texts"]

Document = Mapping[str, Any]

_NOTHING: Document = {}


_OBJECTS = (dict, Mapping)  # dict first: asking an abstract class is slow, and pods are thousands


def _at(value: object, keys: Iterable[str]) -> object:
    for key in keys:
        if value is None:
            return None
        value = value.get(key) if isinstance(value, _OBJECTS) else None
    return value


def mapping(value: object, *keys: str) -> Document:
    """Return the object that stands at `keys`, or an empty one."""
    found = _at(value, keys)
    if found is None:
        return _NOTHING
    return found if isinstance(found, _OBJECTS) else _NOTHING


def items(value: object, *keys: str) -> list[Document]:
    """Return the objects of a list; what is not an object is passed over."""
    found = _at(value, keys)
    if not isinstance(found, list | tuple):
        return []
    return [item for item in found if isinstance(item, _OBJECTS)]


def text(value: object, *keys: str) -> str:
    """Return a text, or the empty one."""
    found = _at(value, keys)
    return found if isinstance(found, str) else ""


def texts(value: object, *keys: str) -> dict[str, str]:
    """Return a mapping of texts, such as labels."""
    found: Mapping[Any, Any] = mapping(value, *keys)
    pairs = found.items()
    return {key: item for key, item in pairs if isinstance(key, str) and isinstance(item, str)}


def integer(value: object, *keys: str) -> int | None:
    """Return a whole number."""
    found = _at(value, keys)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def flag(value: object, *keys: str) -> bool:
    """Return whether ``true`` stands there."""
    return _at(value, keys) is True


def moment(value: object, *keys: str) -> datetime | None:
    """Return a time (RFC 3339, as ``metav1.Time`` and ``MicroTime`` are written), in UTC.

    >>> moment({"at": "2026-11-21T08:37:11Z"}, "at")
    datetime.datetime(2026, 11, 21, 8, 37, 11, tzinfo=datetime.timezone.utc)
    """
    try:
        found = datetime.fromisoformat(text(value, *keys))
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def picked(value: object, names: Iterable[str]) -> dict[str, Any]:
    """Return a copy of an object that holds only these of its fields."""
    found = mapping(value)
    return {name: found[name] for name in names if name in found}


_LONGEST_TEXT = 4096
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_HIDDEN = "***"
# Head "https://robot:s3cret@registry.example.org/v2/lab/manifests/1?sig=abc": 401 Unauthorized
_URL_PERSON = re.compile(r"(?<=://)[^/\s@\"']+(?=@)")
_URL_QUERY = re.compile(r"(?P<url>\bhttps?://[^\s\"'?]+)\?[^\s\"']*")
# mount -t cifs -o username=hub,password=s3cret //nas/home
_NAMED_SECRET = re.compile(
    r"(?P<name>(?:passw|secret|token|credential|api_?key|access_?key|private_?key|authoriz)"
    r"[\w.-]{0,40}\\?[\"']?(?:\s{0,2}=|:)\s{0,2})"
    r"(?:(?:bearer|basic)\s+)?(?P<value>\\?\"[^\"]*\"?|'[^']*'?|[^\s,;&\"']+)",
    re.IGNORECASE,
)
_SCHEME_SECRET = re.compile(r"(?P<scheme>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_SIGNED_TOKEN = re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*)*")
_OPAQUE = re.compile(r"[A-Za-z0-9_+=]{24,}")


def said(value: str, limit: int = 200) -> str:
    r"""Return a text of the cluster as one line that may be shown: short, visible, without secrets.

    Control characters, direction marks and line ends become blanks. What looks like a credential
    is masked: user and query of an address, the value behind a name such as ``password``, bearer
    tokens, long runs of letters and digits. ``said(said(x)) == said(x)``.

    Args:
        value: As the cluster wrote it.
        limit: Most characters of the result.

    >>> said("mount\n-o user=hub,password=hunter2 failed")
    'mount -o user=hub,password=*** failed'
    """
    line = value[:_LONGEST_TEXT]
    if not (line.isascii() and line.isprintable()):
        line = "".join(
            " " if unicodedata.category(letter) in _INVISIBLE else letter for letter in line
        )
    line = " ".join(line.split())
    if not line:
        return ""
    line = _URL_PERSON.sub(_HIDDEN, line)
    line = _URL_QUERY.sub(lambda found: found["url"], line)
    line = _NAMED_SECRET.sub(lambda found: found["name"] + _HIDDEN, line)
    line = _SCHEME_SECRET.sub(lambda found: found["scheme"] + _HIDDEN, line)
    line = _SIGNED_TOKEN.sub(_HIDDEN, line)
    line = _OPAQUE.sub(_without_tokens, line)
    return line if len(line) <= limit else line[: max(0, limit - 3)].rstrip() + "..."


def _without_tokens(found: re.Match[str]) -> str:
    run = found[0]
    mixed = any(letter.isdigit() for letter in run) and any(letter.isalpha() for letter in run)
    return _HIDDEN if mixed else run
