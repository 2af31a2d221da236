"""Who a person is on every target: ``auth_state["qhub"]``, as this package hands it over.

The contract is documented in ``docs/reference/identity.md``; a spawner reads it there. Pure.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

__all__ = ["KEY", "VERSION", "Folder", "Id", "Identity"]

KEY: Literal["qhub"] = "qhub"
VERSION: Literal[1] = 1

Id = Annotated[StrictInt, Field(ge=1, lt=2**31)]
"""A uid or gid of a person: never root's, and within what every file system keeps."""
Name = Annotated[str, Field(min_length=1, max_length=1024)]
Path = Annotated[str, Field(pattern=r"^/[^\x00\n]*$", max_length=1024)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Folder(_Model):
    """A shared folder, and what the person may do in it."""

    path: Path
    """The full path of the group whose folder it is, e.g. ``/physics/lab``."""
    name: Name
    """The name, for the system, of the group by which they have it."""
    gid: Id
    """That group's number."""
    access: Literal["rw", "ro"]
    """Read and write, or only read."""


class Identity(_Model):
    """A person's numbers, home, shared folders and roles."""

    version: Literal[1] = VERSION
    """Of this contract."""
    uid: Id
    """The person's number."""
    gid: Id
    """The number of their primary group."""
    gids: tuple[Id, ...] = ()
    """The numbers of all their groups, in order."""
    home: Path
    """Their home, an absolute path."""
    groups: tuple[Folder, ...] = ()
    """Their shared folders, by path."""
    roles: tuple[Name, ...] = ()
    """Their client roles, in order."""
