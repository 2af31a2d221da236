"""Folders by descriptors: part by part, no link followed, each part looked at before it is used.

What root does under a name that somebody else may give to another thing, it does to that other
thing. So no path is ever used twice here: a name is opened once, below a descriptor, with
``O_NOFOLLOW``, and what was opened is looked at and worked on by its descriptor. Names that are
used to go further lie in folders where nobody but root may rename them. Source: openat(2),
path_resolution(7), credentials(7).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass

__all__ = [
    "FolderError",
    "Opened",
    "below",
    "kind_of",
    "looked_at",
    "open_absolute",
    "open_absolute_file",
]

_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = _FLAGS | os.O_RDONLY
OTHERS_WRITE = 0o022
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


class FolderError(Exception):
    """Refused: something is not as it must be. Nothing was changed."""


@dataclass(frozen=True)
class Opened:
    """A folder that is open, and what it was when it was opened.

    Attributes:
        fd: The descriptor, closed by the stack that it was opened with.
        path: How to call it in a message; never opened again.
        uid: Its owner.
        gid: Its group.
        mode: Its permissions, with set-group-id and sticky bit.
        mount: Which mount it is on.
    """

    fd: int
    path: str
    uid: int
    gid: int
    mode: int
    mount: str

    @property
    def others_rename(self) -> bool:
        """Whether somebody else than root may rename what root has made in it."""
        return self.uid != 0 or (bool(self.mode & OTHERS_WRITE) and not self.mode & stat.S_ISVTX)


def _opened(name: str, parent: Opened | None, flags: int, held: ExitStack) -> Opened:
    fd = os.open(name, flags, dir_fd=None if parent is None else parent.fd)
    held.callback(os.close, fd)
    found = os.fstat(fd)
    path = "/" if parent is None else os.path.join(parent.path, name)  # noqa: PTH118 - a message
    return Opened(fd, path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), _mount(fd))


def _mount(fd: int) -> str:
    """Return the mount's number: unlike a device's, it differs for a bind mount, too (proc(5))."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:  # noqa: PTH123
        for line in file:
            # a line such as: mnt_id 29, with a colon
            if line.startswith("mnt_id:"):
                return line.split()[1]
    raise FolderError("/proc does not tell mounts apart here")


def below(parent: Opened, name: str, held: ExitStack, *, mounts: bool) -> Opened | None:
    """Open the folder `name` in `parent`; `None` if there is nothing of that name.

    Args:
        parent: Where.
        name: One part of a path.
        held: Closes it.
        mounts: Whether it may be a mount point.

    Raises:
        FolderError: It is no folder, or a mount point.
        OSError: It cannot be opened.
    """
    return _below(parent, name, _READ, held, mounts=mounts)


def looked_at(parent: Opened, name: str, held: ExitStack, *, mounts: bool) -> Opened | None:
    """As :func:`below`, only to be looked at: nothing in it can be reached (``O_PATH``)."""
    return _below(parent, name, _FLAGS | os.O_PATH, held, mounts=mounts)


def _below(
    parent: Opened, name: str, flags: int, held: ExitStack, *, mounts: bool
) -> Opened | None:
    path = os.path.join(parent.path, name)  # noqa: PTH118 - a message
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise FolderError(f"{name[:64]!a} is not one part of a path")
    try:
        found = _opened(name, parent, flags, held)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise FolderError(f"{path} is {kind_of(name, parent)}, not a folder") from error
        raise
    if found.mount != parent.mount and not mounts:
        raise FolderError(
            f"{path} is a mount point; that is fine only where the settings say mounts: true"
        )
    return found


def kind_of(name: str, parent: Opened) -> str:
    """Say in words what `name` is, for a message."""
    try:
        mode = os.stat(name, dir_fd=parent.fd, follow_symlinks=False).st_mode
    except OSError:
        return "something that was there just now"
    return next((words for test, words in _KINDS if test(mode)), "a folder")


def open_absolute(path: str, held: ExitStack, *, strict: bool = True) -> Opened:
    """Open a folder that only root can have put there.

    Args:
        path: Absolute, without links on the way.
        held: Closes all of it.
        strict: Whether the folder itself may be written by root alone; else a sticky one will do.

    Raises:
        FolderError: It is not there; or it, or a folder above it, could be changed or exchanged by
            somebody else.
        OSError: It cannot be opened.
    """
    found = _opened("/", None, _READ, held)
    for name in path.strip("/").split("/"):
        _check_way(found)
        further = _below(found, name, _READ, held, mounts=True)
        if further is None:
            raise FolderError(f"{os.path.join(found.path, name)} is missing")  # noqa: PTH118
        found = further
    _check_way(found)
    if strict and found.mode & OTHERS_WRITE:
        raise FolderError(
            f"{found.path} has mode {found.mode:04o}; nobody but root may write in it (chmod go-w)"
        )
    return found


def _check_way(found: Opened) -> None:
    if found.uid != 0:
        raise FolderError(f"{found.path} belongs to uid {found.uid}; it has to be root's")
    if found.others_rename:
        raise FolderError(
            f"{found.path} has mode {found.mode:04o}: others than root may rename what is in it"
        )


def open_absolute_file(path: str) -> int:
    """Open a file, to be read, that only root can have written; returns the descriptor.

    Raises:
        FolderError: It is not there, is no plain file, or it, or a folder above it, could be
            changed by somebody else.
        OSError: It cannot be opened.
    """
    folder, _, name = path.rpartition("/")
    with ExitStack() as held:
        parent = open_absolute(folder, held, strict=False)
        try:
            fd = os.open(
                name,
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY,
                dir_fd=parent.fd,
            )
        except FileNotFoundError as error:
            raise FolderError(f"{path} is missing") from error
        except OSError as error:
            raise FolderError(f"{path} is {kind_of(name, parent)}, not a file") from error
        found = os.fstat(fd)
        wrong = ""
        if not stat.S_ISREG(found.st_mode):
            wrong = "is not a plain file"
        elif found.st_uid != 0:
            wrong = f"belongs to uid {found.st_uid}; it has to be root's"
        elif found.st_mode & OTHERS_WRITE:
            wrong = f"has mode {stat.S_IMODE(found.st_mode):04o}; nobody but root may write it"
        if wrong:
            os.close(fd)
            raise FolderError(f"{path} {wrong}")
    return fd
