"""Project quotas: how much a folder may hold, on XFS and ext4 where they are switched on.

Each folder is a project of its own, which everything made in it belongs to: homes by the person's
uid, shared folders by the group's gid plus 2^31. Where a file system has no such quotas that is
said, and is no error. Source: quotactl(2), quotactl_fd(2) (Linux 5.14), ioctl_fsgetxattr(2) (as in
linux/fs.h), linux/quota.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

__all__ = ["GROUPS", "join_project", "limit", "limit_of", "project_of", "rounded", "state"]

GROUPS = 2**31
"""What is added to a gid: people and groups may have the same numbers."""
_GET, _SET = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
# struct fsxattr: xflags, extsize, nextents, projid, cowextsize, and 8 bytes of padding
_ATTRIBUTES = struct.Struct("=5I8x")
# struct if_dqblk: limits of blocks (hard, soft), space; the same of inodes; two times; valid
_BLOCK = struct.Struct("=8QI4x")
_LIMITS = 1  # QIF_BLIMITS
_UNIT = 1024  # QIF_DQBLKSIZE: bytes in which limits of space are counted
_LARGEST_BLOCK = 64 * 1024  # of both file systems, which keep whole blocks only
_PROJECT = 2  # PRJQUOTA
_GETQUOTA, _SETQUOTA = 0x800007, 0x800008
_QUOTACTL_FD = 443  # the same on every architecture since Linux 5.14
_NONE = (errno.ESRCH, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.ENOTBLK)


def state(fd: int) -> str:
    """Say whether project quotas are on where the open folder is: "" if so, else why not."""
    try:
        _attributes(fd)
        _quotactl(fd, _GETQUOTA, 0, _BLOCK.pack(*[0] * 9))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return ""  # on, and nothing is counted for the project 0
        if error.errno in _NONE:
            return "this file system has no project quotas, or they are off (mount option prjquota)"
        return f"project quotas cannot be asked for: {error.strerror}"
    return ""


def project_of(fd: int) -> tuple[int, bool]:
    """Return the project of an open folder, and whether what is made in it belongs there, too.

    ``(0, False)`` where there are no projects.
    """
    try:
        flags, _, _, project, _ = _attributes(fd)
    except OSError:
        return 0, False
    return project, bool(flags & _INHERIT)


def join_project(fd: int, project: int, *, inherit: bool = True) -> None:
    """Put an open folder, and with `inherit` what will be made in it, into a project.

    What is in the folder already stays where it is.

    Raises:
        OSError: The file system cannot.
    """
    flags, extent, _, _, cow = _attributes(fd)
    flags = flags | _INHERIT if inherit else flags & ~_INHERIT
    fcntl.ioctl(fd, _SET, _ATTRIBUTES.pack(flags, extent, 0, project, cow))


def limit(fd: int, project: int, quota_bytes: int) -> str:
    """Limit what an open folder may hold; returns "" or, in words, why that is not to be had.

    Args:
        fd: The folder.
        project: Its project, as this module's text has it.
        quota_bytes: As `rounded` makes of it; 0 for no limit.
    """
    reason = state(fd)
    if reason:
        return reason
    units = rounded(quota_bytes) // _UNIT
    try:
        if project_of(fd) != (project, True):
            join_project(fd, project)
        _quotactl(fd, _SETQUOTA, project, _BLOCK.pack(units, units, *[0] * 6, _LIMITS))
    except OSError as error:
        return f"its quota could not be set: {error.strerror}"
    return ""


def rounded(quota_bytes: int) -> int:
    """Return the limit that is really set: up to the next 64 KiB, which any block divides."""
    return -(-quota_bytes // _LARGEST_BLOCK) * _LARGEST_BLOCK


def limit_of(fd: int, project: int) -> tuple[int, int] | None:
    """Return limit and use of a project, in bytes; `None` where there are no quotas."""
    try:
        answer = _quotactl(fd, _GETQUOTA, project, _BLOCK.pack(*[0] * 9))
    except OSError:
        return None
    fields = _BLOCK.unpack(answer)
    return fields[0] * _UNIT, fields[2]


def _attributes(fd: int) -> tuple[int, ...]:
    answer: bytes = fcntl.ioctl(fd, _GET, bytes(_ATTRIBUTES.size))
    return _ATTRIBUTES.unpack(answer)


def _quotactl(fd: int, command: int, project: int, data: bytes) -> bytes:
    """Call quotactl_fd(2), or with an older kernel quotactl(2) on the mount's device."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(data, len(data))
    request = ctypes.c_uint((command << 8) | _PROJECT)
    number = ctypes.c_uint(project)
    done = libc.syscall(
        *(ctypes.c_long(_QUOTACTL_FD), ctypes.c_uint(fd), request, number, ctypes.byref(buffer))
    )
    if done and ctypes.get_errno() == errno.ENOSYS:
        device = ctypes.c_char_p(_device(fd).encode())
        done = libc.quotactl(request, device, number, ctypes.byref(buffer))
    if done:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return buffer.raw


def _device(fd: int) -> str:
    found = os.fstat(fd).st_dev
    wanted = f"{os.major(found)}:{os.minor(found)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[1]
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
