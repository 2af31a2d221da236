"""What is to be changed at the hub, by what Keycloak said, and what is too much to believe. Pure.

Two things keep a broken answer from taking people's rights. What somebody would lose because of a
list is `doubtful` until Keycloak has said so of that one person or group. And where a list would
take more than a given part of all people or memberships, nothing of that is done at all: it is
`held` until an administrator says that it is meant, or the lists come back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from qhub_auth.directory import PersonFacts
from qhub_auth.keycloak.snapshot import Snapshot
from qhub_auth.paths import ancestors

__all__ = ["GONE", "Change", "Held", "HubUser", "Limits", "Plan", "leaves", "plan", "vanished"]

GONE = "gone"
"""Stands in place of a digest for somebody who was found to be gone, and whose rights are ended."""


@dataclass(frozen=True, slots=True)
class HubUser:
    """A user as the hub has them.

    Attributes:
        name: At the hub.
        sub: Who they are in Keycloak; `None` if nobody of that name ever logged in by it.
        admin: Whether they administer the hub.
        groups: Names of their groups at the hub.
        roles: Names of their roles at the hub.
        digest: Of the facts that were last applied, if nothing changed them since; else empty.
    """

    name: str
    sub: str | None
    admin: bool = False
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Something to tell the hub of one person.

    Attributes:
        name: At the hub, as far as known.
        sub: Who they are in Keycloak.
        facts: What counts of them; `None` if they are gone.
        digest: Of the facts and what groups and roles mean; :data:`GONE` for who is gone.
        lost: Groups and roles that they lose by it.
        gained: Those that they get.
    """

    name: str
    sub: str
    facts: PersonFacts | None
    digest: str
    lost: frozenset[str] = frozenset()
    gained: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a list may take away before somebody has to confirm it.

    Attributes:
        percent: Of all people, and of all memberships.
        at_least: So many may go in any case.
    """

    percent: float = 20.0
    at_least: int = 5

    def exceeded(self, removed: int, of: int) -> bool:
        """Return whether so many are too many."""
        return removed > max(self.at_least, of * self.percent / 100)


@dataclass(frozen=True)
class Held:
    """What was not done, since it would have been too much.

    Attributes:
        people: Subs and names of those who were missing.
        memberships: What others would have lost: groups and roles by sub.
        of_people: How many people the hub knows.
        of_memberships: How many memberships they have.
    """

    people: Mapping[str, str] = field(default_factory=dict)
    memberships: Mapping[str, frozenset[str]] = field(default_factory=dict)
    of_people: int = 0
    of_memberships: int = 0

    @property
    def items(self) -> frozenset[str]:
        """Each single thing that would be taken away, in short."""
        gone = {_short(sub, "") for sub in self.people}
        return frozenset(
            gone | {_short(s, g) for s, lost in self.memberships.items() for g in lost}
        )

    @property
    def id(self) -> str:
        """By which it is confirmed; other things held have another one."""
        return hashlib.sha256(" ".join(sorted(self.items)).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        parts = []
        if self.people:
            parts.append(f"{len(self.people)} of {self.of_people} people are missing")
        if self.memberships:
            lost = sum(map(len, self.memberships.values()))
            parts.append(
                f"{len(self.memberships)} people would lose {lost} of {self.of_memberships} "
                "groups and roles"
            )
        return " and ".join(parts)


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        changes: To tell the hub now.
        doubtful: Subs of those who would lose something by a list alone: ask for each, then plan
            again with what came out.
        held: What is not done, if there is any.
    """

    changes: tuple[Change, ...] = ()
    doubtful: frozenset[str] = frozenset()
    held: Held | None = None


def leaves(paths: Collection[str]) -> frozenset[str]:
    """Return those groups that have none below them among `paths`: to be in these is to be in all.

    Somebody whom the hub has in ``/physics`` and ``/physics/team-a`` may be a direct member of the
    second only. To name the first as well would make them one of both, with more rights.
    """
    above = {each for path in paths for each in ancestors(path)}
    return frozenset(path for path in paths if path not in above)


def vanished(users: Iterable[HubUser], snapshot: Snapshot) -> frozenset[str]:
    """Return the paths of groups that somebody has at the hub, and that the realm does not have."""
    return frozenset(
        group
        for user in users
        for group in user.groups
        if group.startswith("/") and group not in snapshot.realm.directory.groups
    )


