"""One batch of the sync service, applied to the hub's own database.

The same as a log-in does, for people whom the hub knows: groups, roles, administrator or not, and
``auth_state["qhub"]``. Numbers are asked for, and auth_state is decrypted and encrypted, outside
of the hub's loop; what is left is written for a few people at a time, so that the hub answers
meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import InvalidToken
from jupyterhub import crypto
from jupyterhub.roles import assign_default_roles

from qhub_auth.directory import PersonFacts
from qhub_auth.errors import (
    IdentityError,
    IdentityUnavailableError,
    KeycloakUnavailableError,
    RefusedError,
    shown,
)
from qhub_auth.hub_users import HubGroups, HubRoles, Row, names_there, users_named
from qhub_auth.identity import KEY
from qhub_auth.numbering import name_key
from qhub_auth.reconciling import GONE
from qhub_auth.sessions import end_sessions
from qhub_auth.sync_bodies import Entry, Result

if TYPE_CHECKING:
    from qhub_auth.applying import Applier

__all__ = ["Work"]

# How long people may be written before the hub's loop gets its turn, in seconds; with the commit
# that follows it stays below 50 ms.
_WRITING_SECONDS = 0.01
# Those of so many people end at once.
_ENDING_AT_ONCE = 10


@dataclass(frozen=True)
class _Known:
    """One person of a batch by whose name the hub has a user."""

    entry: Entry
    facts: PersonFacts
    name: str


@dataclass
class _Person:
    """One person of a batch on the way to the hub's database."""

    entry: Entry
    name: str
    model: dict[str, Any]
    state: dict[str, Any] | None = None
    encrypted: bytes | None = None
    lost_share: bool = False


@dataclass(frozen=True)
class _Ending:
    """Somebody who may not go on."""

    entry: Entry
    name: str
    why: str


