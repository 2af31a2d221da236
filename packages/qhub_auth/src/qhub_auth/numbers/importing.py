"""Reading accounts and groups that there are already: passwd and group files, LDIF, a realm. Pure.

Of nebari only names and groups can be kept: there everybody has uid 1000 and gid 100.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from qhub_auth.errors import IdentityError, shown
from qhub_auth.numbers.numbered import GroupWanted, PersonWanted
from qhub_auth.numbers.numbering import Ranges
from qhub_auth.numbers.resolving import GID_ATTRIBUTES
from qhub_auth.paths import joined

__all__ = ["Found", "from_group", "from_ldif", "from_passwd", "from_realm", "selected"]

_PASSWD_FIELDS, _GROUP_FIELDS = 7, 4
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
        people: With their numbers, as far as they have some; nobody has a sub yet.
        groups: With their numbers, as far as they have some.
        problems: What was not understood, and where it stands.
        left_out: Who is not meant to be imported, and why.
    """

    people: tuple[PersonWanted, ...] = ()
    groups: tuple[GroupWanted, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = field(default=())

    def __add__(self, other: Found) -> Found:
        return Found(
            self.people + other.people,
            self.groups + other.groups,
            self.problems + other.problems,
            self.left_out + other.left_out,
        )


def from_passwd(text: str, source: str) -> Found:
    """Read a passwd(5) file, or what `getent passwd` prints.

    Args:
        text: The lines.
        source: Its name, for what is not understood.
    """
    people, problems = [], []
    for at, fields in _lines(text):
        # alice:x:5001:5001:Alice Doe,,,:/home/alice:/bin/bash
        if fields[0].startswith(("+", "-")):
            continue  # of NIS, see nsswitch.conf(5)
        if len(fields) != _PASSWD_FIELDS or not all(map(_NUMBER.fullmatch, fields[2:4])):
            problems.append(f"{source}, line {at}: is no line of passwd(5)")
            continue
        people.append(_person(fields[0], fields[2], fields[3], fields[5]))
    return Found(people=tuple(people), problems=tuple(problems))


def from_group(text: str, source: str) -> Found:
    """Read a group(5) file, or what `getent group` prints; members are Keycloak's to know.

    Args:
        text: The lines.
        source: Its name, for what is not understood.
    """
    groups, problems = [], []
    for at, fields in _lines(text):
        # physics:x:7001:alice,bob
        if fields[0].startswith(("+", "-")):
            continue
        if len(fields) != _GROUP_FIELDS or not _NUMBER.fullmatch(fields[2]) or not fields[0]:
            problems.append(f"{source}, line {at}: is no line of group(5)")
            continue
        groups.append(_group((fields[0],), int(fields[2])))
    return Found(groups=tuple(groups), problems=tuple(problems))


def from_ldif(text: str, source: str) -> Found:
    """Read LDIF (RFC 2849), as `ldapsearch -LLL` prints it: entries of RFC 2307 with a number.

    Args:
        text: The entries.
        source: Its name, for what is not understood.
    """
    people: list[PersonWanted] = []
    groups: list[GroupWanted] = []
    problems: list[str] = []
    for at, entry in _ldif(text, source, problems):
        kinds = {each.lower() for each in entry.get("objectclass", ())}
        first = {name: values[0] for name, values in entry.items()}
        name = first.get("uid") if "posixaccount" in kinds else first.get("cn")
        numbers = {key: first.get(key, "") for key in ("uidnumber", "gidnumber")}
        if "posixaccount" in kinds:
            if name and all(map(_NUMBER.fullmatch, numbers.values())):
                home = first.get("homedirectory", "")
                people.append(_person(name, numbers["uidnumber"], numbers["gidnumber"], home))
            else:
                problems.append(f"{source}, line {at}: a posixAccount without uid and numbers")
        elif "posixgroup" in kinds:
            if name and _NUMBER.fullmatch(numbers["gidnumber"]):
                groups.append(_group((name,), int(numbers["gidnumber"])))
            else:
                problems.append(f"{source}, line {at}: a posixGroup without cn and gidNumber")
    return Found(people=tuple(people), groups=tuple(groups), problems=tuple(problems))


def from_realm(text: str, source: str) -> Found:
    """Read a realm that Keycloak exported, such as nebari's: names of people, and groups.

    Numbers are taken from the attributes uidNumber and gidNumber, of groups from gidNumber or gid;
    who has none gets some.

    Args:
        text: The JSON.
        source: Its name, for errors.

    Raises:
        IdentityError: It is not a realm.
    """
    try:
        realm = json.loads(text)
        users, tree = realm.get("users") or [], realm.get("groups") or []
        people = tuple(map(_user, (each for each in users if "serviceAccountClientId" not in each)))
        groups = tuple(_subgroups(tree, ()))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"{source}: expected a realm as Keycloak exports it, with its users, in JSON"
        raise IdentityError(msg) from error
    return Found(people=people, groups=groups)


def selected(found: Found, ranges: Ranges, *, own_groups: bool = False) -> Found:
    """Return what is to be imported: people, and groups that are not one person's own.

    Accounts with reserved numbers are the system's; these are left out, and so are nobody's.

    Args:
        found: All that was read.
        ranges: What is reserved.
        own_groups: Give everybody a group of their own, whatever their primary group was.
    """
    people, left_out = [], list(found.left_out)
    for each in found.people:
        if each.uid is not None and ranges.is_reserved(each.uid):
            left_out.append(f"{shown(each.name)}: uid {each.uid} is reserved")
        else:
            people.append(replace(each, gid=None) if own_groups else each)
    private = {(joined([each.name]), each.uid) for each in people}
    groups = []
    for group in found.groups:
        if group.gid is not None and ranges.is_reserved(group.gid):
            left_out.append(f"the group {shown(group.path)}: gid {group.gid} is reserved")
        elif (group.path, group.gid) not in private:
            groups.append(group)
    return replace(found, people=tuple(people), groups=tuple(groups), left_out=tuple(left_out))


def _person(name: str, uid: str, gid: str, home: str) -> PersonWanted:
    return PersonWanted("", name, int(uid), int(gid), home.rstrip("/") or None)


def _group(parts: tuple[str, ...], gid: int | None) -> GroupWanted:
    path = joined(parts)
    return GroupWanted(key=f"path:{path}", path=path, gid=gid)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for at, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield at, line.split(":")


def _user(data: Mapping[str, object]) -> PersonWanted:
    name = data["username"]
    if not isinstance(name, str):
        raise TypeError
    given = data.get("attributes") or {}
    first = {key: values[0] for key, values in dict(given).items() if values}  # type: ignore[call-overload]
    uid, gid = _int(first.get("uidNumber")), _int(first.get("gidNumber"))
    home = first.get("homeDirectory")
    return PersonWanted("", name.lower(), uid, gid, home if isinstance(home, str) else None)


def _subgroups(
    tree: Iterable[Mapping[str, object]], above: tuple[str, ...]
) -> Iterator[GroupWanted]:
    for each in tree:
        parts = (*above, str(each["name"]))
        attributes = dict(each.get("attributes") or {})  # type: ignore[call-overload]
        numbers = [attributes[name][0] for name in GID_ATTRIBUTES if attributes.get(name)]
        if attributes.get("share") or numbers:
            yield _group(parts, _int(numbers[0]) if numbers else None)
        yield from _subgroups(each.get("subGroups") or (), parts)  # type: ignore[arg-type]


def _int(value: object) -> int | None:
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def _ldif(
    text: str, source: str, problems: list[str]
) -> Iterator[tuple[int, dict[str, list[str]]]]:
    """Give the entries, each with the number of its first line; names in lower case."""
    entry: dict[str, list[str]] = {}
    begin = 1
    for at, line in _unfolded(text):
        if not line:
            if entry:
                yield begin, entry
            entry = {}
            continue
        if line.startswith("#"):
            continue
        if not entry:
            begin = at
        # uidNumber: 5001 / homeDirectory:: L2hvbWUvYWxpY2U= / cn;lang-de: Physik
        name, colon, value = line.partition(":")
        encoded = value.startswith(":")
        try:
            value = _decoded(value[1:]) if encoded else value.removeprefix(" ")
        except (ValueError, binascii.Error):
            colon = ""
        if not colon:
            problems.append(f"{source}, line {at}: is no line of LDIF")
            continue
        entry.setdefault(name.partition(";")[0].lower(), []).append(value)
    if entry:
        yield begin, entry


def _decoded(value: str) -> str:
    return base64.b64decode(value.strip(), validate=True).decode("utf-8")


def _unfolded(text: str) -> Iterator[tuple[int, str]]:
    """Give logical lines: one that begins with a blank goes on the one before it."""
    held: tuple[int, str] | None = None
    for at, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")  # noqa: PLW2901 - files come from anywhere
        if line.startswith(" ") and held is not None:
            held = (held[0], held[1] + line[1:])
            continue
        if held is not None:
            yield held
        held = (at, line)
    if held is not None:
        yield held
    yield 0, ""
