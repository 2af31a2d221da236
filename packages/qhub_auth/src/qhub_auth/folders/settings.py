"""Root's settings, from a file that nobody else may write: ``/etc/qhub/folders.json``.

Nothing of it can come from an argument or from the environment. Sizes are in bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .opening import FolderError, open_absolute_file
from .verbs import LARGEST_ID, LARGEST_QUOTA

__all__ = ["Place", "Settings", "read_settings", "settings_of"]

SMALLEST_ID = 100
"""Below are the system's own accounts, whatever the settings say."""
NOBODY = frozenset({65534, 65535})
LONGEST = 256 * 1024
HIDDEN = ".qhub"
"""In each root: what is being made, what was archived, and the lock. Root's alone."""


@dataclass(frozen=True)
class Place:
    """A root under which folders are made.

    Attributes:
        root: Its absolute path, without symbolic links.
        archive: Where archived folders go: ``ROOT/.qhub/archive`` if it is empty.
        skeleton: A folder whose content a new home begins with; empty for none.
        quota_bytes: What a new folder may hold; 0 for no limit.
    """

    root: str
    archive: str = ""
    skeleton: str = ""
    quota_bytes: int = 0


@dataclass(frozen=True)
class Settings:
    """All of it.

    Attributes:
        homes: Where homes are; `None` makes `home` a verb that is refused.
        shared: Where shared folders are; `None` likewise.
        uids: Which numbers people may have, as inclusive ranges.
        gids: Which numbers groups may have.
        mounts: Whether a home or shared folder may be a mount point.
        hide_names: Whether the folders of groups without a share may be passed, but not listed.
    """

    homes: Place | None = None
    shared: Place | None = None
    uids: tuple[tuple[int, int], ...] = ((20000, 49999),)
    gids: tuple[tuple[int, int], ...] = ((50000, 59999),)
    mounts: bool = False
    hide_names: bool = False
    source: str = field(default="", compare=False)

    def check_uid(self, uid: int) -> None:
        """Refuse a number that no person may have.

        Raises:
            FolderError: It is out of the ranges; says which those are.
        """
        self._check("uid", uid, self.uids)

    def check_gid(self, gid: int) -> None:
        """Refuse a number that no group may have, as `check_uid` does."""
        self._check("gid", gid, self.gids)

    def check_home_gid(self, gid: int) -> None:
        """As `check_gid`; a person's own group may also be among the numbers of people."""
        self._check("gid", gid, self.uids + self.gids)

    def _check(self, what: str, number: int, ranges: tuple[tuple[int, int], ...]) -> None:
        inside = any(low <= number <= high for low, high in ranges)
        if not inside or number in NOBODY or number < SMALLEST_ID:
            said = ", ".join(f"{low}-{high}" for low, high in ranges)
            raise FolderError(f"{what} {number} is not among {said} of {self.source}")


def read_settings(path: str) -> Settings:
    """Read and check the settings.

    Args:
        path: Absolute.

    Raises:
        FolderError: The file or a folder above it could be changed by others than root, or what it
            says makes no sense; the message names the field.
    """
    descriptor = open_absolute_file(path)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise FolderError(f"{path}: longer than {LONGEST} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not JSON: {error}") from error
    try:
        return settings_of(document, source=path)
    except ValueError as error:
        raise FolderError(f"{path}: {error}") from error


def settings_of(document: object, *, source: str = "settings") -> Settings:
    """Return the settings that a JSON document holds.

    Raises:
        ValueError: A field is unknown, or not what it should be.
    """
    names = ("homes", "shared", "uids", "gids", "mounts", "hide_names")
    table = _table("", document, names)
    values: dict[str, Any] = {"source": source}
    for name in ("homes", "shared"):
        if table.get(name) is not None:
            values[name] = _place(name, table[name])
    for name in ("uids", "gids"):
        if name in table:
            values[name] = _ranges(name, table[name])
    for name in ("mounts", "hide_names"):
        if name in table:
            values[name] = _flag(name, table[name])
    settings = Settings(**values)
    if settings.homes is None and settings.shared is None:
        raise ValueError("expected homes or shared, or both")
    roots = [place.root for place in (settings.homes, settings.shared) if place is not None]
    if len(set(roots)) != len(roots):
        raise ValueError("homes and shared: expected two folders")
    return settings


def _table(where: str, value: object, names: tuple[str, ...]) -> Mapping[str, Any]:
    prefix = f"{where}: " if where else ""
    if not isinstance(value, dict):
        raise ValueError(f"{prefix}expected an object")  # noqa: TRY004 - one error for all
    for name in value:
        if name not in names:
            raise ValueError(f"{prefix}unknown field {name[:64]!a}; it may have {', '.join(names)}")
    return value


def _place(where: str, value: object) -> Place:
    more = ("skeleton",) if where == "homes" else ()
    table = _table(where, value, ("root", "archive", "quota_bytes", *more))
    if "root" not in table:
        raise ValueError(f"{where}.root: missing; expected an absolute path, e.g. /srv/{where}")
    paths = {
        name: _absolute(f"{where}.{name}", table[name])
        for name in ("root", "archive", "skeleton")
        if table.get(name)
    }
    quota = table.get("quota_bytes", 0)
    if type(quota) is not int or not 0 <= quota <= LARGEST_QUOTA:
        raise ValueError(f"{where}.quota_bytes: expected a number of bytes, 0 for no limit")
    return Place(quota_bytes=quota, **paths)


def _absolute(where: str, value: object) -> str:
    plain = isinstance(value, str) and value.startswith("/") and "\0" not in value
    # realpath would follow links: here only the spelling is checked
    if not plain or os.path.normpath(str(value)) != value or value in ("/", "//"):
        raise ValueError(f"{where}: expected an absolute path without .. or a slash at its end")
    return str(Path(str(value)))


def _ranges(where: str, value: object) -> tuple[tuple[int, int], ...]:
    wanted = f"{where}: expected pairs of numbers {SMALLEST_ID} to {LARGEST_ID}, first to last"
    if not isinstance(value, list) or not value:
        raise ValueError(f"{wanted}, e.g. [[20000, 49999]]")
    ranges = []
    for pair in value:
        if not isinstance(pair, list) or [type(each) for each in pair] != [int, int]:
            raise ValueError(f"{wanted}, e.g. [[20000, 49999]]")
        if not SMALLEST_ID <= pair[0] <= pair[1] <= LARGEST_ID:
            raise ValueError(f"{wanted}, not {pair[0]} to {pair[1]}")
        ranges.append((pair[0], pair[1]))
    return tuple(ranges)


def _flag(where: str, value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{where}: expected true or false")
    return value
