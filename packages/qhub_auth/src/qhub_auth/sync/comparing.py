"""Comparing everything: what Keycloak says of all people with what the hub has of all users."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from qhub_auth.errors import KeycloakUnavailableError
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.snapshot import Member, Realm, Snapshot
from qhub_auth.sync.hub_door import HubDoor
from qhub_auth.sync.reading import existing_paths, read_everything, read_people
from qhub_auth.sync.reconciling import HubUser, Limits, Plan, plan, vanished

__all__ = ["Full", "Since", "hub_users", "put_together", "read_full", "removed_groups"]


@dataclass(frozen=True)
class Full:
    """Everything, as it was read.

    Attributes:
        snapshot: All people, groups and roles of the realm.
        users: All users of the hub, by name.
        asked: Those who would have lost something by a list, each asked for alone.
        gone_groups: Groups that users of the hub have, and Keycloak says it has not.
        confirmed: What an administrator had confirmed.
    """

    snapshot: Snapshot
    users: Mapping[str, HubUser]
    asked: Mapping[str, Member | None]
    gone_groups: frozenset[str]
    confirmed: frozenset[str]


@dataclass
class Since:
    """What was heard of while everything was being read; it is newer, and wins."""

    people: dict[str, Member | None] = field(default_factory=dict)
    users: dict[str, HubUser] = field(default_factory=dict)
    realm: Realm | None = None
    gone_groups: frozenset[str] = frozenset()


async def hub_users(hub: HubDoor) -> dict[str, HubUser]:
    """Return all users of the hub, by name.

    Raises:
        HubUnavailableError: No usable answer came.
        HubRefusedError: The token is not good for it.
    """
    return {user.name: user async for page in hub.users() for user in page}


async def removed_groups(
    admin: KeycloakAdmin, users: Mapping[str, HubUser], snapshot: Snapshot
) -> frozenset[str]:
    """Return the groups that somebody has at the hub and that Keycloak says it has not.

    Raises:
        KeycloakUnavailableError: It has one of them: its list of groups is not whole.
    """
    missing = vanished(users.values(), snapshot)
    left_out = snapshot.realm.disguised.union(snapshot.realm.unusable)
    there = await existing_paths(admin, missing - left_out)
    if there:
        raise KeycloakUnavailableError(
            f"Keycloak's list of groups lacks {len(there)} that are there"
        )
    return missing


async def read_full(
    admin: KeycloakAdmin, hub: HubDoor, *, confirmed: frozenset[str], limits: Limits
) -> Full:
    """Read everything; then ask one by one for who would lose something, within limits.

    Raises:
        KeycloakError: Something could not be read; there is no half of an answer.
        HubUnavailableError: The hub's users could not be.
    """
    snapshot = await read_everything(admin)
    users = await hub_users(hub)
    gone_groups = await removed_groups(admin, users, snapshot)
    first = _plan(users, snapshot, (), gone_groups, confirmed, limits)
    asked = await read_people(admin, first.doubtful)
    return Full(snapshot, users, asked, gone_groups, confirmed)


def put_together(
    full: Full, since: Since, limits: Limits
) -> tuple[Snapshot, dict[str, HubUser], Plan]:
    """Return how everything is, with what was heard of meanwhile, and what is to be done."""
    people = dict(full.snapshot.people)
    for sub, member in {**full.asked, **since.people}.items():
        if member is None:
            people.pop(sub, None)
        else:
            people[sub] = member
    snapshot = Snapshot(since.realm or full.snapshot.realm, people)
    users = {**full.users, **since.users}
    certain = {*full.asked, *since.people}
    gone_groups = full.gone_groups | since.gone_groups
    return snapshot, users, _plan(users, snapshot, certain, gone_groups, full.confirmed, limits)


def _plan(
    users: Mapping[str, HubUser],
    snapshot: Snapshot,
    certain: Collection[str],
    gone_groups: Collection[str],
    confirmed: Collection[str],
    limits: Limits,
) -> Plan:
    return plan(
        users.values(),
        snapshot,
        certain=certain,
        gone_groups=gone_groups,
        limits=limits,
        confirmed=confirmed,
    )
