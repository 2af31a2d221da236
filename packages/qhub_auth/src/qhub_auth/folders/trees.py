"""What is in a shared folder already, brought in line with who may read it.

A default ACL works for what is made from then on. Files that were there before a group of readers
was, know nothing of it. This goes through the folder by descriptors, touches only what belongs to
the folder's group, and only adds and takes away readers: what somebody closed to the group stays
closed to the readers. Folders of other groups, which are root's, are left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from . import acl
from .ground import Outcome, check_owner, on
from .opening import FolderError
from .settings import Settings
from .verbs import Tree

__all__ = ["tree"]

DEEPEST = 200
"""Folders deep: one descriptor is held for each."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def tree(settings: Settings, verb: Tree, *, only_look: bool = False) -> Outcome:
    """Give all that is in a shared folder its readers, and take away those that are none any more.

    Raises:
        FolderError: A number is out of range, or the folder is not this group's, or knows no ACLs.
        OSError: It cannot be gone through.
    """
    settings.check_gid(verb.gid)
    for gid in verb.readers:
        settings.check_gid(gid)
    # Not locked: it may take hours, and moves nothing that others could meet half-moved
    with on(settings, "shared", only_look=only_look, lock=False) as ground:
        top = ground.walked(verb.path.split("/")[:-1])
        there = ground.below(top, verb.path.split("/")[-1])
        if there is None:
            raise FolderError(f"there is no {top.path}/{verb.path.split('/')[-1]}")
        check_owner(there)
        if there.gid != verb.gid:
            raise FolderError(f"{there.path} belongs to group {there.gid}, not to {verb.gid}")
        if acl.absent(there.fd):
            raise FolderError(f"{there.path}: this file system has no POSIX ACLs")
        ground.about_to(f"go through {there.path}")
        walk = _Walk(verb.gid, verb.readers, os.fstat(there.fd).st_dev)
        walk.through(there.fd, 0)
        words = f"{there.path}: {walk.changed} of {walk.seen} files and folders put right"
        if walk.left:
            words += f", {walk.left} passed over"
        more: dict[str, object] = {"folder": there.path, "seen": walk.seen, "changed": walk.changed}
        return Outcome("done" if walk.changed else "unchanged", words, more)


class _Walk:
    """One way through a folder."""

    def __init__(self, gid: int, readers: tuple[int, ...], device: int) -> None:
        self.gid, self.readers, self.device = gid, readers, device
        self.seen = self.changed = self.left = 0

    def through(self, folder: int, depth: int) -> None:
        """Put right what is in an open folder."""
        for name, is_folder in _entries(folder):
            if is_folder is None:
                continue
            try:
                fd = os.open(name, _FOLDER if is_folder else _FILE, dir_fd=folder)
                try:
                    self._one(fd, depth)
                finally:
                    os.close(fd)
            except TimeoutError:
                raise
            except (OSError, ValueError):
                # it went away, became a link, is leased or immutable: none of it stops the rest
                self.left += 1

    def _one(self, fd: int, depth: int) -> None:
        found = os.fstat(fd)
        is_folder = stat.S_ISDIR(found.st_mode)
        if (
            found.st_gid != self.gid
            or found.st_dev != self.device
            or found.st_uid == 0
            # A file with a second name may be somewhere else, too, where others are to read it
            or not (is_folder or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1))
            or depth >= DEEPEST
        ):
            self.left += 1
            return
        self.seen += 1
        self.changed += self._put_right(fd, stat.S_IMODE(found.st_mode), is_folder=is_folder)
        if is_folder:
            self.through(fd, depth + 1)

    def _put_right(self, fd: int, mode: int, *, is_folder: bool) -> bool:
        had = acl.read(fd, acl.ACCESS)
        now = had or acl.Acl.of_mode(mode)
        execute = is_folder or bool(now.group & acl.EXECUTE)
        wanted = now.with_readers(self.readers, execute=execute)
        plain = wanted.mask is None
        changed = wanted != now
        if changed:
            acl.write(fd, acl.ACCESS, None if plain else wanted)
            if plain:
                # without an ACL the bits decide again; the mask had been in their place
                bits = wanted.owner << 6 | wanted.group << 3 | wanted.other
                os.fchmod(fd, (mode & ~0o777) | bits)
        if is_folder:
            default = acl.read(fd, acl.DEFAULT)
            inherited = (default or acl.shared(())).with_readers(self.readers, execute=True)
            if default != inherited:
                acl.write(fd, acl.DEFAULT, inherited)
                changed = True
        return changed


def _entries(folder: int) -> Iterator[tuple[str, bool | None]]:
    """Give names in a folder, and whether each is a folder, a file, or neither (`None`)."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            plain = is_folder or entry.is_file(follow_symlinks=False)
            yield entry.name, is_folder if plain else None
