"""Who a person is on every target: ``auth_state["qhub"]``, as an authenticator hands it over.

The contract is documented in ``docs/reference/identity.md``. An authenticator that knows nothing of
it is fine: a server then runs as what the backend's own settings say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StrictInt, ValidationError

from qhub_spawner.errors import QHubSpawnerError
from qhub_spawner.fields import Name, Prefix
from qhub_spawner.resources import Model

__all__ = ["Folder", "Identity", "IdentityError", "group_file", "identity_of", "passwd_file"]

KEY = "qhub"
VERSION = 1

SCOPE = "custom:qhub:identity"
"""The hub's scope for tokens that may read who people are."""

NOBODY = "no such user"
"""The answer's message where the hub knows nobody of that name, and no other time."""

Id = Annotated[StrictInt, Field(ge=1, lt=2**31)]
"""A uid or gid of a person: never root's, and within what every file system keeps."""
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.@-]|^\.\.?$")  # nor the names of folders above
_LONGEST_NAME = 32
_ROOT = "root:x:0:0:root:/root:/usr/sbin/nologin"
_NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"


class IdentityError(QHubSpawnerError):
    """What the authenticator handed over is not an identity: no server is started as a guess."""


class Folder(Model):
    """A group, and what its member may do in its shared folder."""

    path: Name
    """The group's full path, e.g. ``/physics/lab``."""
    name: Name
    """The group's name as the system knows it."""
    gid: Id
    """Its number."""
    access: Literal["rw", "ro"]
    """Read and write, or only read."""


class Identity(Model):
    """A person's numbers, home and groups."""

    version: Literal[1]
    """Of this contract."""
    uid: Id
    """The person's number."""
    gid: Id
    """The number of their primary group."""
    gids: tuple[Id, ...] = ()
    """The numbers of all their groups."""
    home: Prefix
    """Their home, an absolute path."""
    groups: tuple[Folder, ...] = ()
    """Their groups with a shared folder."""
    roles: tuple[Name, ...] = ()
    """Their roles."""

    @property
    def supplementary(self) -> tuple[int, ...]:
        """All numbers of groups but the primary one, each once.

        The group of a folder that the person may only read is among them only if `gids` says so.
        """
        writable = (group.gid for group in self.groups if group.access == "rw")
        return tuple(sorted({*self.gids, *writable} - {self.gid}))


def identity_of(auth_state: object) -> Identity | None:
    """Read the identity out of a person's ``auth_state``; ``None`` if there is none in it.

    Raises:
        IdentityError: There is one, and it is not valid; names the field and nothing secret.
    """
    if not isinstance(auth_state, Mapping) or KEY not in auth_state:
        return None
    try:
        return Identity.model_validate(auth_state[KEY])
    except ValidationError as error:
        problems = [
            f"{'.'.join([KEY, *map(str, each['loc'])])}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        ]
        msg = f"auth_state is not an identity of version {VERSION}: {'; '.join(problems[:5])}"
        raise IdentityError(msg) from error


def plain_name(name: str) -> str:
    """Return `name` fit for passwd(5) and group(5), where a colon or newline would mean more."""
    return _NOT_PLAIN.sub("_", name)[:_LONGEST_NAME] or "_"


def passwd_file(user: str, identity: Identity) -> str:
    """Return a passwd(5) with the person, and the system's own that programs ask for."""
    own = f"{plain_name(user)}:x:{identity.uid}:{identity.gid}::{identity.home}:/bin/bash"
    return f"{_ROOT}\n{own}\n{_NOBODY}\n"


def group_file(user: str, identity: Identity) -> str:
    """Return a group(5) with every group of the person, each number and each name once."""
    member = plain_name(user)
    names = {group.gid: plain_name(group.name) for group in identity.groups}
    names.setdefault(identity.gid, member)
    names |= {gid: f"group{gid}" for gid in identity.gids if gid not in names}
    lines, taken = ["root:x:0:"], {"root", "nogroup"}
    for gid, name in sorted(names.items()):
        free = name if name not in taken else f"{name[: _LONGEST_NAME - 11]}_{gid}"
        taken.add(free)
        lines.append(f"{free}:x:{gid}:{member}")
    return "\n".join((*lines, "nogroup:x:65534:", ""))
