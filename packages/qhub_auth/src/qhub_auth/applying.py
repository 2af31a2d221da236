"""Applying what Keycloak says of people to the hub's own database, many at a time.

The same as a log-in does, for people whom the hub knows: groups, roles, administrator or not, and
``auth_state["qhub"]``. Numbers are asked for, and auth_state is decrypted and encrypted, outside
of the hub's loop; what is left is written for a few people at a time, so that the hub answers
meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

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
from qhub_auth.hub_users import (
    HubGroups,
    HubRoles,
    Row,
    fingerprint,
    names_there,
    page_of,
    users_named,
)
from qhub_auth.identity import KEY
from qhub_auth.numbering import name_key
from qhub_auth.reconciling import GONE
from qhub_auth.sessions import end_sessions
from qhub_auth.sync_bodies import Batch, Entry, Page, Result, Results

__all__ = ["Applier"]

# How long people may be written before the hub's loop gets its turn, in seconds; with the commit
# that follows it stays below 50 ms.
_WRITING_SECONDS = 0.02
# So many people are prepared together: their turns are taken, their auth_state is decrypted.
_TOGETHER = 25
# How long an answer waits for servers to stop; those of so many people at once.
_STOP_SECONDS, _ENDING_AT_ONCE = 2.0, 10


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


class Applier:
    """Applies batches, one after the other, and remembers what it applied to whom.

    Args:
        authenticator: The hub's `KeycloakAuthenticator`.

    Attributes:
        instance: Another one after each start of the hub: what was applied is then not known.
    """

    def __init__(self, authenticator: Any) -> None:  # noqa: ANN401 - JupyterHub has no types
        self.instance = secrets.token_hex(8)
        self._authenticator = authenticator
        self._log = authenticator.log
        self._applied: dict[str, tuple[str, int]] = {}
        self._owners: Mapping[str, str] = {}
        self._mark = ""
        self._one_at_a_time = asyncio.Lock()
        self._stopping: dict[str, asyncio.Task[None]] = {}

    @property
    def _store(self) -> Any:  # noqa: ANN401 - the authenticator has no types
        return self._authenticator.identities.store

    # ---- the list ----

    async def listed(self, db: Any, after: str, limit: int) -> Page:  # noqa: ANN401 - a session of SQLAlchemy
        """Return a part of the hub's users, by name, with what was last applied to them.

        Args:
            db: The hub's database.
            after: The last name of the part before; empty for the first part.
            limit: Most users of the part.
        """
        if not after:
            self._owners = await asyncio.to_thread(self._store.owners)
        rows = page_of(db, after, limit)
        users = []
        for row in rows:
            digest, then = self._applied.get(row.name, ("", 0))
            sub = self._owners.get(name_key(row.name))
            digest = digest if then == fingerprint(row) else ""
            users.append(row.listed(sub, digest))
        last = rows[-1].name if len(rows) == limit else None
        return Page(instance=self.instance, users=tuple(users), after=last)

    # ---- a batch ----

    async def apply(self, handler: Any, batch: Batch) -> Results:  # noqa: ANN401 - JupyterHub has no types
        """Apply what Keycloak says of some people; each of them is answered for.

        Args:
            handler: Of the request.
            batch: Of the people, and whether it is only to be said what would be.

        Raises:
            IdentityUnavailableError: The database of numbers does not answer; nobody was changed.
            KeycloakUnavailableError: The hub itself never heard of groups and roles; the same.
        """
        async with self._one_at_a_time:
            certain = await self._renew_directory(batch.directory)
            work = _Work(self, handler, dry_run=batch.dry_run, remember=certain)
            people = await work.sort(batch.people)
            for start in range(0, len(people), _TOGETHER):
                await work.apply(people[start : start + _TOGETHER])
            await work.end_all()
        order = {entry.sub: at for at, entry in enumerate(batch.people)}
        results = sorted(work.results, key=lambda each: order.get(each.sub, 0))
        return Results(instance=self.instance, people=tuple(results))

    async def _renew_directory(self, mark: str) -> bool:
        """Read groups and roles anew if the service knows others; say whether that is certain."""
        if not mark or mark == self._mark:
            return True
        keeper = self._authenticator.directory_keeper
        before = keeper.known
        if await keeper.renew() is before:
            return False
        self._mark = mark
        return True

    def note(self, row: Row, digest: str) -> None:
        """Remember what was applied to somebody."""
        self._applied[row.name] = (digest, fingerprint(row))

    async def stop_servers(
        self,
        handler: Any,  # noqa: ANN401 - JupyterHub has no types
        user: Any,  # noqa: ANN401 - JupyterHub has no types
        why: str,
        *,
        revoke_tokens: bool,
    ) -> int:
        """Stop somebody's servers; return how many are still there after a few seconds.

        It goes on behind the back of whoever asked: a job that ends slowly must not keep others
        from losing their rights.
        """
        task = self._stopping.get(user.name)
        if task is None or task.done():
            task = asyncio.create_task(
                end_sessions(handler, user, revoke_tokens=revoke_tokens, stop_servers=True, why=why)
            )
            self._stopping[user.name] = task
            task.add_done_callback(self._stopped)
        await asyncio.wait({task}, timeout=_STOP_SECONDS)
        return sum(spawner.active for spawner in user.spawners.values())

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping = {name: each for name, each in self._stopping.items() if each is not task}
        if not task.cancelled() and task.exception() is not None:
            self._log.error("Servers could not be stopped", exc_info=task.exception())


class _Work:
    """One batch."""

    def __init__(self, applier: Applier, handler: Any, *, dry_run: bool, remember: bool) -> None:  # noqa: ANN401 - JupyterHub has no types
        self.results: list[Result] = []
        self._ending: list[_Ending] = []
        self._applier = applier
        self._authenticator = applier._authenticator  # noqa: SLF001 - one module
        self._store = applier._store  # noqa: SLF001
        self._handler, self._db, self._log = handler, handler.db, handler.log
        self._groups = HubGroups(handler.db)
        self._roles = HubRoles(handler.db, handler.settings.get("config_role_names") or ())
        self._dry_run, self._remember = dry_run, remember

    # ---- who ----

    async def sort(self, entries: Sequence[Entry]) -> list[_Person]:
        """Return those who may go on; the others are answered for, or kept for :meth:`end_all`."""
        named: dict[str, tuple[Entry, PersonFacts, str]] = {}
        for entry in entries:
            if entry.facts is None:
                continue
            facts = entry.facts.facts()
            try:
                name = await self._authenticator.name_of(facts, by_token=False)
            except RefusedError as error:
                self._may_not(entry, names_there(self._db, [entry.name]), error.reason)
            else:
                named[entry.sub] = (entry, facts, name)
        subs = {entry.sub: entry for entry in entries}
        owners = await asyncio.to_thread(self._store.owners, list(subs))
        there = names_there(self._db, {name for _, _, name in named.values()} | set(owners))
        owned: dict[str, set[str]] = {sub: set() for sub in subs}
        for name in there:
            if name_key(name) in owners:
                owned[owners[name_key(name)]].add(name)
        for sub, entry in subs.items():
            if entry.facts is None:
                self._may_not(entry, owned[sub], "Keycloak does not know them any more")
            elif sub in named:
                name = named[sub][2]
                for old in owned[sub] - {name}:
                    self._ending.append(_Ending(entry, old, f"they are {shown(name)} now"))
                if name not in there and not owned[sub]:
                    self._say(entry, name, "unknown")
        return await self._models({sub: each for sub, each in named.items() if each[2] in there})

    async def _models(self, wanted: Mapping[str, tuple[Entry, PersonFacts, str]]) -> list[_Person]:
        """Return who may go on, with the hub's model of them; numbers are asked for at once."""
        if not wanted:
            return []
        directory = await self._authenticator.directory_keeper.directory()
        if directory is None:
            raise KeycloakUnavailableError("the hub itself cannot read groups from Keycloak now")
        numbers = await asyncio.to_thread(
            self._authenticator.identities.resolve_all,
            [facts for _, facts, _ in wanted.values() if facts.enabled],
            directory,
            {sub: name for sub, (_, _, name) in wanted.items()},
        )
        people = []
        pause = time.monotonic() + _WRITING_SECONDS
        for sub, (entry, facts, name) in wanted.items():
            if time.monotonic() > pause:
                await asyncio.sleep(0)
                pause = time.monotonic() + _WRITING_SECONDS
            try:
                model = await self._authenticator.auth_model_of(
                    facts, tokens=None, identity=numbers.get(sub)
                )
            except RefusedError as error:
                self._may_not(entry, {name}, error.reason)
            except IdentityUnavailableError:
                raise
            except IdentityError as error:
                self._say(entry, name, "failed", str(error))
            else:
                people.append(_Person(entry, name, model))
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
