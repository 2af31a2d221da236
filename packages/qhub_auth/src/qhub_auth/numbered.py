"""People and groups with their numbers, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["UNCLAIMED", "GroupNumbers", "GroupWanted", "Person", "PersonWanted"]

UNCLAIMED = "unclaimed:"
"""How the sub of a record begins whose person Keycloak has not named yet: it was imported, or its
name was released with its numbers."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person as they are on every system.

    Attributes:
        sub: Who they are in Keycloak, for ever.
        name: Their account's name.
        uid: Their number.
        gid: Their primary group's number.
        home: Their home; empty once it was archived.
        retired: Whether Keycloak does not know them any more.
    """

    sub: str
    name: str
    uid: int
    gid: int
    home: str
    retired: bool = False

    @property
    def claimed(self) -> bool:
        """Whether somebody in Keycloak has this record; else the first of that name gets it."""
        return not self.sub.startswith(UNCLAIMED)

    def has_numbers_of(self, wanted: PersonWanted) -> bool:
        """Whether the numbers and the home are those that somebody gave, as far as one did."""
        pairs = ((wanted.uid, self.uid), (wanted.gid, self.gid), (wanted.home, self.home))
        return all(asked is None or asked == has for asked, has in pairs)

    def matches(self, wanted: PersonWanted) -> bool:
        """Whether nothing of the record would change."""
        as_wanted = self.name == wanted.name and self.has_numbers_of(wanted)
        return as_wanted and not self.retired and bool(self.home)


@dataclass(frozen=True, slots=True)
class PersonWanted:
    """A person to be given numbers.

    Attributes:
        sub: Who they are in Keycloak.
        name: Their account's name.
        uid: The number that an administrator gave them, if one did.
        gid: The same for their primary group; their uid if not.
        home: The same for their home.
    """

    sub: str
    name: str
    uid: int | None = None
    gid: int | None = None
    home: str | None = None


@dataclass(frozen=True, slots=True)
class GroupWanted:
    """A group to be given a number.

    Attributes:
        key: What never changes of it: Keycloak's identifier, or ``path:/a/b`` where only its path
            is known.
        path: Its full path.
        gid: The number that an administrator gave it, if one did.
    """

    key: str
    path: str
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """A group as it is on every system.

    Attributes:
        key: What never changes of it.
        path: Its full path.
        gid: Its number.
        unix_name: Its name for group(5); it stays when the group is renamed.
        folder: The path that its folder was made for: where the folder is. It stays when the group
            is renamed or moved, until somebody moves the folder too (`folder_moved`). Empty once
            the folder was archived.
        old_path: The path it had before this call, if it was renamed or moved.
        retired: Whether Keycloak does not know it any more.
    """

    key: str
    path: str
    gid: int
    unix_name: str
    folder: str
    old_path: str | None = None
    retired: bool = False
