"""Thousands of people in a realm, and the same people in a hub that has known them for long."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from traitlets.config import Config

from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.numbers.numbering import Interval, Ranges
from qhub_auth.numbers.store import IdentityStore, PersonWanted
from qhub_auth.realm import (
    GroupModel,
    HubClient,
    PersonModel,
    RealmModel,
    RoleModel,
    ServiceAccount,
)
from tests.systems.keycloak.realms import Realm

DEPARTMENTS = 20
FIRST_UID, LAST_UID, FIRST_GID, LAST_GID = 100_000, 199_999, 50_000, 59_999


def team_paths(groups: int) -> list[str]:
    """Return the paths of all groups below a department's."""
    teams = groups // DEPARTMENTS - 1
    return [
        f"/dept{dept:02d}/team{team:02d}" for dept in range(DEPARTMENTS) for team in range(teams)
    ]


def realm_of(people: int, groups: int) -> RealmModel:
    """Describe a realm: departments with teams, each person in two teams of any department."""
    teams = groups // DEPARTMENTS - 1
    below = tuple(GroupModel(name=f"team{team:02d}", share="rw") for team in range(teams))
    paths = team_paths(groups)
    return RealmModel(
        name="sync",
        hub=HubClient(secret="${HUB}", url="http://127.0.0.1:8000"),  # noqa: S106 - names one
        service=ServiceAccount(secret="${SERVICE}"),  # noqa: S106 - likewise
        groups=tuple(
            GroupModel(
                name=f"dept{dept:02d}",
                share="rw",
                groups=below,
            )
            for dept in range(DEPARTMENTS)
        ),
        roles=(
            RoleModel(name="reader", scopes=("read:groups",), groups=("/dept00", "/dept01")),
            RoleModel(name="operator", scopes=("list:users",), contains=("reader",)),
        ),
        people=tuple(
            PersonModel(
                name=f"p{number:05d}",
                email=f"p{number:05d}@example.org",
                groups=tuple({paths[number % len(paths)], paths[(7 * number + 3) % len(paths)]}),
                roles=("operator",) if number % 100 == 0 else (),
            )
            for number in range(people)
        ),
    )


async def _subs(realm: Realm) -> dict[str, str]:
    settings = Config()
    settings.Keycloak.issuer = realm.issuer
    settings.Keycloak.client_id = realm.client_id
    settings.Keycloak.client_secret = realm.client_secret
    settings.Keycloak.service_client_id = realm.service_client_id
    settings.Keycloak.service_client_secret = realm.service_secret
    keycloak = Keycloak(config=settings)
    try:
        pages = KeycloakAdmin(keycloak).everybody()
        return {each.name: each.sub async for page in pages for each in page}
    finally:
        await keycloak.aclose()


def known_to_hub(realm: Realm, database: Path, identities: str) -> int:
    """Write everybody into a hub that does not run now, as if they had all logged in once.

    Args:
        realm: Whose people.
        database: The hub's SQLite file, made by the hub itself.
        identities: The address of the database of numbers.
    """
    subs = asyncio.run(_subs(realm))
    store = IdentityStore(
        identities,
        ranges=Ranges(Interval(FIRST_UID, LAST_UID), Interval(FIRST_GID, LAST_GID)),
        log=logging.getLogger("nobody"),
    )
    store.persons([PersonWanted(sub, name) for name, sub in subs.items()])
    store.close()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it greets when it is imported
    from jupyterhub import orm  # noqa: PLC0415 - and configures logging

    with orm.new_session_factory(f"sqlite:///{database}")() as session:
        role = orm.Role.find(session, "user")
        session.add_all([orm.User(name=name, roles=[role]) for name in subs])
        session.commit()
        session.bind.dispose()
    return len(subs)
