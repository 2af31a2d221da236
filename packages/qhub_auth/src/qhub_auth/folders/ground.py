"""A root of homes or of shared folders, and the part of it that only this command uses.

``ROOT/.qhub`` is root's, ``0700``: ``lock``, so that two of these commands work one after the
other; ``new``, where a folder gets its owner, ACL and first files before anybody can see it, and
from where it is moved to its place in one step; ``archive``.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from . import quotas
from .opening import FolderError, Opened, below, looked_at, open_absolute
from .settings import HIDDEN, Place, Settings

__all__ = ["Ground", "Outcome", "WouldError", "check_owner", "check_way", "on"]

NEW, ARCHIVE, LOCK = "new", "archive", "lock"


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        result: ``done``, or ``unchanged``: it was so already.
        words: For people.
        more: Further fields of the answer.
    """

    result: Literal["done", "unchanged"]
    words: str
    more: dict[str, object] = field(default_factory=dict)


class WouldError(Exception):
    """Only asked: this is what would be done."""


@dataclass(frozen=True)
class Ground:
    """A root that is open, and locked unless one only looks.

    Attributes:
        root: The root itself.
        place: Its settings.
        settings: All settings.
        held: Closes what was opened.
        only_look: Whether nothing may be changed.
    """

    root: Opened
    place: Place
    settings: Settings
    held: ExitStack
    only_look: bool

    def below(self, parent: Opened, name: str) -> Opened | None:
        """Open a folder in `parent`; see `opening.below`."""
        return below(parent, name, self.held, mounts=self.settings.mounts)

    def looked_at(self, parent: Opened, name: str) -> Opened | None:
        """Look at a folder in `parent`; see `opening.looked_at`."""
        return looked_at(parent, name, self.held, mounts=self.settings.mounts)

    def about_to(self, words: str) -> None:
        """Go on, or stop here if one only looks.

        Raises:
            WouldError: One only looks.
        """
        if self.only_look:
            raise WouldError(words)

    def walked(self, parts: list[str]) -> Opened:
        """Open the folder of a group, of which every part must be root's.

        Raises:
            FolderError: A part is missing, is not root's, or could be exchanged by somebody else.
        """
        found = self.root
        for name in parts:
            further = self.below(found, name)
            if further is None:
                path = os.path.join(found.path, name)  # noqa: PTH118 - a message
                if self.only_look:
                    raise WouldError(f"make what is in {path}, once that is there")
                raise FolderError(f"{path} is missing: ask for the folders above first")
            if self.only_look and further.uid == 0 and further.others_rename:
                raise WouldError(f"make what is in {further.path}, once that is right")
            check_way(further)
            found = further
        return found

    def staged(self) -> tuple[str, Opened]:
        """Make an empty folder out of everybody's sight; returns its name in there, and itself."""
        new = self._hidden(NEW)
        name = secrets.token_hex(16)
        os.mkdir(name, 0o700, dir_fd=new.fd)
        made = below(new, name, self.held, mounts=False)
        if made is None or made.uid != 0:
            raise FolderError(f"{new.path} is not root's alone")
        return name, made

    def put_in_place(self, staged: str, made: Opened, parent: Opened, name: str) -> None:
        """Move a staged folder to where it belongs, in one step.

        Nothing there is replaced: rename(2) of a folder fails unless there is nothing, or an empty
        folder.

        Raises:
            OSError: There is something.
        """
        _move(self._hidden(NEW), staged, made, parent, name)

    def archive(self, parent: Opened, name: str, kind: str) -> str:
        """Move what `name` is in `parent` into the archive; returns where it is then."""
        archive = self._archive()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        kept = f"{stamp}-{kind}-{secrets.token_hex(3)}-{name}"[:250]
        os.rename(name, kept, src_dir_fd=parent.fd, dst_dir_fd=archive.fd)
        return os.path.join(archive.path, kept)  # noqa: PTH118 - a message

    def move(self, source: Opened, name: str, moved: Opened, target: Opened, to: str) -> None:
        """Move a folder from one place of this root to another.

        Raises:
            OSError: There is something already.
        """
        _move(source, name, moved, target, to)

    def prepare(self) -> None:
        """Make the hidden part where it is missing, lock it, and set aside what was left half-made.

        Raises:
            FolderError: It is not root's alone.
            OSError: It cannot be made.
        """
        hidden = _made(self.root, HIDDEN, self.held)
        for name in (NEW, ARCHIVE):
            _made(hidden, name, self.held)
        lock = os.open(
            LOCK,
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
            0o600,
            dir_fd=hidden.fd,
        )
        self.held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = self._hidden(NEW)
        for name in os.listdir(new.fd):  # noqa: PTH208 - a descriptor has no path
            # nobody else is at work: whoever made it was ended on the way, or met an error
            try:
                os.rmdir(name, dir_fd=new.fd)
            except OSError:
                self.archive(new, name, "unfinished")

    def _hidden(self, name: str) -> Opened:
        hidden = below(self.root, HIDDEN, self.held, mounts=False)
        found = None if hidden is None else below(hidden, name, self.held, mounts=False)
        if found is None:
            raise FolderError(f"{self.root.path}/{HIDDEN}/{name} is missing")
        return found

    def _archive(self) -> Opened:
        if not self.place.archive:
            return self._hidden(ARCHIVE)
        found = open_absolute(self.place.archive, self.held)
        if found.mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise FolderError(f"{found.path} has mode {found.mode:04o}; it has to be 0700")
        return found


