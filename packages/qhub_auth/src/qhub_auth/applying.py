"""The hub's side of the sync: one batch after the other, and what was applied to whom."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from qhub_auth.batches import Work
from qhub_auth.hub_users import Row, fingerprint, page_of
from qhub_auth.numbering import name_key
from qhub_auth.sessions import end_sessions
from qhub_auth.sync_bodies import Batch, Page, Results

__all__ = ["Applier"]

# So many people are prepared together: their turns are taken, their auth_state is decrypted.
_TOGETHER = 20
# How long an answer waits for servers to stop, in seconds.
_STOP_SECONDS = 2.0


class Applier:
    """Applies batches, one after the other, and remembers what it applied to whom.

    Args:
        authenticator: The hub's `KeycloakAuthenticator`.

    Attributes:
        authenticator: The same.
        instance: Another one after each start of the hub: what was applied is then not known.
    """

    def __init__(self, authenticator: Any) -> None:  # noqa: ANN401 - JupyterHub has no types
        self.instance = secrets.token_hex(8)
        self.authenticator = authenticator
        self._log = authenticator.log
        self._applied: dict[str, tuple[str, int]] = {}
        self._owners: Mapping[str, str] = {}
        self._mark = ""
        self._one_at_a_time = asyncio.Lock()
        self._stopping: dict[str, asyncio.Task[None]] = {}

    @property
    def _store(self) -> Any:  # noqa: ANN401 - the authenticator has no types
        return self.authenticator.identities.store

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
            work = Work(self, handler, dry_run=batch.dry_run, remember=certain)
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
        keeper = self.authenticator.directory_keeper
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
