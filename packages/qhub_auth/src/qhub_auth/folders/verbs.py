"""What can be asked of `qhub-ensure-dirs`: a closed list of verbs, each argument checked. Pure.

A request is one JSON object on one line, e.g.
``{"verb": "home", "name": "alice", "uid": 20001, "gid": 20001}``. The same classes make requests on
the hub's side and read them on root's. What only root's settings can say (which numbers are
allowed, where things are) is checked by who carries the verb out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Union

__all__ = [
    "LARGEST_ID",
    "VERBS",
    "Archive",
    "Check",
    "Home",
    "Parent",
    "Quota",
    "Rename",
    "Share",
    "Tree",
    "Verb",
    "line_of",
    "parsed",
    "request_of",
]

LARGEST_ID = 2**31 - 1
MOST_PARTS, LONGEST_PATH, MOST_READERS = 16, 1024, 200
LARGEST_QUOTA = 2**60
# A person's folder. What comes out of `qhub_auth.paths.path_part` is a part of a group's.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_@%-][A-Za-z0-9_.@%-]{0,239}", re.ASCII)


@dataclass(frozen=True)
class Home:
    """A person's home: made if there is none, and never changed if there is one."""

    verb: ClassVar[str] = "home"
    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Share:
    """A group's shared folder.

    Attributes:
        path: Relative to the root of shared folders, as `qhub_auth.paths.folder_of` gives it.
        gid: Of the group, whose members read and write.
        readers: Groups whose members may only read.
        sticky: Whether only who made something directly in it may rename or remove it: needed
            where folders of other groups are in it. Once it is so, it stays so.
    """

    verb: ClassVar[str] = "share"
    path: str
    gid: int
    readers: tuple[int, ...] = ()
    sticky: bool = False


@dataclass(frozen=True)
class Parent:
    """The folder of a group that has no share, above one that has: a way through, root's own."""

    verb: ClassVar[str] = "parent"
    path: str


@dataclass(frozen=True)
class Archive:
    """Move a home or a shared folder away, to where only root goes. Nothing is deleted.

    Attributes:
        kind: Of what.
        name: The person's name, or the group's folder.
        owner: The uid that the home must belong to, or the gid of the shared folder.
    """

    verb: ClassVar[str] = "archive"
    kind: Literal["home", "share"]
    name: str
    owner: int


@dataclass(frozen=True)
class Rename:
    """Move the shared folder of a group that has another name or place now."""

    verb: ClassVar[str] = "rename"
    source: str
    target: str
    gid: int


@dataclass(frozen=True)
class Tree:
    """Bring what is in a shared folder already in line with who may read it."""

    verb: ClassVar[str] = "tree"
    path: str
    gid: int
    readers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Quota:
    """Limit what a home or a shared folder may hold, where the file system can.

    Attributes:
        kind: Of what.
        name: As in `Archive`.
        owner: As in `Archive`.
        quota_bytes: 0 for no limit.
    """

    verb: ClassVar[str] = "quota"
    kind: Literal["home", "share"]
    name: str
    owner: int
    quota_bytes: int


@dataclass(frozen=True)
class Check:
    """Only say: what another verb would do, or, without one, what the file systems can."""

    verb: ClassVar[str] = "check"
    item: Home | Share | Parent | Archive | Rename | None = None


# mypy and isinstance both take it, and so does Python's `get_args`
Verb = Union[Home, Share, Parent, Archive, Rename, Tree, Quota, Check]  # noqa: UP007
VERBS: Mapping[str, type[Any]] = {
    each.verb: each for each in (Home, Share, Parent, Archive, Rename, Tree, Quota, Check)
}
_CHECKED = ("home", "share", "parent", "archive", "rename")


