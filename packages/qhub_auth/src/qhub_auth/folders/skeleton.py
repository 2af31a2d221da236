"""The first files of a new home, copied as the person: root writes nothing under names of theirs.

A child process takes the person's numbers and copies. It holds nothing of root's but two
descriptors: the skeleton, which everybody may read, and the new home, which nobody can see yet.
"""

from __future__ import annotations

import os
import signal
import stat
from contextlib import ExitStack

from .opening import FolderError, open_absolute

__all__ = ["copy_skeleton"]

MOST_FILES, MOST_BYTES, DEEPEST = 2000, 64 * 2**20, 16
_CHUNK = 1 << 20


def copy_skeleton(skeleton: str, home: int, uid: int, gid: int) -> None:
    """Copy the skeleton's content into an open home that already belongs to the person.

    Raises:
        FolderError: The skeleton could be changed by others than root, or copying failed; the
            home is not complete then.
        OSError: It cannot be read.
    """
    with ExitStack() as held:
        source = open_absolute(skeleton, held)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            _child(source.fd, home, uid, gid, writing)
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as pipe:
                words = pipe.read(1024).decode("utf-8", "replace")
            _, status = os.waitpid(child, 0)
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if status:
            raise FolderError(f"copying {skeleton} failed: {words or 'the copy was ended'}")


def _child(source: int, home: int, uid: int, gid: int, writing: int) -> None:
    """Copy, and end this process: nothing of it may return into root's part."""
    status = 1
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        # Files are reached as the person, without root's rights. The real number stays root's, or
        # the person's other processes could stop or end this one.
        os.setresuid(0, uid, 0)
        os.umask(0o022)
        _copy(source, home, _Left(), 0)
        status = 0
    except BaseException as error:  # noqa: BLE001 - whatever it is: it is said, and the child ends
        os.write(writing, f"{type(error).__name__}: {error}"[:512].encode("utf-8", "replace"))
    finally:
        os._exit(status)


class _Left:
    """What may still be copied."""

    def __init__(self) -> None:
        self.files, self.size = MOST_FILES, MOST_BYTES

    def take(self, *, files: int = 0, size: int = 0) -> None:
        """Count; a skeleton without end is a mistake of whoever made it."""
        self.files -= files
        self.size -= size
        if self.files < 0 or self.size < 0:
            raise ValueError(f"more than {MOST_FILES} files or {MOST_BYTES} bytes")


def _copy(source: int, target: int, left: _Left, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} folders deep")
    for name in sorted(os.listdir(source)):
        left.take(files=1)
        mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISDIR(mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=source)
            os.mkdir(name, 0o700, dir_fd=target)
            made = os.open(name, flags, dir_fd=target)
            _copy(inner, made, left, depth + 1)
            os.fchmod(made, stat.S_IMODE(mode) & 0o777)
            os.close(inner)
            os.close(made)
        elif stat.S_ISREG(mode):
            _copy_file(name, source, target, left)
        else:
            raise ValueError(f"{name[:64]!a} is neither file, folder nor link")


def _copy_file(name: str, source: int, target: int, left: _Left) -> None:
    closed = os.O_NOFOLLOW | os.O_CLOEXEC
    reading = os.open(name, os.O_RDONLY | closed, dir_fd=source)
    writing = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | closed, mode=0o600, dir_fd=target
    )
    while data := os.read(reading, _CHUNK):
        left.take(size=len(data))
        while data:
            data = data[os.write(writing, data) :]
    os.fchmod(writing, stat.S_IMODE(os.fstat(reading).st_mode) & 0o777)
    os.close(reading)
    os.close(writing)
