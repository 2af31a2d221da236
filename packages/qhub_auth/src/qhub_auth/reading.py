"""Reading everything from Keycloak, with the fewest calls: all people, groups, memberships, roles.

For P people, G groups and R roles that give something at the hub: P / 500 calls for the people, one
or two for the groups, G for who is in which, R for who has which, and some 25 for the roles
themselves. There is no call in Keycloak 26 that answers memberships for more than one group or
person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from qhub_auth.keycloak import KeycloakAdmin
from qhub_auth.paths import split
from qhub_auth.representations import Account, RoleKey
from qhub_auth.snapshot import Member, Snapshot

__all__ = ["existing_paths", "read_everything", "read_people"]


async def read_everything(admin: KeycloakAdmin) -> Snapshot:
    """Return all that counts of the realm and its people.

    It takes seconds to a minute and is of no single moment: what changes meanwhile is for whoever
    follows the events. When it is cancelled nothing is left behind.

    Raises:
        KeycloakError: Something could not be read; there is no half of an answer.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            listed = tasks.create_task(_accounts(admin))
            realm = await admin.realm(fresh=True)
            in_groups = {each: tasks.create_task(admin.all_members(each)) for each in realm.groups}
            with_roles = {
                each: tasks.create_task(admin.role_members(each))
                for each in realm.composites.leading
            }
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    of_groups: dict[str, set[str]] = {}
    for group, members in in_groups.items():
        for sub in members.result():
            of_groups.setdefault(sub, set()).add(group)
    of_roles: dict[str, set[RoleKey]] = {}
    for role, holders in with_roles.items():
        for sub in holders.result():
            of_roles.setdefault(sub, set()).add(role)
    people = {
        sub: Member(
            account=account,
            groups=frozenset(of_groups.get(sub, ())),
            roles=frozenset(of_roles.get(sub, ())),
        )
        for sub, account in listed.result().items()
    }
    return Snapshot(realm=realm, people=people)


async def _accounts(admin: KeycloakAdmin) -> dict[str, Account]:
    found: dict[str, Account] = {}
    async for page in admin.everybody():
        found |= {each.sub: each for each in page if not each.service}
    return found


async def read_people(admin: KeycloakAdmin, subs: Collection[str]) -> dict[str, Member | None]:
    """Return some people, each asked for alone; `None` for whom Keycloak says that there is none.

    Raises:
        KeycloakError: One of them could not be read.
    """
    order = sorted(subs)
    found = await asyncio.gather(*map(admin.member, order))
    return dict(zip(order, found, strict=True))


async def existing_paths(admin: KeycloakAdmin, paths: Collection[str]) -> frozenset[str]:
    """Return those paths at which Keycloak has a group, each asked for alone.

    What is no path of a group, e.g. with two slashes, is none of Keycloak's.

    Raises:
        KeycloakError: One of them could not be asked for.
    """
    order = sorted(filter(_is_path, paths))
    there = await asyncio.gather(*map(admin.has_path, order))
    return frozenset(path for path, found in zip(order, there, strict=True) if found)


def _is_path(text: str) -> bool:
    try:
        return bool(split(text))
    except ValueError:
        return False
