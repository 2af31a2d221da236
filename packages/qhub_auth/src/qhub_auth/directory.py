"""What Keycloak knows of groups, roles and people, as plain data. Pure.

`PersonFacts` is the same whether it came from a token at log-in or from Keycloak's admin API, so
that both ways lead to the same groups, roles and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from qhub_auth.paths import ancestors, with_parents

__all__ = ["ClientRole", "Directory", "Group", "PersonFacts", "Share"]

Attributes = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the realm.

    Attributes:
        id: Keycloak's own, which stays when the group is renamed or moved.
        path: Its full path, e.g. ``/physics/team-a``.
        attributes: Its attributes, each with all its values.
        roles: Names of the hub client's roles that are mapped to it, composites included.
    """

    id: str
    path: str
    attributes: Attributes = field(default_factory=dict)
    roles: frozenset[str] = frozenset()

    def first(self, name: str) -> str | None:
        """Return the first value of an attribute, or `None`."""
        return next(iter(self.attributes.get(name, ())), None)

    @property
    def share(self) -> Literal["rw", "ro"] | None:
        """``rw``: it has a shared folder; ``ro``: its members may read those of groups above it."""
        value = self.first("share")
        return "rw" if value == "rw" else "ro" if value == "ro" else None


@dataclass(frozen=True, slots=True)
class ClientRole:
    """A role of the hub's client in Keycloak.

    Attributes:
        name: Its name, e.g. ``jupyterhub_developer``.
        scopes: The hub's scopes that it gives, from its attribute ``scopes``.
        attributes: All its attributes.
        description: For people.
    """

    name: str
    scopes: tuple[str, ...] = ()
    attributes: Attributes = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """What Keycloak says of one person.

    Attributes:
        sub: The person's identifier in the realm; it never changes and is never used again.
        name: The name they log in by, as Keycloak has it.
        enabled: Whether they may log in at all.
        groups: Full paths of the groups they are in directly: Keycloak's tokens and its
            admin API name just these.
        roles: Names of the hub client's roles they have, those by groups and composites included.
        uid: Their ``uidNumber``, if somebody gave them one.
        gid: Their ``gidNumber``, if somebody gave them one.
        home: Their ``homeDirectory``, if somebody gave them one.
        email: For people.
        full_name: For people.
    """

    sub: str
    name: str
    enabled: bool = True
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    uid: int | None = None
    gid: int | None = None
    home: str | None = None
    email: str = ""
    full_name: str = ""

    @property
    def all_groups(self) -> frozenset[str]:
        """Their groups and every group above those."""
        return with_parents(self.groups)


@dataclass(frozen=True, slots=True)
class Share:
    """A shared folder that a person has.

    Attributes:
        owner: The group whose folder it is.
        through: The group that gives it: itself for ``rw``, a group below it for ``ro``.
        access: What they may do.
    """

    owner: Group
    through: Group
    access: Literal["rw", "ro"]


@dataclass(frozen=True)
class Directory:
    """All groups of the realm, and all roles of the hub's client.

    Attributes:
        groups: By full path.
        roles: By name.
        everybody: Paths of the groups that everybody is in without being a member in Keycloak.
    """

    groups: Mapping[str, Group] = field(default_factory=dict)
    roles: Mapping[str, ClientRole] = field(default_factory=dict)
    everybody: frozenset[str] = frozenset()

    @cached_property
    def by_id(self) -> Mapping[str, Group]:
        """The groups by Keycloak's identifier."""
        return {group.id: group for group in self.groups.values()}

    def shares(self, paths: Iterable[str]) -> tuple[Share, ...]:
        """Return the shared folders of somebody who is directly in the groups `paths`, by path.

        A member of a group is a member of the groups above it, and has their folders too. Through
        a group with ``share`` = ``ro`` they may only read those; whoever may write by another of
        their groups may write. Of two groups that let somebody read, the first path counts.

        Give the direct groups only: one that stands there because of a group below it would count
        as a membership of its own.
        """
        found: dict[str, Share] = {}
        for path in sorted(set(paths)):
            chain = [self.groups.get(each) for each in (*ancestors(path), path)]
            reader = next((each for each in reversed(chain) if each and each.share == "ro"), None)
            for group in chain:
                if group is None or group.share != "rw":
                    continue
                if reader is None or len(group.path) > len(reader.path):
                    found[group.path] = Share(owner=group, through=group, access="rw")
                elif group.path not in found:
                    found[group.path] = Share(owner=group, through=reader, access="ro")
        return tuple(found[path] for path in sorted(found))