def plan(
    users: Iterable[HubUser],
    snapshot: Snapshot,
    *,
    certain: Collection[str] | None = (),
    gone_groups: Collection[str] = (),
    limits: Limits | None = None,
    confirmed: Collection[str] = (),
) -> Plan:
    """Return what is to be changed so that the hub is as the snapshot says.

    Args:
        users: All users of the hub; those without `sub` are left alone.
        snapshot: What Keycloak said.
        certain: Subs of whom Keycloak was asked one by one; `None`: nobody need be.
        gone_groups: Paths of which Keycloak said that there is no such group any more.
        limits: How much may be taken away; `None` for no limit.
        confirmed: What an administrator confirmed, as :attr:`Held.items` of that time.
    """
    own = [user for user in users if user.sub is not None]
    missing: dict[str, str] = {}
    losing: dict[str, Change] = {}
    changes: dict[str, Change] = {}
    for user in own:
        change = _change(user, snapshot, frozenset(gone_groups))
        if change is None:
            continue
        if change.facts is None:
            missing[change.sub] = user.name
        elif change.lost:
            losing[change.sub] = change
        changes[change.sub] = change
    if certain is None:
        return Plan(changes=tuple(changes.values()))
    settled = frozenset(certain)
    known = frozenset(confirmed)
    missing = {
        sub: name
        for sub, name in missing.items()
        if sub not in settled and _short(sub, "") not in known
    }
    losing = {
        sub: change
        for sub, change in losing.items()
        if sub not in settled and not {_short(sub, each) for each in change.lost} <= known
    }
    held = _held(own, missing, losing, limits)
    if held is not None:
        for sub in held.people:
            del changes[sub], missing[sub]
        for sub in held.memberships:
            del losing[sub]
            kept = _only_gained(changes.pop(sub))
            if kept is not None:
                changes[sub] = kept
    doubtful = frozenset(missing) | frozenset(losing)
    sure = tuple(change for sub, change in changes.items() if sub not in doubtful)
    return Plan(changes=sure, doubtful=doubtful, held=held)


def _change(user: HubUser, snapshot: Snapshot, gone_groups: frozenset[str]) -> Change | None:
    sub = user.sub or ""
    facts = snapshot.facts(sub)
    if facts is None:
        if user.digest == GONE:
            return None
        return Change(user.name, sub, None, GONE)
    digest = snapshot.realm.digest(facts)
    if digest == user.digest:
        return None
    has = {group for group in user.groups if group.startswith("/")}
    wanted = facts.all_groups
    lost, gained = has - wanted - gone_groups, wanted - has
    lost_roles = (user.roles & set(snapshot.realm.client_roles)) - facts.roles
    return Change(
        user.name,
        sub,
        facts,
        digest,
        lost=frozenset(lost | lost_roles) if facts.enabled else frozenset(),
        gained=frozenset(gained | (facts.roles - user.roles)),
    )


def _held(
    own: list[HubUser],
    missing: Mapping[str, str],
    losing: Mapping[str, Change],
    limits: Limits | None,
) -> Held | None:
    """Return what is too much; `None` if nothing is."""
    if limits is None:
        return None
    of_people = sum(1 for user in own if user.digest != GONE)
    of_memberships = sum(len(user.groups) for user in own)
    lost = {sub: change.lost for sub, change in losing.items()}
    people = missing if limits.exceeded(len(missing), of_people) else {}
    if not limits.exceeded(sum(map(len, lost.values())), of_memberships):
        lost = {}
    return Held(dict(people), lost, of_people, of_memberships) if people or lost else None


def _only_gained(change: Change) -> Change | None:
    """Return a change that takes nothing away; `None` if nothing is left of it."""
    if change.facts is None or not change.gained:
        return None
    groups = {each for each in change.lost if each.startswith("/")}
    facts = replace(
        change.facts,
        groups=change.facts.groups | leaves(groups),
        roles=change.facts.roles | (change.lost - groups),
    )
    return replace(change, facts=facts, digest="", lost=frozenset())


def _short(sub: str, what: str) -> str:
    return hashlib.sha256(f"{sub}\0{what}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
