"""The one door to Keycloak's admin API: who there is, what groups and roles, what has changed.

Paths, parameters and answers are those of Keycloak's Admin REST API, version 26. The service
account needs these roles of the client ``realm-management``: ``view-users``, ``query-users``,
``query-groups`` (people and groups), ``view-clients`` (roles of the hub's client), ``view-realm``
(roles of the realm), ``view-events`` (admin events); for writing numbers back, ``manage-users``.

Every call either gives a whole, checked answer or raises: `KeycloakUnavailableError` when nothing
can be said (no answer, a broken one, a server's error), `KeycloakRefusedError` when Keycloak said
no. Reading is safe to repeat; one new token is asked for when Keycloak says 401, nothing else is
tried again here. A call that is cancelled leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import quote

import httpx

from qhub_auth.directory import ClientRole, Directory, PersonFacts
from qhub_auth.errors import KeycloakRefusedError, KeycloakUnavailableError, shown
from qhub_auth.keycloak import representations as read
from qhub_auth.keycloak.calls import KeycloakCalls
from qhub_auth.keycloak.composites import Composites
from qhub_auth.keycloak.events import AdminEvent, admin_event
from qhub_auth.keycloak.representations import REALM, Account, GroupRecord, Role, RoleKey
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.keycloak.snapshot import Member, Realm
from qhub_auth.paths import split, usable

__all__ = ["KeycloakAdmin"]

# A page: about 0.5 MB of people with attributes; members come without them.
PAGE, MEMBERS_PAGE, EVENTS_PAGE = 500, 1000, 500
# More groups than this are read in pages, fewer in one go, which cannot fall between two pages.
_GROUPS_AT_ONCE = 5000
# Which roles contain which is read anew after this; the sync service hears of changes sooner.
_COMPOSITES_SECONDS = 1800.0
_NOT_FOUND = 404


class KeycloakAdmin(KeycloakCalls):
    """Keycloak's admin API as the service account sees it.

    Args:
        settings: Where Keycloak is, and who we are.
        http: Connections to use instead of those of `settings`.
    """

    def __init__(self, settings: Keycloak, http: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, http)
        self._client_uuid = ""
        self._composites: tuple[float, Composites] | None = None

    # ---- groups and roles ----

    async def client_uuid(self) -> str:
        """Return Keycloak's identifier of the hub's client; it never changes, so is asked for once.

        Raises:
            KeycloakError: See the module; also when there is no such client to be seen.
        """
        if not self._client_uuid:
            client_id = self.settings.client_id
            found = read.objects(await self.get("/clients", clientId=client_id), "clients")
            ids = [each.get("id") for each in found if each.get("clientId") == client_id]
            if len(ids) != 1 or not isinstance(ids[0], str):
                raise KeycloakRefusedError(
                    f"Keycloak shows no client {shown(client_id)}: its service account needs the "
                    "role view-clients of realm-management",
                    status=_NOT_FOUND,
                )
            self._client_uuid = ids[0]
        return self._client_uuid

    async def groups(self) -> dict[str, GroupRecord]:
        """Return all groups of the realm by identifier, attributes and direct roles included.

        Two calls for up to 5,000 groups: how many there are, then all of them. The list without a
        search would only have the outermost groups, since Keycloak 23.

        Raises:
            KeycloakError: See the module; also when the list is not as long as the count.
        """
        said = ""
        for _ in range(3):  # a group may come or go between the two calls
            count = await self.get("/groups/count")
            total = count.get("count") if isinstance(count, dict) else None
            if not isinstance(total, int):
                raise KeycloakUnavailableError("Keycloak does not say how many groups there are")
            # with room for as many again, so that the first page is known to be the last one
            size = 2 * total + PAGE if total <= _GROUPS_AT_ONCE else PAGE
            found: dict[str, GroupRecord] = {}
            async for page in self.pages(
                "/groups",
                size,
                search=" ",  # trimmed by Keycloak, and in every name; "" would be no search
                briefRepresentation=False,
                populateHierarchy=False,
                subGroupsCount=False,
            ):
                found |= {each.id: each for each in map(read.group, page)}
            if len(found) == total:
                return found
            said = f"Keycloak counts {total} groups and lists {len(found)} of them"
        raise KeycloakUnavailableError(said)

    async def _roles(self, path: str, *, brief: bool) -> list[Role]:
        pages = self.pages(path, PAGE, briefRepresentation=brief)
        return [read.role(each) async for page in pages for each in page]

    async def client_roles(self) -> dict[str, ClientRole]:
        """Return the roles of the hub's client, by name.

        Raises:
            KeycloakError: See the module.
        """
        uuid = await self.client_uuid()
        roles = await self._roles(f"/clients/{uuid}/roles", brief=False)
        return {each.name: read.role_of_client(each) for each in roles}

    async def composites(self, *, fresh: bool = False) -> Composites:
        """Return which roles contain which; at most half an hour old.

        One call for the clients, one for each client's roles, one for each composite role: some 20
        in a realm as Keycloak makes it, whatever the number of people and groups.

        Args:
            fresh: Read them anew in any case.

        Raises:
            KeycloakError: See the module.
        """
        if self._composites is not None and not fresh:
            at, known = self._composites
            if time.monotonic() - at < _COMPOSITES_SECONDS:
                return known
        clients: dict[str, str] = {}
        async for page in self.pages("/clients", PAGE):
            clients |= {str(each.get("id")): str(each.get("clientId")) for each in page}
        paths = [f"/clients/{_part(uuid)}/roles" for uuid in clients]
        lists = await asyncio.gather(
            *(self._roles(path, brief=True) for path in ["/roles", *paths])
        )

        def key(role: Role) -> RoleKey:
            return (clients.get(role.container, "?") if role.of_client else REALM, role.name)

        roles = [role for each in lists for role in each]
        composite = [role for role in roles if role.composite]
        contents = await asyncio.gather(
            *(self.get(f"/roles-by-id/{_part(role.id)}/composites") for role in composite)
        )
        contains = {
            key(role): frozenset(key(read.role(one)) for one in read.objects(each, "roles"))
            for role, each in zip(composite, contents, strict=True)
        }
        client = self.settings.client_id
        names = frozenset(name for owner, name in map(key, roles) if owner == client)
        known = Composites(client=client, contains=contains, names=names)
        self._composites = (time.monotonic(), known)
        return known

    async def directory(self, *, fresh: bool = False) -> Directory:
        """Return all groups, and all roles of the hub's client: three calls as a rule.

        Args:
            fresh: Read also anew which roles contain which, see :meth:`composites`.

        Raises:
            KeycloakError: See the module.
        """
        return (await self.realm(fresh=fresh)).directory

    async def realm(self, *, fresh: bool = False) -> Realm:
        """Return the same as :meth:`directory`, groups by identifier.

        Raises:
            KeycloakError: See the module.
        """
        groups, roles, composites = await asyncio.gather(
            self.groups(), self.client_roles(), self.composites(fresh=fresh)
        )
        return Realm(groups=groups, client_roles=roles, composites=composites)

    async def has_path(self, path: str) -> bool:
        """Return whether there is a group of that path: only Keycloak's own word makes it gone.

        Raises:
            KeycloakError: See the module.
        """
        parts = "/".join(_part(name) for name in split(path))
        try:
            found = await self.get(f"/group-by-path/{parts}")
        except KeycloakRefusedError as error:
            if error.status == _NOT_FOUND and error.code == "Group path does not exist":
                return False
            raise
        return read.group(found).path == path

    async def keeps_events(self) -> bool:
        """Return whether Keycloak keeps what administrators change, so that it can be followed.

        Raises:
            KeycloakError: See the module.
        """
        config = await self.get("/events/config")
        return isinstance(config, dict) and config.get("adminEventsEnabled") is True

    # ---- people ----

    async def everybody(self) -> AsyncIterator[list[Account]]:
        """Yield all users of the realm, page by page.

        Raises:
            KeycloakError: See the module.
        """
        async for page in self.pages("/users", PAGE, briefRepresentation=False):
            yield [read.account(each) for each in page]

    async def account(self, sub: str) -> Account | None:
        """Return one user with attributes; `None` if Keycloak says that there is none.

        Raises:
            KeycloakError: See the module.
        """
        try:
            return read.account(await self.get(f"/users/{_part(sub)}", userProfileMetadata=False))
        except KeycloakRefusedError as error:
            # A 404 of something else, a proxy or a realm that is gone, says nothing of the person.
            if error.status == _NOT_FOUND and error.code == "User not found":
                return None
            raise

    async def groups_of(self, sub: str) -> dict[str, str]:
        """Return identifier and path of the groups somebody is in directly.

        Without those whose names make them look like other groups, see `GroupRecord.disguised`, and
        those that count for nothing, see `qhub_auth.paths.usable`.

        Raises:
            KeycloakError: See the module.
        """
        found: dict[str, str] = {}
        async for page in self.pages(f"/users/{_part(sub)}/groups", PAGE):
            records = [read.group(each) for each in page]
            counting = [each for each in records if not each.disguised and usable(each.path)]
            found |= {each.id: each.path for each in counting}
        return found

    async def roles_of(self, sub: str) -> frozenset[RoleKey]:
        """Return the roles that are mapped to somebody directly, without those of their groups.

        Raises:
            KeycloakError: See the module.
        """
        return read.mapped_roles(await self.get(f"/users/{_part(sub)}/role-mappings"))

    async def person(self, sub: str) -> PersonFacts | None:
        """Return all that counts of one person, by three calls; `None` if there is no such person.

        Raises:
            KeycloakError: See the module.
        """
        uuid = await self.client_uuid()
        roles_path = f"/users/{_part(sub)}/role-mappings/clients/{uuid}/composite"
        account = await self.account(sub)
        if account is None or account.service:
            return None
        groups, roles = await asyncio.gather(self.groups_of(sub), self.get(roles_path))
        return PersonFacts(
            sub=account.sub,
            name=account.name,
            enabled=account.enabled,
            groups=frozenset(groups.values()),
            roles=frozenset(read.listed(roles, "name", "role")),
            uid=account.uid,
            gid=account.gid,
            home=account.home,
            email=account.email,
            full_name=account.full_name,
        )

    async def member(self, sub: str) -> Member | None:
        """Return one person with direct groups and roles, by three calls; `None` if there is none.

        Raises:
            KeycloakError: See the module.
        """
        account = await self.account(sub)
        if account is None or account.service:
            return None
        groups, roles = await asyncio.gather(self.groups_of(sub), self.roles_of(sub))
        return Member(account=account, groups=frozenset(groups), roles=roles)

    async def all_members(self, group_id: str) -> frozenset[str]:
        """Return the subs of all direct members of a group.

        Raises:
            KeycloakError: See the module.
        """
        path = f"/groups/{_part(group_id)}/members"
        pages = self.pages(path, MEMBERS_PAGE, briefRepresentation=True)
        return frozenset([sub async for page in pages for sub in read.listed(page, "id", "member")])

    async def role_members(self, role: RoleKey) -> frozenset[str]:
        """Return the subs of all people to whom a role of the realm or hub's client is mapped.

        Raises:
            KeycloakError: See the module.
        """
        client, name = role
        owner = ""
        if client != REALM:
            found = read.objects(await self.get("/clients", clientId=client), "clients")
            ids = [str(each.get("id")) for each in found if each.get("clientId") == client]
            if not ids:
                return frozenset()
            owner = f"/clients/{_part(ids[0])}"
        path = f"{owner}/roles/{_part(name)}/users"
        pages = self.pages(path, MEMBERS_PAGE, briefRepresentation=True)
        return frozenset([sub async for page in pages for sub in read.listed(page, "id", "user")])

    # ---- what has changed ----

    async def admin_events(
        self, since_ms: int, *, resources: Sequence[str] = ()
    ) -> AsyncIterator[list[AdminEvent]]:
        """Yield the admin events since a time, page by page, the newest first.

        What happens meanwhile comes again on the next page, never gets lost between two.

        Args:
            since_ms: Milliseconds since 1970, by Keycloak's clock.
            resources: Kinds of resources, e.g. ``GROUP_MEMBERSHIP``; all if none is named.

        Raises:
            KeycloakError: See the module.
        """
        async for page in self.pages(
            "/admin-events",
            EVENTS_PAGE,
            dateFrom=max(0, since_ms),
            resourceTypes=list(resources) or None,
        ):
            yield [admin_event(each) for each in page]

    # ---- writing ----

    async def write_attributes(self, sub: str, values: Mapping[str, str]) -> None:
        """Set attributes of a person, and leave all their others as they are.

        Raises:
            KeycloakError: See the module; 400 where the realm's user profile does not allow them.
        """
        path = f"/users/{_part(sub)}"
        await self._write(path, await self.get(path), values)

    async def write_group_attributes(self, group_id: str, values: Mapping[str, str]) -> None:
        """Set attributes of a group, and leave all its others as they are.

        Raises:
            KeycloakError: See the module.
        """
        path = f"/groups/{_part(group_id)}"
        await self._write(path, await self.get(path), values)

    async def _write(self, path: str, now: object, values: Mapping[str, str]) -> None:
        if not isinstance(now, dict):
            raise KeycloakUnavailableError("Keycloak's answer is not what is to be changed")
        kept = read.attributes(now.get("attributes"))
        new = {name: list(each) for name, each in kept.items()}
        new |= {name: [value] for name, value in values.items()}
        await self.authorized("PUT", path, json={**now, "attributes": new})


def _part(value: str) -> str:
    return quote(value, safe="")
