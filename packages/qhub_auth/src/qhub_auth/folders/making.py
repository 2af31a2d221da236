"""Homes and shared folders: made as they should be, put right where they are root's own.

A home that is there is the person's: nothing about it is ever changed, and one that belongs to
somebody else is refused. A shared folder belongs to root and its group; one that does not is
refused, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from . import acl, quotas
from .ground import Ground, Outcome, check_owner, on
from .opening import FolderError, Opened
from .settings import Settings
from .skeleton import copy_skeleton
from .verbs import Home, Parent, Share

__all__ = ["home", "parent", "share"]

_HOME, _SHARED, _STICKY, _PASSED, _LISTED, _CLOSED = 0o700, 0o2770, 0o1000, 0o711, 0o755, 0o711
_OWN_BITS, _OTHERS = 0o7777, 0o077
NO_ACL = (
    "this file system has no POSIX ACLs: what people make in it is writable for the group only "
    "under umask 002, which servers of qhub on Kubernetes have"
)


def home(settings: Settings, verb: Home, *, only_look: bool = False) -> Outcome:
    """Make a person's home, with its first files, if there is none.

    Raises:
        FolderError: A number is out of range, or what is there is not the person's home.
        OSError: It cannot be made.
    """
    settings.check_uid(verb.uid)
    settings.check_home_gid(verb.gid)
    with on(settings, "homes", only_look=only_look) as ground:
        path = f"{ground.root.path}/{verb.name}"
        there = ground.looked_at(ground.root, verb.name)
        if there is not None:
            if there.uid != verb.uid:
                raise FolderError(
                    f"{path} belongs to uid {there.uid}, not to {verb.uid} of {verb.name}; "
                    "it was left as it is"
                )
            open_to = "" if not there.mode & _OTHERS else f"; its mode is {there.mode:04o}"
            group = "" if there.gid == verb.gid else f"; its group is {there.gid}, not {verb.gid}"
            return Outcome("unchanged", f"{path} is there{open_to}{group}", {"folder": path})
        ground.about_to(f"make {path}")
        staged, made = ground.staged()
        os.fchown(made.fd, verb.uid, verb.gid)
        os.fchmod(made.fd, _HOME)
        limited = _limited(ground, made, verb.uid)
        if ground.place.skeleton:
            copy_skeleton(ground.place.skeleton, made.fd, verb.uid, verb.gid)
        ground.put_in_place(staged, made, ground.root, verb.name)
        return Outcome("done", f"made {path}{limited}", {"folder": path})


def share(settings: Settings, verb: Share, *, only_look: bool = False) -> Outcome:
    """Make a group's shared folder, or put its mode and ACLs right.

    Raises:
        FolderError: A number is out of range; a folder above is missing or not root's; what is
            there belongs to another group or person; or there are readers and no ACLs.
        OSError: It cannot be made.
    """
    settings.check_gid(verb.gid)
    for gid in verb.readers:
        settings.check_gid(gid)
    parts = verb.path.split("/")
    mode = _SHARED | (_STICKY if verb.sticky else 0)
    with on(settings, "shared", only_look=only_look) as ground:
        return _shared(ground, parts, verb.gid, mode, verb.readers)


def parent(settings: Settings, verb: Parent, *, only_look: bool = False) -> Outcome:
    """Make the folder of a group that has no share: a way through to those below.

    One that was a shared folder is closed: it keeps what is in it and its group, whose members can
    go through it as everybody can, and is opened again when the group has a share again.

    Raises:
        FolderError: A folder above is missing or not root's, or this one is not root's.
        OSError: It cannot be made.
    """
    *above, name = verb.path.split("/")
    with on(settings, "shared", only_look=only_look) as ground:
        outer = ground.walked(above)
        path = f"{outer.path}/{name}"
        mode = _PASSED if settings.hide_names else _LISTED
        there = ground.below(outer, name)
        if there is None:
            ground.about_to(f"make {path}")
            staged, made = ground.staged()
            os.fchmod(made.fd, mode)
            ground.put_in_place(staged, made, outer, name)
            return Outcome("done", f"made {path}", {"folder": path})
        check_owner(there)
        if there.gid == 0:
            if there.mode & _OWN_BITS == mode:
                return Outcome("unchanged", f"{path} is there", {"folder": path})
            ground.about_to(f"give {path} mode {mode:04o}")
            os.fchmod(there.fd, mode)
            return Outcome("done", f"gave {path} mode {mode:04o}", {"folder": path})
        plain = acl.read(there.fd, acl.ACCESS) is None and acl.read(there.fd, acl.DEFAULT) is None
        if plain and there.mode & _OWN_BITS == _CLOSED:
            return Outcome("unchanged", f"{path} is closed", {"folder": path})
        ground.about_to(f"close {path}")
        acl.write(there.fd, acl.DEFAULT, None)
        acl.write(there.fd, acl.ACCESS, None)
        os.fchmod(there.fd, _CLOSED)
        words = f"closed {path}, the folder of group {there.gid}, with what is in it"
        return Outcome("done", words, {"folder": path})


def _shared(
    ground: Ground, parts: list[str], gid: int, mode: int, readers: Sequence[int]
) -> Outcome:
    outer = ground.walked(parts[:-1])
    path = f"{outer.path}/{parts[-1]}"
    there = ground.below(outer, parts[-1])
    if there is None:
        ground.about_to(f"make {path}")
        staged, made = ground.staged()
        note = _open_to(made, gid, mode, readers, fresh=True)
        limited = _limited(ground, made, quotas.GROUPS + gid)
        ground.put_in_place(staged, made, outer, parts[-1])
        return Outcome("done", f"made {path}{note}{limited}", {"folder": path})
    check_owner(there)
    if there.gid not in (gid, 0):
        raise FolderError(
            f"{path} belongs to group {there.gid}, not to {gid}; it was left as it is: archive it, "
            "or give it and what is in it to the group by hand"
        )
    # What made others' folders safe in it stays, whoever may still have some
    mode |= there.mode & _STICKY
    if _is_so(there, gid, mode, readers):
        return Outcome("unchanged", f"{path} is as it should be", {"folder": path})
    had = acl.read(there.fd, acl.DEFAULT)
    ground.about_to(f"give {path} to group {gid} with mode {mode:04o} and its ACLs")
    note = _open_to(there, gid, mode, readers, fresh=there.gid != gid)
    more: dict[str, object] = {"folder": path}
    if dict(had.groups if had else ()) != dict(acl.shared(readers).groups):
        # what is in it was made for other readers: the caller may ask for `tree`
        more["tree"] = True
    return Outcome("done", f"put {path} right{note}", more)


def _is_so(there: Opened, gid: int, mode: int, readers: Sequence[int]) -> bool:
    if there.gid != gid or there.mode & _OWN_BITS != mode:
        return False
    wanted = acl.shared(readers)
    if acl.absent(there.fd):
        return not readers
    return acl.read(there.fd, acl.DEFAULT) == wanted and acl.read(there.fd, acl.ACCESS) == (
        wanted if readers else None
    )


def _open_to(there: Opened, gid: int, mode: int, readers: Sequence[int], *, fresh: bool) -> str:
    """Give a folder its group, ACLs and mode; returns what is to be added to the answer."""
    if acl.absent(there.fd):
        if readers:
            raise FolderError(
                f"{there.path} cannot have readers: this file system has no POSIX ACLs"
            )
        if fresh:
            os.fchown(there.fd, 0, gid)
        os.fchmod(there.fd, mode)
        return f"; {NO_ACL}"
    if fresh:
        # closed until all of it is right
        os.fchmod(there.fd, 0o700)
        os.fchown(there.fd, 0, gid)
    wanted = acl.shared(readers)
    acl.write(there.fd, acl.DEFAULT, wanted)
    acl.write(there.fd, acl.ACCESS, wanted if readers else None)
    os.fchmod(there.fd, mode)
    if not _same(there.fd, gid, mode):
        raise OSError(errno.EIO, "its group or mode did not stay as they were set")
    return ""


def _same(fd: int, gid: int, mode: int) -> bool:
    found = os.fstat(fd)
    return found.st_gid == gid and found.st_mode & _OWN_BITS == mode


def _limited(ground: Ground, made: Opened, project: int) -> str:
    if not ground.place.quota_bytes:
        return ""
    reason = quotas.limit(made.fd, project, ground.place.quota_bytes)
    return f"; no quota: {reason}" if reason else f"; quota {ground.place.quota_bytes} bytes"
