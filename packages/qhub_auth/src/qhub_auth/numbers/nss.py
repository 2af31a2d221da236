"""passwd, group and shadow files for the name service (NSS), e.g. Debian's `libnss-extrausers`.

What is in them is pure text of checked fields; they are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qhub_auth.errors import IdentityError, shown
from qhub_auth.numbers.numbering import PRIVILEGED_GROUPS

__all__ = ["Files", "NssGroup", "NssPerson", "entries", "files_for", "write"]

NOLOGIN = "/usr/sbin/nologin"
# What useradd(8) allows with --badname, without what means more to some program: a leading dash
# (an option), "+" (NIS), digits alone (a number).
_NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?")
_LONGEST_NAME = 32
_PATH = re.compile(r"/[^:\0-\x20\x7f]*")
_FEW_LINES = 5
_KEPT_PERCENT = 80


@dataclass(frozen=True, slots=True)
class NssPerson:
    """A line of passwd(5).

    Attributes:
        name: Their account.
        uid: Their number.
        gid: Their primary group's.
        home: Their home.
        shell: Their shell.
        own_group: Whether the primary group is theirs alone.
    """

    name: str
    uid: int
    gid: int
    home: str
    shell: str = "/bin/bash"
    own_group: bool = True


@dataclass(frozen=True, slots=True)
class NssGroup:
    """A line of group(5).

    Attributes:
        name: The group's.
        gid: Its number.
        members: Names of its members.
    """

    name: str
    gid: int
    members: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Files:
    """The texts of the files.

    Attributes:
        passwd: See passwd(5).
        group: See group(5).
        shadow: See shadow(5): nobody has a password here.
        problems: Who is left out, and why.
    """

    passwd: str = ""
    group: str = ""
    shadow: str = ""
    problems: tuple[str, ...] = field(default=())


def files_for(
    people: Iterable[NssPerson],
    groups: Iterable[NssGroup],
    machine_groups: Collection[str] = (),
) -> Files:
    """Return the files for people and groups, in the order of their numbers.

    Whoever has a name or a home that a line cannot hold is left out, and so is a second one of the
    same name or number.

    Args:
        people: Everybody; each with a group of their own gets a line for it, too.
        groups: The other groups. Members who are not among `people` may be of the machine itself.
        machine_groups: Names of groups that the machine has by itself, with other numbers. Rights
            go by a group's name (sudo, polkit), so nobody's own group is called like one.
    """
    problems: list[str] = []
    kept = list(_fitting(sorted(people, key=lambda each: each.uid), problems))
    lines: dict[str, NssGroup] = {}
    gids: set[int] = set()
    for group in sorted(groups, key=lambda each: each.gid):
        trouble = _name_trouble(group.name)
        if not trouble and (group.name in lines or group.gid in gids):
            trouble = "another group has this name or number"
        if trouble:
            problems.append(f"the group {shown(group.name)} ({group.gid}) is left out: {trouble}")
            continue
        lines[group.name] = group
        gids.add(group.gid)
    refused = {*machine_groups, *PRIVILEGED_GROUPS}
    for person in kept:
        if person.own_group and person.gid not in gids:
            name = person.name
            while name in lines or name in refused:
                name = f"{name[: _LONGEST_NAME - 11]}-{person.gid}"
            lines[name] = NssGroup(name, person.gid)
            gids.add(person.gid)
    return Files(
        passwd="".join(
            f"{each.name}:x:{each.uid}:{each.gid}::{each.home}:{each.shell}\n" for each in kept
        ),
        group="".join(
            f"{each.name}:x:{each.gid}:{','.join(_members(each))}\n"
            for each in sorted(lines.values(), key=lambda each: each.gid)
        ),
        shadow="".join(f"{each.name}:*:::::::\n" for each in kept),
        problems=tuple(problems),
    )


def _fitting(people: Iterable[NssPerson], problems: list[str]) -> Iterator[NssPerson]:
    names: set[str] = set()
    uids: set[int] = set()
    for each in people:
        trouble = _name_trouble(each.name)
        if not trouble and not all(map(_PATH.fullmatch, (each.home, each.shell))):
            trouble = f"the home {shown(each.home)} or the shell {shown(each.shell)} cannot be one"
        if not trouble and (each.name.lower() in names or each.uid in uids):
            trouble = "another person has this name or number"
        if trouble:
            problems.append(f"{shown(each.name)} ({each.uid}) is left out: {trouble}")
            continue
        names.add(each.name.lower())
        uids.add(each.uid)
        yield each


def _members(group: NssGroup) -> list[str]:
    return sorted(each for each in group.members if not _name_trouble(each))


def _name_trouble(name: str) -> str:
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return f"expected a name of at most {_LONGEST_NAME} letters, digits and _ . @ -"
    return ""


def entries(text: str) -> dict[str, int]:
    """Return names and numbers of the lines of a passwd or group file; other lines are left out."""
    # alice:x:20000:20000::/home/alice:/bin/bash
    fields = (line.split(":") for line in text.split("\n"))
    return {each[0]: int(each[2]) for each in fields if len(each) > 2 and each[2].isdecimal()}  # noqa: PLR2004 - name, x, number


# --- writing


def write(
    folder: Path,
    files: Files,
    *,
    uids: Collection[int],
    gids: Collection[int],
    force: bool = False,
) -> tuple[str, ...]:
    """Write the files into a folder; returns the names of those that have changed.

    Each takes the place of the old one in one step, so that nobody ever reads half of one; whatever
    stays the same is not touched. Who writes at the same time waits.

    Args:
        folder: Where; it is made if its parent is there.
        files: The texts.
        uids: Numbers of people that are ours, those who are gone included.
        gids: The same of groups.
        force: Write even if much would go, or lines that are not ours.

    Raises:
        IdentityError: More than a fifth of the lines would go, or lines that somebody else wrote;
            nothing is changed then.
        OSError: A file cannot be written.
    """
    folder.mkdir(mode=0o755, exist_ok=True)
    with _alone(folder):
        old = {name: _read(folder / name) for name in ("passwd", "group", "shadow")}
        new = {"group": files.group, "passwd": files.passwd, "shadow": files.shadow}
        if not force:
            for name, ours in (("passwd", uids), ("group", gids)):
                _check_foreign(folder / name, old[name] or "", ours)
                _check_shrunk(folder / name, old[name] or "", new[name])
        changed = tuple(name for name in new if new[name] != old[name])
        for name in changed:
            _replace(folder / name, new[name], secret=name == "shadow")
    return changed


def _check_foreign(path: Path, old: str, ours: Collection[int]) -> None:
    others = [f"{name} ({number})" for name, number in entries(old).items() if number not in ours]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""  # noqa: PLR2004 - named below
        msg = (
            f"{path} has lines that we did not write: {', '.join(map(shown, others[:3]))}{more}. "
            "Move them elsewhere, import them (qhub-identity import), or say --force to lose them"
        )
        raise IdentityError(msg)


def _check_shrunk(path: Path, old: str, new: str) -> None:
    before, after = old.count("\n"), new.count("\n")
    if before - after > _FEW_LINES and after < before * _KEPT_PERCENT / 100:
        msg = (
            f"{path} has {before} lines and would have {after}: that many do not go by "
            "themselves. Nothing is changed; if it is right, say --force"
        )
        raise IdentityError(msg)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)  # the new names themselves
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, *, secret: bool) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            if secret and os.geteuid() == 0:
                with contextlib.suppress(KeyError):  # not every system has the group
                    os.fchown(file.fileno(), 0, grp.getgrnam("shadow").gr_gid)
            os.fchmod(file.fileno(), 0o640 if secret else 0o644)
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
