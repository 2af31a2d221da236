"""Roles that contain other roles: which roles of the hub's client somebody has in effect. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from qhub_auth.keycloak.representations import RoleKey

__all__ = ["Composites"]


@dataclass(frozen=True)
class Composites:
    """The roles of a realm that contain others.

    Attributes:
        client: The hub's client id.
        contains: What each composite role contains directly.
        names: Names of all roles of the hub's client.
    """

    client: str = ""
    contains: Mapping[RoleKey, frozenset[RoleKey]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def effective(self, direct: Iterable[RoleKey]) -> frozenset[str]:
        """Return the names of the hub client's roles that somebody with `direct` has."""
        seen: set[RoleKey] = set()
        waiting = list(direct)
        while waiting:
            key = waiting.pop()
            if key not in seen:
                seen.add(key)
                waiting.extend(self.contains.get(key, ()))
        return frozenset(name for client, name in seen if client == self.client)

    @cached_property
    def leading(self) -> frozenset[RoleKey]:
        """All roles that give one of the hub client's: those themselves, and what contains them."""
        above: dict[RoleKey, set[RoleKey]] = {}
        for key, children in self.contains.items():
            for child in children:
                above.setdefault(child, set()).add(key)
        found: set[RoleKey] = set()
        waiting: list[RoleKey] = [(self.client, name) for name in self.names]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting.extend(above.get(key, ()))
        return frozenset(found)
