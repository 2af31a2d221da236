"""POSIX ACLs as the kernel keeps them: two extended attributes of a folder.

``system.posix_acl_access`` says who may do what; ``system.posix_acl_default`` is what becomes the
ACL of whatever is made in the folder, whose umask is then ignored. Each is a version (2) and
entries of tag, permissions and number, little-endian. Source: acl(5), linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["ACCESS", "DEFAULT", "READ", "WRITE", "Acl", "absent", "read", "shared", "write"]

ACCESS: Literal["system.posix_acl_access"] = "system.posix_acl_access"
DEFAULT: Literal["system.posix_acl_default"] = "system.posix_acl_default"
READ, WRITE, EXECUTE = 4, 2, 1
_ALL = READ | WRITE | EXECUTE
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_VERSION, _UNDEFINED = 2, 0xFFFFFFFF
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")


@dataclass(frozen=True)
class Acl:
    """One ACL. Permissions are `READ`, `WRITE` and `EXECUTE` together.

    Attributes:
        owner: What the owner may.
        group: What the owning group may.
        other: What everybody else may.
        users: Named people, by number.
        groups: Named groups, by number.
        mask: Most that named people and all groups may; `None` if the ACL has none.
    """

    owner: int
    group: int
    other: int
    users: tuple[tuple[int, int], ...] = ()
    groups: tuple[tuple[int, int], ...] = ()
    mask: int | None = None

    @classmethod
    def of_mode(cls, mode: int) -> Acl:
        """Return the ACL that permission bits amount to."""
        return cls(owner=mode >> 6 & 7, group=mode >> 3 & 7, other=mode & 7)

    def with_readers(self, gids: Iterable[int], *, execute: bool) -> Acl:
        """Return it with these named groups and no other, who may read.

        The mask stays what it was (or the owning group's own permissions, if there was none): what
        the owner had closed to the group stays closed to all.
        """
        allowed = READ | (EXECUTE if execute else 0)
        groups = tuple((gid, allowed) for gid in sorted(set(gids)))
        if not groups and not self.users:
            bare = self.group if self.mask is None else self.group & self.mask
            return replace(self, group=bare, groups=(), mask=None)
        return replace(self, groups=groups, mask=self.group if self.mask is None else self.mask)

    def packed(self) -> bytes:
        """Return it as the kernel takes it."""
        entries = [(_USER_OBJ, self.owner, _UNDEFINED)]
        entries += [(_USER, allowed, uid) for uid, allowed in sorted(self.users)]
        entries.append((_GROUP_OBJ, self.group, _UNDEFINED))
        entries += [(_GROUP, allowed, gid) for gid, allowed in sorted(self.groups)]
        if self.mask is not None:
            entries.append((_MASK, self.mask, _UNDEFINED))
        entries.append((_OTHER, self.other, _UNDEFINED))
        return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)

    @classmethod
    def unpacked(cls, data: bytes) -> Acl:
        """Return the ACL of such bytes.

        Raises:
            ValueError: They are no ACL of version 2.
        """
        if len(data) < _HEADER.size or (len(data) - _HEADER.size) % _ENTRY.size:
            raise ValueError(f"{len(data)} bytes are no ACL")
        (version,) = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"an ACL of version {version}; only version {_VERSION} is known")
        single: dict[int, int] = {}
        named: dict[int, list[tuple[int, int]]] = {_USER: [], _GROUP: []}
        for tag, allowed, number in _ENTRY.iter_unpack(data[_HEADER.size :]):
            if tag in named:
                named[tag].append((number, allowed))
            elif tag in single or tag not in (_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER):
                raise ValueError(f"an ACL with an entry of tag {tag:#x} too many")
            else:
                single[tag] = allowed
        if not {_USER_OBJ, _GROUP_OBJ, _OTHER} <= set(single):
            raise ValueError("an ACL without owner, group or other")
        return cls(
            owner=single[_USER_OBJ],
            group=single[_GROUP_OBJ],
            other=single[_OTHER],
            users=tuple(named[_USER]),
            groups=tuple(named[_GROUP]),
            mask=single.get(_MASK),
        )


def shared(readers: Iterable[int]) -> Acl:
    """Return the ACL of a shared folder, and of what is made in it: group all, readers r-x."""
    return Acl(owner=_ALL, group=_ALL, other=0).with_readers(readers, execute=True)


def read(fd: int, which: str) -> Acl | None:
    """Return an ACL of an open file or folder; `None` if it has none, or none are known there.

    Raises:
        OSError: It cannot be read.
        ValueError: It makes no sense.
    """
    try:
        return Acl.unpacked(os.getxattr(fd, which))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def write(fd: int, which: str, acl: Acl | None) -> None:
    """Set an ACL of an open file or folder, or take it away.

    Raises:
        OSError: The file system knows no ACLs (``EOPNOTSUPP``), or it cannot be written.
    """
    if acl is not None:
        os.setxattr(fd, which, acl.packed())
        return
    try:
        os.removexattr(fd, which)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


def absent(fd: int) -> bool:
    """Whether the file system of an open folder knows no ACLs."""
    try:
        os.getxattr(fd, DEFAULT)
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP
    return False
