"""Group paths, and the folders they stand for. Pure.

Keycloak writes a group's place in the tree as a path, ``/physics/team-a``, and a slash inside a
group's own name as ``~/`` (Keycloak 26, ``KeycloakModelUtils.buildGroupPath``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["ancestors", "folder_of", "joined", "path_part", "split", "usable", "with_parents"]

_LONGEST_PATH = 255  # what the hub's database keeps of a group's name

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_@")
# Below the 255 bytes that a file's name may have, with room for what tools add; and what is kept
# before a hash.
_LONGEST_PART, _LONGEST_KEPT = 240, 150
# The same few hundred paths are read at every log-in.
_REMEMBERED = 16384
_SEPARATOR = re.compile(r"(?<!~)/")


@lru_cache(_REMEMBERED)
def split(path: str) -> tuple[str, ...]:
    """Return the names of the groups on `path`, the outermost first, e.g. ``("physics", "lab")``.

    A slash inside a name, written ``~/``, stays part of the name, as ``/``.

    Raises:
        ValueError: It does not begin with a slash, or a name in it is empty.
    """
    if not path.startswith("/") or path == "/":
        msg = "a group's path begins with a slash and names a group, e.g. /physics/team-a"
        raise ValueError(msg)
    parts = tuple(part.replace("~/", "/") for part in _SEPARATOR.split(path)[1:])
    if not all(parts):
        msg = "a group's path has no empty names, e.g. /physics/team-a"
        raise ValueError(msg)
    return parts


def usable(path: str) -> bool:
    """Whether a group of that path counts: for log-in, group sync, numbers and folders alike.

    It does not if it is no full path, if the hub could not keep it as a group's name (more than 255
    characters), or if it has characters that nobody can see, such as a newline.
    """
    if len(path) > _LONGEST_PATH or not path.isprintable():
        return False
    try:
        split(path)
    except ValueError:
        return False
    return True


def joined(parts: Iterable[str]) -> str:
    """Return the path of a group from the names on its way; the opposite of :func:`split`."""
    return "".join("/" + part.replace("/", "~/") for part in parts)


@lru_cache(_REMEMBERED)
def ancestors(path: str) -> tuple[str, ...]:
    """Return the paths of all groups above `path`, the outermost first; not `path` itself."""
    parts = split(path)
    return tuple(joined(parts[:end]) for end in range(1, len(parts)))


def with_parents(paths: Iterable[str]) -> frozenset[str]:
    """Return `paths` and the paths of all groups above them."""
    return frozenset(each for path in paths for each in (*ancestors(path), path))


def path_part(name: str) -> str:
    """Return `name` as one part of a path: no two names give the same, none leaves its folder.

    Letters, digits, ``-``, ``_``, ``@`` and a dot that is not the first stay; every other byte of
    its UTF-8 becomes ``%`` and two hexadecimal digits, so that the name can be read back. One that
    gets longer than a file's name may be ends in ``%-`` and its SHA-256.
    """
    data = name.encode("utf-8", "surrogatepass")
    part = "".join(
        chr(byte) if byte in _PLAIN or (byte == ord(".") and at) else f"%{byte:02x}"
        for at, byte in enumerate(data)
    )
    if len(part) > _LONGEST_PART:
        part = f"{part[:_LONGEST_KEPT]}%-{hashlib.sha256(data).hexdigest()}"
    return part or "%"


def folder_of(path: str) -> str:
    """Return the folder of the group, relative to the root of all shared folders."""
    return "/".join(path_part(part) for part in split(path))
