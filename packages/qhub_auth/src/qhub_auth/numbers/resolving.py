"""Which groups, folders and gids somebody has, and their identity on every target. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from qhub_auth.directory import Directory, Group, PersonFacts, Share
from qhub_auth.errors import IdentityError, NumberTakenError, shown
from qhub_auth.identity import Folder, Identity
from qhub_auth.numbers.numbered import GroupNumbers, GroupWanted, Person
from qhub_auth.paths import ancestors, split

__all__ = [
    "GID_ATTRIBUTES",
    "Membership",
    "check_primary",
    "checked_home",
    "group_wanted",
    "identity_for",
    "membership",
    "numbered_groups",
    "path_trouble",
    "role_names",
    "with_shares",
]

GID_ATTRIBUTES = ("gidNumber", "gid")
_LONGEST_PATH, _LONGEST_NAME, _LONGEST_HOME = 255, 255, 255
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
# What passwd(5) can hold and a spawner takes as a path.
_HOME = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._+=@,~-]+)+")


@dataclass(frozen=True)
class Membership:
    """What a person has by their groups.

    Attributes:
        shares: The shared folders, by path.
        groups: The groups whose gid they have.
    """

    shares: tuple[Share, ...]
    groups: tuple[Group, ...]

    @property
    def groups_involved(self) -> tuple[Group, ...]:
        """All groups whose numbers are needed to say what they have."""
        return (*self.groups, *(each.owner for each in self.shares))


def with_shares(
    directory: Directory, shares: Mapping[str, Literal["rw", "ro", "all"]]
) -> Directory:
    """Return the directory with shares that the hub's configuration gives to groups by their path.

    A group that the directory does not know is known by its path from then on.
    """
    if not shares:
        return directory
    groups = dict(directory.groups)
    for path, share in shares.items():
        known = groups.get(path) or Group(id=f"path:{path}", path=path)
        how = "rw" if share == "all" else share
        groups[path] = replace(known, attributes={**known.attributes, "share": (how,)})
    everybody = {path for path, share in shares.items() if share == "all"}
    return replace(directory, groups=groups, everybody=directory.everybody | everybody)


def numbered_groups(directory: Directory) -> tuple[Group, ...]:
    """Return the groups that have a gid: those with a share, and those to whom one was given."""
    return tuple(each for _, each in sorted(directory.groups.items()) if _has_gid(each))


def membership(directory: Directory, paths: Iterable[str]) -> Membership:
    """Return what somebody has who is directly in the groups `paths`.

    A member of a group is one of the groups above it. But who is in a group that may only read
    (``share`` = ``ro``) has none of the gids above it by that: these would let them write.
    """
    direct = sorted(directory.everybody.union(paths))
    found: dict[str, Group] = {}
    for path in direct:
        chain = [directory.groups.get(each) for each in (*ancestors(path), path)]
        readers = [at for at, each in enumerate(chain) if each is not None and each.share == "ro"]
        for group in chain[readers[-1] if readers else 0 :]:
            if group is not None and _has_gid(group):
                found[group.path] = group
    groups = tuple(found[path] for path in sorted(found))
    return Membership(shares=directory.shares(direct), groups=groups)


def group_wanted(group: Group) -> GroupWanted:
    """Return what to ask the store for.

    Raises:
        IdentityError: Its gidNumber is no number, or its path cannot be told apart from another's.
    """
    trouble = path_trouble(group.path)
    if trouble:
        msg = f"the group {shown(group.path)} gets neither gid nor folder: {trouble}"
        raise IdentityError(msg)
    return GroupWanted(key=group.id, path=group.path, gid=_given_gid(group))


def path_trouble(path: str) -> str:
    """Say why a group of this path can have no folder; empty if it can."""
    try:
        parts = split(path)
    except ValueError as error:
        return str(error)
    if "~/" in path:
        # Keycloak writes the group "a/b" and the group "b" in "a~" as one and the same path.
        return "a group's name may not have '/' in it, nor end in '~' where groups are in it"
    if len(path) > _LONGEST_PATH:
        return f"its path has {len(path)} characters, and may have {_LONGEST_PATH}"
    bad = next((each for each in path if unicodedata.category(each) in _UNSEEN), None)
    if bad is not None:
        return f"its path holds the character U+{ord(bad):04X}, which cannot be seen"
    if any(part != part.strip() for part in parts):
        return "a group's name may have no blank at its ends"
    return ""


def checked_home(home: str, who: str) -> str:
    """Return a home that every target takes.

    Raises:
        IdentityError: It is not an absolute path of plain characters, or it goes up by ``..``.
    """
    if len(home) > _LONGEST_HOME or not _HOME.fullmatch(home):
        msg = (
            f"the home of {who} is {shown(home, 200)}; expected an absolute path of at most "
            f"{_LONGEST_HOME} letters, digits and . _ + = @ , ~ - without '..', "
            "e.g. /home/alice"
        )
        raise IdentityError(msg)
    return home


def role_names(roles: Collection[str]) -> tuple[str, ...]:
    """Return the roles in order; those that nobody could have written on purpose are left out."""
    return tuple(
        sorted(
            role
            for role in roles
            if role.strip() == role
            and 1 <= len(role) <= _LONGEST_NAME
            and not any(unicodedata.category(each) in _UNSEEN for each in role)
        )
    )


def identity_for(
    person: Person,
    facts: PersonFacts,
    belongs: Membership,
    numbers: Mapping[str, GroupNumbers],
) -> Identity:
    """Return who somebody is on every target.

    Args:
        person: Their numbers.
        facts: What Keycloak says of them.
        belongs: What they have by their groups.
        numbers: The groups' numbers by key; a group that is not there gives nothing.

    Raises:
        NumberTakenError: Their own gid is that of a group into whose folder they may not write.
    """
    folders = []
    for share in belongs.shares:
        owner, through = numbers.get(share.owner.id), numbers.get(share.through.id)
        if owner is None or through is None or path_trouble(owner.folder):
            continue
        folders.append(
            Folder(path=owner.folder, name=through.unix_name, gid=through.gid, access=share.access)
        )
    gids = {numbers[each.id].gid for each in belongs.groups if each.id in numbers}
    return Identity(
        uid=person.uid,
        gid=person.gid,
        gids=tuple(sorted({person.gid, *gids})),
        home=checked_home(person.home, shown(person.name)),
        groups=tuple(sorted(folders, key=lambda each: each.path)),
        roles=role_names(facts.roles),
    )


def check_primary(
    gid: int | None, who: str, belongs: Membership, gids: Mapping[int, Sequence[Group]]
) -> None:
    """Refuse a primary group by which somebody could write where their groups do not let them.

    Args:
        gid: The gid of their primary group that an administrator gave them, if one did.
        who: For the error.
        belongs: What they have by their groups.
        gids: The groups that have or ask for a number, by gid.

    Raises:
        NumberTakenError: It is that of a group with a shared folder, and they may not write there.
    """
    mine = {each.path for each in belongs.groups}
    for group in () if gid is None else gids.get(gid, ()):
        if group.share is None or group.path in mine:
            continue
        msg = (
            f"the gid (gidNumber) of {who} is {gid}, that of the group {shown(group.path)}, which "
            "has a shared folder and in which they are not: make them a member in Keycloak, or "
            "give them another gidNumber"
        )
        raise NumberTakenError(msg)


def _has_gid(group: Group) -> bool:
    return group.share is not None or any(group.first(name) for name in GID_ATTRIBUTES)


def _given_gid(group: Group) -> int | None:
    text = next(filter(None, map(group.first, GID_ATTRIBUTES)), None)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text):
        msg = f"the gidNumber of the group {shown(group.path)} is {shown(text)}, and no number"
        raise IdentityError(msg)
    return int(text)
