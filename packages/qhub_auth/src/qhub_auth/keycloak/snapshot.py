"""All that Keycloak said of people, groups and roles at one time, in memory. Pure.

Groups are kept by identifier, so that one that is renamed, moved or given another role changes what
is said of its members without anybody being asked for again: O(changes) calls, not O(people).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from qhub_auth.directory import ClientRole, Directory, Group, PersonFacts
from qhub_auth.errors import shown
from qhub_auth.keycloak.composites import Composites
from qhub_auth.keycloak.representations import Account, GroupRecord, RoleKey
from qhub_auth.paths import ancestors, usable

__all__ = ["UNUSABLE_GROUP", "Member", "Realm", "Snapshot", "directory_of"]

UNUSABLE_GROUP = "its path has more than 255 characters, or some that nobody can see"
"""Why a group of Keycloak's is left out."""


@dataclass(frozen=True, slots=True)
class Member:
    """A person with what they are in directly.

    Attributes:
        account: What Keycloak says of them alone.
        groups: Identifiers of their groups.
        roles: The roles that are mapped to them themselves.
    """

    account: Account
    groups: frozenset[str] = frozenset()
    roles: frozenset[RoleKey] = frozenset()


def directory_of(
    groups: Iterable[GroupRecord], roles: Mapping[str, ClientRole], composites: Composites
) -> Directory:
    """Return the directory of groups and roles; a group has the roles of the groups above it.

    A path that a group has only by a slash in its name is left out, with the group that it looks
    like: tokens do not tell one from the other, and whoever may name a group must not get at the
    other one's folder. So is one whose path log-in would not take (:func:`qhub_auth.paths.usable`):
    it would come and go.
    """
    found = [each for each in groups if usable(each.path)]
    doubtful = {each.path for each in found if each.disguised}
    records = {each.path: each for each in found if each.path not in doubtful}
    own = {path: composites.effective(each.roles) for path, each in records.items()}
    none: frozenset[str] = frozenset()
    return Directory(
        groups={
            path: Group(
                id=each.id,
                path=path,
                attributes=each.attributes,
                roles=own[path].union(*(own.get(above, none) for above in ancestors(path))),
            )
            for path, each in records.items()
        },
        roles=dict(roles),
    )


@dataclass(frozen=True)
class Realm:
    """The groups and roles of a realm.

    Attributes:
        groups: By Keycloak's identifier.
        client_roles: Those of the hub's client, by name.
        composites: Which roles contain which.
    """

    groups: Mapping[str, GroupRecord] = field(default_factory=dict)
    client_roles: Mapping[str, ClientRole] = field(default_factory=dict)
    composites: Composites = field(default_factory=Composites)

    @cached_property
    def directory(self) -> Directory:
        """The same by path, with the roles that groups have in effect."""
        return directory_of(self.groups.values(), self.client_roles, self.composites)

    @cached_property
    def disguised(self) -> frozenset[str]:
        """Paths that nobody is in, since a group has them only by a slash in its name."""
        return frozenset(each.path for each in self.groups.values() if each.disguised)

    @cached_property
    def unusable(self) -> tuple[str, ...]:
        """Paths of groups that count for nothing: too long, or with what nobody can see."""
        return tuple(sorted(each.path for each in self.groups.values() if not usable(each.path)))

    @cached_property
    def mark(self) -> str:
        """Stands for all of it: another mark, and something is different."""
        parts = [*self._group_marks.values(), *self._role_marks.values()]
        return _digest(sorted(parts))

    @cached_property
    def _group_marks(self) -> Mapping[str, str]:
        """For each path what counts of the group and those above it."""
        groups = self.directory.groups
        own = {
            path: [
                each.id,
                path,
                sorted((name, *each.attributes[name]) for name in each.attributes),
            ]
            for path, each in groups.items()
        }
        return {
            path: _digest([own.get(each) for each in (*ancestors(path), path)]) for path in groups
        }

    @cached_property
    def _role_marks(self) -> Mapping[str, str]:
        return {
            name: _digest([name, each.scopes, each.description])
            for name, each in self.client_roles.items()
        }

    def facts(self, member: Member) -> PersonFacts:
        """Return what counts of a person.

        A group that is not in the directory is left out.
        """
        groups = [self.groups[each] for each in member.groups if each in self.groups]
        groups = [each for each in groups if each.path in self.directory.groups]
        by_groups = (self.directory.groups[each.path].roles for each in groups)
        account = member.account
        return PersonFacts(
            sub=account.sub,
            name=account.name,
            enabled=account.enabled,
            groups=frozenset(each.path for each in groups),
            roles=self.composites.effective(member.roles).union(*by_groups),
            uid=account.uid,
            gid=account.gid,
            home=account.home,
            email=account.email,
            full_name=account.full_name,
        )

    def digest(self, facts: PersonFacts) -> str:
        """Return what stands for the facts, and for what groups and roles mean at present."""
        return _digest(
            [
                facts.sub,
                facts.name,
                facts.enabled,
                sorted(self._group_marks.get(path, path) for path in facts.groups),
                sorted(self._role_marks.get(name, name) for name in facts.roles),
                facts.uid,
                facts.gid,
                facts.home,
                facts.email,
                facts.full_name,
            ]
        )


@dataclass(frozen=True)
class Snapshot:
    """A realm with its people.

    Attributes:
        realm: Groups and roles.
        people: By sub; service accounts are not among them.
    """

    realm: Realm = field(default_factory=Realm)
    people: Mapping[str, Member] = field(default_factory=dict)

    def facts(self, sub: str) -> PersonFacts | None:
        """Return what counts of a person; `None` if they are not in the list."""
        member = self.people.get(sub)
        return None if member is None else self.realm.facts(member)

    def odd(self) -> Iterator[str]:
        """Say what Keycloak has that counts for nothing, in words."""
        for path in self.realm.unusable:
            yield f"the group {shown(path)} counts for nothing: {UNUSABLE_GROUP}"
        for member in self.people.values():
            for words in member.account.odd:
                yield f"{shown(member.account.name)}: {words}"

    def everybody(self) -> Iterator[PersonFacts]:
        """Give the facts of all people."""
        return map(self.realm.facts, self.people.values())


def _digest(data: object) -> str:
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