def _text(value: object, pattern: re.Pattern[str], wanted: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{_said(value)}: expected {wanted}")
    return value


def _name(value: object) -> str:
    return _text(value, _NAME, "a name of at most 64 letters, digits and _ . @ -, e.g. alice")


def _path(value: object) -> str:
    wanted = (
        f"names of groups joined by /, at most {MOST_PARTS}, relative, every byte but letters, "
        "digits and - _ @ . written %XX, e.g. physics/team-a"
    )
    if not isinstance(value, str) or len(value) > LONGEST_PATH:
        raise ValueError(f"{_said(value)}: expected {wanted}")
    parts = value.split("/")
    if len(parts) > MOST_PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{_said(value)}: expected {wanted}")
    return value


def _id(value: object) -> int:
    if type(value) is not int or not 0 < value <= LARGEST_ID:
        raise ValueError(f"{_said(value)}: expected a number from 1 to {LARGEST_ID}")
    return value


def _ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > MOST_READERS:
        raise ValueError(f"{_said(value)}: expected a list of at most {MOST_READERS} numbers")
    return tuple(sorted({_id(each) for each in value}))


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{_said(value)}: expected true or false")
    return value


def _kind(value: object) -> str:
    if value not in ("home", "share"):
        raise ValueError(f"{_said(value)}: expected home or share")
    return str(value)


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_QUOTA:
        raise ValueError(f"{_said(value)}: expected a number of bytes, 0 for no limit")
    return value


_CHECKS: Mapping[str, Callable[[object], object]] = {
    "gid": _id,
    "kind": _kind,
    "owner": _id,
    "path": _path,
    "quota_bytes": _size,
    "readers": _ids,
    "source": _path,
    "sticky": _flag,
    "target": _path,
    "uid": _id,
}


def parsed(request: object) -> Verb:
    """Return the verb that a request asks for.

    Args:
        request: What JSON made of the line.

    Raises:
        ValueError: It is none of the verbs, an argument is missing, unknown, or not what it should
            be; the message says which and what would be.
    """
    if not isinstance(request, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - one error for all
    arguments = dict(request)
    verb = arguments.pop("verb", None)
    made = VERBS.get(verb) if isinstance(verb, str) else None
    if made is None:
        raise ValueError(f"verb {_said(verb)}: expected one of {', '.join(VERBS)}")
    known = {field.name: field for field in fields(made)}
    for name in arguments:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(f"{verb}: unknown argument {_said(name)}; it takes {takes}")
    try:
        checked = {
            name: _item(value) if made is Check else _argument(arguments, name, value)
            for name, value in arguments.items()
        }
        result: Verb = made(**checked)
    except TypeError as error:
        needed = ", ".join(known)
        raise ValueError(f"{verb}: an argument is missing; it takes {needed}") from error
    if isinstance(result, Share | Tree) and result.gid in result.readers:
        raise ValueError(f"{verb}: readers: {result.gid} is the group that writes")
    return result


def _argument(arguments: Mapping[str, object], name: str, value: object) -> object:
    try:
        if name == "name":
            return _path(value) if arguments.get("kind") == "share" else _name(value)
        return _CHECKS[name](value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _item(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("verb") not in _CHECKED:
        raise ValueError(f"item: expected a request with one of {', '.join(_CHECKED)}")
    return parsed(value)


def request_of(verb: Verb) -> dict[str, object]:
    """Return the request for a verb; the opposite of :func:`parsed`."""
    if isinstance(verb, Check):
        item = {} if verb.item is None else {"item": request_of(verb.item)}
        return {"verb": verb.verb, **item}
    return {"verb": verb.verb, **asdict(verb)}


def line_of(verb: Verb) -> str:
    """Return the request as one line of JSON, with its end."""
    return json.dumps(request_of(verb), sort_keys=True) + "\n"


def _said(value: object) -> str:
    """Say a value from outside in at most 64 printable ASCII characters."""
    if not isinstance(value, str | int | bool | None):
        return f"<{type(value).__name__}>"
    if isinstance(value, int) and abs(value) >= 2**64:
        return "a huge number"
    text = ascii(value[:64] if isinstance(value, str) else value)
    return text if len(text) <= 64 else text[:61] + "..."  # noqa: PLR2004 - as the docstring says
