"""The accounts and groups that this machine has by itself: from its files, LDAP or SSSD (NSS)."""

from __future__ import annotations

import grp
import pwd
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qhub_auth.errors import NameTakenError, NumberTakenError, shown
from qhub_auth.nss import entries
from qhub_auth.numbered import PersonWanted
from qhub_auth.numbering import Ranges

__all__ = ["Account", "HostAccounts", "agreed"]


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: Its primary group's number.
        home: Its home.
    """

    name: str
    uid: int
    gid: int
    home: str


class HostAccounts:
    """Asks the system, as `getent` does; every question is one lookup, nothing is listed.

    Args:
        own_folder: The folder of the passwd file that `qhub-identity nss` writes on this machine,
            if it does: accounts in it are not the machine's own.
    """

    def __init__(self, own_folder: str | Path = "") -> None:
        own = Path(own_folder) if own_folder else None
        self._own_people = _OwnFile(own / "passwd" if own else None)
        self._own_groups = _OwnFile(own / "group" if own else None)

    def account(self, name: str) -> Account | None:
        """Return the machine's own account of that name, or `None`."""
        found = self.any_account(name)
        if found is None or (found.name, found.uid) in self._own_people.read():
            return None
        return found

    def group(self, name: str) -> int | None:
        """Return the number of the machine's own group of that name, or `None`."""
        number = self.group_number(name)
        return None if (name, number) in self._own_groups.read() else number

    def any_account(self, name: str) -> Account | None:
        """Return the account of that name, ours included, or `None`."""
        try:
            found = pwd.getpwnam(name)
        except (KeyError, ValueError):  # ValueError: a NUL in the name
            return None
        return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)

    def has_account(self, name: str) -> bool:
        """Whether there is an account of that name, ours included."""
        return self.any_account(name) is not None

    def uid_holder(self, number: int) -> str | None:
        """Return the name of the account that has the number, ours included, or `None`."""
        try:
            return pwd.getpwuid(number).pw_name
        except (KeyError, OverflowError):
            return None

    def gid_holder(self, number: int) -> str | None:
        """Return the name of the group that has the number, ours included, or `None`."""
        try:
            return grp.getgrgid(number).gr_name
        except (KeyError, OverflowError):
            return None

    def group_number(self, name: str) -> int | None:
        """Return the number of the group of that name, ours included, or `None`."""
        try:
            return grp.getgrnam(name).gr_gid
        except (KeyError, ValueError):
            return None


class _OwnFile:
    """Names and numbers in a file that we wrote ourselves, read again when it has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: tuple[object, frozenset[tuple[str, int]]] = (None, frozenset())
        self._reading = threading.Lock()

    def read(self) -> frozenset[tuple[str, int]]:
        """Return the pairs; none if there is no such file."""
        if self._path is None:
            return frozenset()
        with self._reading:
            try:
                state = self._path.stat()
                key = (state.st_ino, state.st_size, state.st_mtime_ns)
                if self._known[0] != key:
                    text = self._path.read_text(errors="replace")
                    self._known = (key, frozenset(entries(text).items()))
            except OSError:
                self._known = (None, frozenset())
            return self._known[1]


def agreed(
    wanted: PersonWanted,
    account: Account,
    kept_uid: int | None,
    policy: Literal["refuse", "adopt"],
    ranges: Ranges,
) -> PersonWanted:
    """Return what somebody gets whose name an account of this machine has.

    Args:
        wanted: Them, and what an administrator gave them in Keycloak.
        account: The account.
        kept_uid: The uid that was kept for that name, if one was.
        policy: What to do when neither Keycloak nor what was kept speaks of the account's number.
        ranges: What is reserved.

    Raises:
        NameTakenError: The account is not theirs, as far as anybody said.
        NumberTakenError: Keycloak, or what was kept, says another uid.
    """
    who = f"{shown(wanted.name)}: this machine has an account of that name with uid {account.uid}"
    uid = wanted.uid if wanted.uid is not None else kept_uid
    if uid is None and ranges.is_reserved(account.uid):
        msg = f"{who}, which is reserved (c.Identities.reserved): nobody becomes that account"
        raise NameTakenError(msg)
    if uid is None and policy == "refuse":
        msg = (
            f"{who}, and nothing says that it is theirs. If it is, give them the attribute "
            f"uidNumber {account.uid} in Keycloak or import the account (qhub-identity import "
            "--getent); if everybody here is the account of their name, set "
            "c.Identities.host_accounts = 'adopt'"
        )
        raise NameTakenError(msg)
    if uid is not None and uid != account.uid:
        where = "Keycloak gives them" if wanted.uid is not None else "they were given"
        msg = f"{who}, and {where} uid {uid}: make these the same (c.Identities.host_accounts)"
        raise NumberTakenError(msg)
    return replace(
        wanted,
        uid=account.uid,
        gid=account.gid if wanted.gid is None else wanted.gid,
        home=account.home if wanted.home is None else wanted.home,
    )