class Work:
    """One batch.

    Args:
        applier: Remembers what was applied, and stops servers.
        handler: Of the request.
        dry_run: Only say what would be.
        remember: Whether groups and roles are known as the service knows them.
    """

    def __init__(self, applier: Applier, handler: Any, *, dry_run: bool, remember: bool) -> None:  # noqa: ANN401 - JupyterHub has no types
        self.results: list[Result] = []
        self._ending: list[_Ending] = []
        self._applier = applier
        self._authenticator = applier.authenticator
        self._store = applier.authenticator.identities.store
        self._handler, self._db, self._log = handler, handler.db, handler.log
        self._groups = HubGroups(handler.db)
        self._roles = HubRoles(handler.db, handler.settings.get("config_role_names") or ())
        self._dry_run, self._remember = dry_run, remember

    # ---- who ----

    async def sort(self, entries: Sequence[Entry]) -> list[_Person]:
        """Return those who may go on; the others are answered for, or kept for :meth:`end_all`.

        Only users by a name that belongs to the person are ever touched: whoever takes another
        one's name in Keycloak neither gets nor ends anything of theirs.
        """
        owners = await asyncio.to_thread(self._store.owners, [entry.sub for entry in entries])
        mine: dict[str, set[str]] = {entry.sub: set() for entry in entries}
        for name in names_there(self._db, owners):
            mine[owners[name_key(name)]].add(name)
        wanted: dict[str, _Known] = {}
        for entry in entries:
            theirs = mine[entry.sub]
            if entry.facts is None:
                self._may_not(entry, theirs, "Keycloak does not know them any more")
                continue
            facts = entry.facts.facts()
            try:
                name = await self._authenticator.name_of(facts, by_token=False)
            except RefusedError as error:
                self._may_not(entry, theirs, error.reason)
                continue
            if name in theirs:
                wanted[entry.sub] = _Known(entry, facts, name)
            elif not theirs:
                self._say(entry, name, "unknown")
            for old in sorted(theirs - {name}):
                self._ending.append(_Ending(entry, old, f"they are called {shown(name)} now"))
        return await self._models(wanted)

    async def _models(self, wanted: Mapping[str, _Known]) -> list[_Person]:
        """Return who may go on, with the hub's model of them; numbers are asked for at once."""
        if not wanted:
            return []
        directory = await self._authenticator.directory_keeper.directory()
        if directory is None:
            raise KeycloakUnavailableError("the hub itself cannot read groups from Keycloak now")
        numbers = await asyncio.to_thread(
            self._authenticator.identities.resolve_all,
            [known.facts for known in wanted.values() if known.facts.enabled],
            directory,
            {sub: known.name for sub, known in wanted.items()},
        )
        people = []
        pause = time.monotonic() + _WRITING_SECONDS
        for sub, known in wanted.items():
            entry, name = known.entry, known.name
            if time.monotonic() > pause:
                await asyncio.sleep(0)
                pause = time.monotonic() + _WRITING_SECONDS
            try:
                model = await self._authenticator.auth_model_of(
                    known.facts, tokens=None, identity=numbers.get(sub)
                )
            except RefusedError as error:
                self._may_not(entry, {name}, error.reason)
            except IdentityUnavailableError:
                raise
            except IdentityError as error:
                self._say(entry, name, "failed", str(error))
            else:
                people.append(_Person(entry, name, model))
        self._groups.learn({name for each in people for name in each.model.get("groups") or ()})
        return people

    def _may_not(self, entry: Entry, names: set[str], why: str) -> None:
        self._ending += [_Ending(entry, name, why) for name in sorted(names)]
        if not names:
            self._say(entry, entry.name, "unknown", why)

    # ---- those who may go on ----

    async def apply(self, people: Sequence[_Person]) -> None:
        """Apply some people: take their turns, prepare, write, and let the hub go on."""
        async with AsyncExitStack() as turns:
            if not self._dry_run:
                # in order of names, as everybody must who takes more than one turn
                for name in sorted({person.name for person in people}):
                    await turns.enter_async_context(self._authenticator.saving(name))
            users = users_named(self._db, [person.name for person in people])
            present = [person for person in people if person.name in users]
            await asyncio.gather(*(self._prepare(each, users[each.name]) for each in present))
            # meanwhile a user may have been deleted
            there = names_there(self._db, [person.name for person in present])
            left = [person for person in present if person.name in there]
            while left:
                left = self._write_some(left, users)
                await asyncio.sleep(0)
        for person in people:
            if person.lost_share and not self._dry_run:
                await self._stop_for_share(person)

    async def _prepare(self, person: _Person, user: Any) -> None:  # noqa: ANN401 - a row of JupyterHub's
        """Find out what becomes of the person's auth_state."""
        if not self._authenticator.enable_auth_state:
            return
        state: dict[str, Any] = {}
        if user.encrypted_auth_state is not None:
            with suppress(ValueError, InvalidToken, crypto.EncryptionUnavailable):
                state = await crypto.decrypt(user.encrypted_auth_state) or {}
        new = {**state, **person.model["auth_state"]}
        person.lost_share = bool(_shares(state) - _shares(new))
        if new != state:
            person.state = new
            if not self._dry_run:
                person.encrypted = await crypto.encrypt(new)

    def _write_some(self, people: Sequence[_Person], users: Mapping[str, Any]) -> list[_Person]:
        """Write people for a short time, as one transaction; return those who are left.

        Nothing is awaited in here, so no other request sees or ends the transaction half way.
        """
        if self._dry_run:
            for person in people:
                before = Row.of(users[person.name])
                self._written(person, before, _wanted(person, before))
            return []
        began = time.monotonic()
        done: list[tuple[_Person, Row]] = []
        try:
            with self._db.no_autoflush:
                for person in people:
                    done.append((person, Row.of(users[person.name])))
                    self._set(person, users[person.name])
                    if time.monotonic() - began > _WRITING_SECONDS:
                        break
            self._db.flush()
            self._roles.mark_granted()
            self._roles.remove_unused()
            self._db.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are to be written
            self._db.rollback()
            self._start_anew()
            if len(done) == 1:
                person = done[0][0]
                self._log.exception("%s could not be brought up to date", person.name)
                self._say(person.entry, person.name, "failed", type(error).__name__)
            else:
                # one of them was it; the others must not suffer from that
                for person, _ in done:
                    self._write_some([person], users)
        else:
            for person, before in done:
                self._written(person, before, Row.of(users[person.name]))
        return list(people[len(done) :])

    def _start_anew(self) -> None:
        self._groups = HubGroups(self._db)
        self._roles = HubRoles(self._db, self._handler.settings.get("config_role_names") or ())

    def _set(self, person: _Person, user: Any) -> None:  # noqa: ANN401 - a row of JupyterHub's
        """Make the hub's user as the model says, as the hub does after a log-in."""
        model = person.model
        admin = model.get("admin")
        if admin is not None and bool(user.admin) != admin:
            user.admin = admin
        if self._authenticator.manage_groups and model.get("groups") is not None:
            wanted = set(model["groups"])
            if {group.name for group in user.groups} != wanted:
                user.groups = self._groups.named(sorted(wanted))
        if self._authenticator.manage_roles and model.get("roles") is not None:
            self._roles.set_for(user, model["roles"])
        else:
            assign_default_roles(self._db, entity=user)
        if person.encrypted is not None:
            user.encrypted_auth_state = person.encrypted

    def _written(self, person: _Person, before: Row, after: Row) -> None:
        changed = person.state is not None or before != after
        if not self._dry_run:
            self._applier.note(after, person.entry.digest if self._remember else "")
            self._authenticator.refresher.welcome(person.name)
        self._answer(person.entry, before, after, "applied" if changed else "unchanged")

    async def _stop_for_share(self, person: _Person) -> None:
        if not self._authenticator.stop_servers_on_lost_share:
            return
        user = self._handler.find_user(person.name)
        if user is not None and any(spawner.active for spawner in user.spawners.values()):
            await self._applier.stop_servers(
                self._handler, user, "a shared folder is theirs no more", revoke_tokens=False
            )

    # ---- those who may not ----

    async def end_all(self) -> None:
        """End the sessions of everybody who may not go on, and take their rights."""
        at_once = asyncio.Semaphore(_ENDING_AT_ONCE)

        async def end(ending: _Ending) -> None:
            async with at_once:
                await self._end(ending)

        await asyncio.gather(*map(end, self._ending))

    async def _end(self, ending: _Ending) -> None:
        entry, name = ending.entry, ending.name
        before = Row.of(users_named(self._db, [name])[name])
        default = tuple(role for role in before.roles if role == "user")
        if self._dry_run:
            after = Row(name, admin=False, groups=(), roles=default, encrypted_auth_state=None)
            self._answer(entry, before, after, "ended", why=ending.why)
            return
        user = self._handler.find_user(name)
        if user is None:
            self._say(entry, name, "unknown", ending.why)
            return
        async with self._authenticator.saving(name):
            row = user.orm_user
            row.admin = False
            if self._authenticator.manage_groups:
                row.groups = []
            row.roles = [role for role in row.roles if role.name == "user"]
            row.encrypted_auth_state = None
            self._db.commit()
        running = sum(spawner.active for spawner in user.spawners.values())
        left = running or row.api_tokens or row.oauth_codes
        if before != Row.of(row) or left:
            await end_sessions(
                self._handler, user, revoke_tokens=True, stop_servers=False, why=ending.why
            )
        if running and entry.stop_servers:
            running = await self._applier.stop_servers(
                self._handler, user, ending.why, revoke_tokens=True
            )
        digest = entry.digest if self._remember else ""
        self._applier.note(Row.of(row), digest or (GONE if entry.facts is None else ""))
        self._answer(entry, before, Row.of(row), "ended", why=ending.why, servers=running)

    # ---- answers ----

    def _answer(
        self,
        entry: Entry,
        before: Row,
        after: Row,
        state: Any,  # noqa: ANN401 - a literal
        *,
        why: str = "",
        servers: int = 0,
    ) -> None:
        has, had = _rights(after), _rights(before)
        self.results.append(
            Result(
                sub=entry.sub,
                name=after.name,
                state=state,
                why=why,
                lost=tuple(sorted(had - has)),
                gained=tuple(sorted(has - had)),
                groups=after.groups,
                roles=after.roles,
                admin=after.admin,
                servers=servers,
            )
        )

    def _say(self, entry: Entry, name: str, state: Any, why: str = "") -> None:  # noqa: ANN401 - a literal
        self.results.append(Result(sub=entry.sub, name=name, state=state, why=why))


def _wanted(person: _Person, before: Row) -> Row:
    """Return what would become of somebody."""
    model = person.model
    groups, roles, admin = (model.get(each) for each in ("groups", "roles", "admin"))
    return Row(
        name=before.name,
        admin=before.admin if admin is None else bool(admin),
        groups=before.groups if groups is None else tuple(sorted(groups)),
        roles=before.roles if roles is None else tuple(sorted(role["name"] for role in roles)),
        encrypted_auth_state=before.encrypted_auth_state,
    )


def _rights(row: Row) -> set[str]:
    return {*row.groups, *row.roles}


def _shares(state: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return shared folders of somebody, each that may be written also as one to be read."""
    contract = state.get(KEY)
    found: set[tuple[str, str]] = set()
    for folder in contract.get("groups") or () if isinstance(contract, dict) else ():
        found.add((folder["path"], "ro"))
        if folder["access"] == "rw":
            found.add((folder["path"], "rw"))
    return found
