"""What the sync service and the hub say to each other, validated where it is read. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints

from qhub_auth.directory import PersonFacts

__all__ = [
    "LARGEST_BATCH",
    "LARGEST_BODY_BYTES",
    "LARGEST_PAGE",
    "PATH",
    "SCOPE",
    "Batch",
    "Entry",
    "Facts",
    "Listed",
    "Page",
    "Result",
    "Results",
]

SCOPE = "custom:qhub-auth:sync"
"""The one scope that the service needs, and that opens nothing else."""
PATH = "qhub/sync"
"""Below the hub's API."""
LARGEST_BATCH = 200
LARGEST_PAGE = 1000
LARGEST_BODY_BYTES = 4 * 1024 * 1024

_Text = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00]*$", strict=True)]
_Ident = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00\r\n]+$", strict=True)
]
_GroupPath = Annotated[
    str, StringConstraints(min_length=2, max_length=4096, pattern=r"^/[^\x00]+$", strict=True)
]
_Number = Annotated[StrictInt, Field(ge=0, lt=2**32)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(_Model):
    """:class:`PersonFacts`, to be sent."""

    sub: _Ident
    name: _Ident
    enabled: StrictBool
    groups: Annotated[tuple[_GroupPath, ...], Field(max_length=5000)] = ()
    roles: Annotated[tuple[_Ident, ...], Field(max_length=5000)] = ()
    uid: _Number | None = None
    gid: _Number | None = None
    home: _Text | None = None
    email: _Text = ""
    full_name: _Text = ""

    @classmethod
    def of(cls, facts: PersonFacts) -> Facts:
        """Return facts as they are sent."""
        return cls(
            sub=facts.sub,
            name=facts.name,
            enabled=facts.enabled,
            groups=tuple(sorted(facts.groups)),
            roles=tuple(sorted(facts.roles)),
            uid=facts.uid,
            gid=facts.gid,
            home=facts.home,
            email=facts.email,
            full_name=facts.full_name,
        )

    def facts(self) -> PersonFacts:
        """Return them as they were."""
        return PersonFacts(
            sub=self.sub,
            name=self.name,
            enabled=self.enabled,
            groups=frozenset(self.groups),
            roles=frozenset(self.roles),
            uid=self.uid,
            gid=self.gid,
            home=self.home,
            email=self.email,
            full_name=self.full_name,
        )


class Entry(_Model):
    """One person."""

    sub: _Ident
    name: _Text = ""
    """At the hub, as far as the service knows; for who is gone and so has no facts."""
    facts: Facts | None = None
    """`None`: Keycloak has nobody of that sub any more."""
    digest: Annotated[str, StringConstraints(max_length=64, strict=True)] = ""
    """To be remembered for this person, and given back with the list."""
    stop_servers: StrictBool = True
    """Whether servers are stopped too if the person may not go on."""


class Batch(_Model):
    """What is sent at once."""

    directory: Annotated[str, StringConstraints(max_length=64, strict=True)] = ""
    """Stands for groups and roles as the service knows them; the hub reads them anew for another
    one."""
    dry_run: StrictBool = False
    """Only say what would be."""
    people: Annotated[tuple[Entry, ...], Field(max_length=LARGEST_BATCH)]


class Result(_Model):
    """What became of one person."""

    sub: str
    name: str = ""
    state: Literal["applied", "unchanged", "ended", "unknown", "failed"]
    """`ended`: they may not go on; `unknown`: the hub has no such user."""
    why: str = ""
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    """All their groups at the hub now."""
    roles: tuple[str, ...] = ()
    """All their roles at the hub now."""
    admin: bool = False
    servers: int = 0
    """Servers that still run, of somebody who may not go on."""


class Results(_Model):
    """The hub's answer to a batch."""

    instance: str
    """Another one after each start of the hub."""
    people: tuple[Result, ...]


class Listed(_Model):
    """A user in the hub's list."""

    name: str
    sub: str | None
    admin: bool
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    digest: str


class Page(_Model):
    """A part of the hub's list of users, by name."""

    instance: str
    users: tuple[Listed, ...]
    after: str | None
    """For the next part; `None` if this is the last one."""
