"""Looking for differences between Keycloak, numbers, this machine's name service and folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qhub_auth.directory import Directory, PersonFacts
from qhub_auth.errors import IdentityError, shown
from qhub_auth.numbers.host_accounts import Account
from qhub_auth.numbers.numbered import GroupNumbers, Person
from qhub_auth.numbers.resolving import group_wanted, numbered_groups
from qhub_auth.paths import folder_of

__all__ = ["Finding", "folders", "groups", "machine", "people"]

_HOME_MODE, _SHARE_MODES = 0o700, (0o2770, 0o3770)
_PERMISSIONS = 0o7777


@dataclass(frozen=True, slots=True)
class Finding:
    """Something an administrator should know.

    Attributes:
        kind: ``wrong``: two sides say different things; ``missing``: one side says nothing yet.
        subject: Whom it is about.
        words: What it is.
    """

    kind: Literal["wrong", "missing"]
    subject: str
    words: str

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.subject}: {self.words}"


def people(
    facts: Mapping[str, PersonFacts], names: Mapping[str, str], known: Iterable[Person]
) -> Iterator[Finding]:
    """Compare what Keycloak says of people with their numbers.

    Args:
        facts: By sub.
        names: Their names at the hub, by sub.
        known: Everybody who has numbers, those who are gone included.
    """
    records = {each.sub: each for each in known}
    for sub, record in records.items():
        one, who = facts.get(sub), shown(record.name)
        if one is None:
            if record.claimed and not record.retired:
                yield Finding("wrong", who, "has numbers, and Keycloak does not know them any more")
            elif not record.claimed:
                yield Finding("missing", who, "was imported, and never came")
            continue
        if sub in names and names[sub] != record.name:
            words = f"is called {shown(names[sub])} in Keycloak"
            yield Finding("wrong", who, f"{words}; it counts when they log in")
        given = (("uidNumber", one.uid, record.uid), ("gidNumber", one.gid, record.gid))
        for name, theirs, ours in given:
            if theirs is not None and theirs != ours:
                yield Finding("wrong", who, f"{name} is {theirs} in Keycloak, and {ours} here")
    for sub in facts:
        if sub not in records and sub in names:
            yield Finding("missing", shown(names[sub]), "has no numbers yet: they never came")


def groups(
    directory: Directory, known: Iterable[GroupNumbers], there: Collection[str]
) -> Iterator[Finding]:
    """Compare Keycloak's groups with their numbers.

    Args:
        directory: The groups that count.
        known: Those that have a number, those that are gone included.
        there: Identifiers of all that Keycloak has, those that count for nothing included.
    """
    records = {each.key: each for each in known}
    for group in numbered_groups(directory):
        who = f"the group {shown(group.path)}"
        record = records.get(group.id) or records.get(f"path:{group.path}")
        try:
            wanted = group_wanted(group)
        except IdentityError as error:
            yield Finding("wrong", who, str(error))
            continue
        if record is None:
            yield Finding("missing", who, "has no number yet: nobody in it came")
        elif wanted.gid not in {None, record.gid}:
            words = f"gid is {wanted.gid} in Keycloak, and {record.gid} here"
            yield Finding("wrong", who, words)
        elif record.folder and record.folder != group.path and group.share == "rw":
            words = (
                f"its folder is still that of {shown(record.folder)} (qhub-identity ensure-dirs)"
            )
            yield Finding("wrong", who, words)
    for key, record in records.items():
        if key in directory.by_id or record.retired or record.path in directory.groups:
            continue
        words = "Keycloak does not know it"
        if key in there:
            words = "counts for nothing now, by its path or since another one looks like it"
        yield Finding(
            "wrong", f"the group {shown(record.path)}", f"has gid {record.gid}, and {words}"
        )


def machine(
    known: Iterable[Person],
    numbers: Iterable[GroupNumbers],
    account_of: Callable[[str], Account | None],
    gid_of: Callable[[str], int | None],
) -> Iterator[Finding]:
    """Compare numbers with what this machine's name service (getent) says.

    Args:
        known: People who have numbers.
        numbers: Groups that have a number.
        account_of: Looks an account up by its name.
        gid_of: Looks a group up by its name.
    """
    for person in known:
        account, who = account_of(person.name), shown(person.name)
        if account is None:
            yield Finding("missing", who, "is no account of this machine (qhub-identity nss)")
            continue
        pairs = (
            ("uid", account.uid, person.uid),
            ("gid", account.gid, person.gid),
            ("home", account.home, person.home),
        )
        for what, theirs, ours in pairs:
            if theirs != ours:
                words = f"{what} is {shown(theirs)} on this machine, and {shown(ours)} here"
                yield Finding("wrong", who, words)
    for group in numbers:
        gid, who = gid_of(group.unix_name), f"the group {shown(group.path)}"
        if gid is None:
            words = f"{group.unix_name} is no group of this machine (qhub-identity nss)"
            yield Finding("missing", who, words)
        elif gid != group.gid:
            words = f"{group.unix_name} has gid {gid} on this machine, and {group.gid} here"
            yield Finding("wrong", who, words)


def folders(
    known: Iterable[Person], shares: Iterable[GroupNumbers], shared_root: Path
) -> Iterator[Finding]:
    """Compare owners and modes of homes and shared folders with the numbers.

    What cannot be looked at is a finding, too: root sees all.

    Args:
        known: People who have a home.
        shares: Groups that have a shared folder.
        shared_root: Where shared folders are.
    """
    for person in known:
        yield from _folder(
            Path(person.home), shown(person.name), person.uid, person.gid, (_HOME_MODE,)
        )
    for group in shares:
        if group.folder:
            path = shared_root / folder_of(group.folder)
            who = f"the group {shown(group.path)}"
            yield from _folder(path, who, 0, group.gid, _SHARE_MODES)


def _folder(path: Path, who: str, uid: int, gid: int, modes: tuple[int, ...]) -> Iterator[Finding]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        yield Finding("missing", who, f"{path} is not there (qhub-identity ensure-dirs)")
        return
    except OSError as error:
        yield Finding("missing", who, f"{path} cannot be looked at ({error.strerror}): run as root")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield Finding("wrong", who, f"{path} is not a folder")
        return
    if (status.st_uid, status.st_gid) != (uid, gid):
        found = f"belongs to {status.st_uid}:{status.st_gid}"
        yield Finding("wrong", who, f"{path} {found}, and should to {uid}:{gid}")
    if status.st_mode & _PERMISSIONS not in modes:
        wanted = " or ".join(f"{mode:o}" for mode in modes)
        mode = status.st_mode & _PERMISSIONS
        yield Finding("wrong", who, f"{path} has mode {mode:o}, and should have {wanted}")