@contextmanager
def on(
    settings: Settings, which: Literal["homes", "shared"], *, only_look: bool, lock: bool = True
) -> Iterator[Ground]:
    """Open a root, and lock it unless one only looks, or asks for no lock.

    Raises:
        FolderError: The settings name none, or it is not root's alone.
        OSError: It cannot be opened.
    """
    place = settings.homes if which == "homes" else settings.shared
    if place is None:
        raise FolderError(f"{settings.source} has no {which}")
    with ExitStack() as held:
        ground = Ground(open_absolute(place.root, held), place, settings, held, only_look)
        if lock and not only_look:
            ground.prepare()
        yield ground


def check_owner(found: Opened) -> None:
    """Refuse a folder, in the place of a group's, that is not root's.

    Raises:
        FolderError: It is not.
    """
    if found.uid != 0:
        raise FolderError(
            f"{found.path} belongs to uid {found.uid}, not to root: somebody made it before; "
            "move it away"
        )


def check_way(found: Opened) -> None:
    """Refuse to go further through a folder that others can do with as they like.

    Raises:
        FolderError: It is not root's, or others may rename what root makes in it.
    """
    check_owner(found)
    if found.others_rename:
        raise FolderError(
            f"{found.path} has mode {found.mode:04o}: its members could rename the folders of "
            "other groups in it; ask for it as sticky first"
        )


def _made(parent: Opened, name: str, held: ExitStack) -> Opened:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent.fd)
    found = below(parent, name, held, mounts=False)
    if found is None or found.uid != 0 or found.mode & (stat.S_IRWXG | stat.S_IRWXO):
        path = os.path.join(parent.path, name)  # noqa: PTH118 - a message
        raise FolderError(f"{path} has to be root's alone (chown root:root, chmod 0700)")
    return found


def _move(source: Opened, name: str, moved: Opened, target: Opened, to: str) -> None:
    """Rename a folder; one whose new parent hands its quota on has to be in that project first."""
    own, inherit = quotas.project_of(moved.fd)
    project, inherited = quotas.project_of(target.fd)
    other = inherited and project != own
    if other:
        quotas.join_project(moved.fd, project, inherit=inherit)
    try:
        os.rename(name, to, src_dir_fd=source.fd, dst_dir_fd=target.fd)
    finally:
        if other and own:
            quotas.join_project(moved.fd, own, inherit=inherit)
