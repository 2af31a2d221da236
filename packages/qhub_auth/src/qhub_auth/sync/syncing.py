"""Keeping the hub as Keycloak says: follow events, compare everything now and then, tell the hub.

One loop does it all, so that nothing it knows changes under its hands; only the reading of
everything goes on beside it. What happens during that reading is read again one by one and wins.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qhub_auth.errors import (
    KeycloakUnavailableError,
    QHubAuthError,
    shown,
)
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.events import Cursor
from qhub_auth.keycloak.snapshot import Member, Realm, Snapshot
from qhub_auth.sync.bodies import Result
from qhub_auth.sync.comparing import Full, Since, hub_users, put_together, read_full, removed_groups
from qhub_auth.sync.following import Follower
from qhub_auth.sync.hub_door import HubDoor, HubRefusedError, HubUnavailableError
from qhub_auth.sync.outbox import Outbox
from qhub_auth.sync.pacing import Backoff, Rhythm
from qhub_auth.sync.reading import read_people
from qhub_auth.sync.reconciling import GONE, Change, Held, HubUser, Limits, plan
from qhub_auth.sync.state import SyncState

__all__ = ["Syncing"]

# More people than this to be asked for one by one, and it is quicker to compare everything.
_MANY_PEOPLE = 500
# How often the hub is asked whether it was started anew, in seconds.
_HEARTBEAT_SECONDS = 20.0
# People told of at once: the hub takes about a second for them.
_BATCH = 100
# Of so many odd things at once the log tells; `qhub-identity audit` of all.
_ODD_TOLD = 8


class Syncing:
    """The loop.

    Args:
        admin: Keycloak.
        hub: The hub.
        state: What is kept over a restart.
        known: Says which of some subs the hub may know; it blocks.
        rhythm: When things are done.
        limits: How much a list may take away.
        dry_run: Only ask the hub what would be; nothing is kept.
        log: For administrators.
    """

    def __init__(
        self,
        admin: KeycloakAdmin,
        hub: HubDoor,
        state: SyncState,
        *,
        known: Callable[[Collection[str]], Collection[str]],
        rhythm: Rhythm,
        limits: Limits,
        dry_run: bool = False,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self.admin, self.hub, self.state = admin, hub, state
        self.rhythm, self.limits, self.dry_run, self.log = rhythm, limits, dry_run, log
        self.outbox = Outbox(grace_seconds=rhythm.grace)
        self.snapshot: Snapshot | None = None
        self.users: dict[str, HubUser] = {}
        self.held: Held | None = None
        self.last_success = self.last_full = 0.0
        self.full_seconds = 0.0
        self.events_kept: bool | None = None
        self.keycloak, self.lists, self.at_hub = Backoff(), Backoff(), Backoff()
        self.counts: Counter[str] = Counter()
        self.changed: Callable[[], None] = lambda: None
        self._known = known
        self._realm: Realm | None = None
        self.follower = Follower(admin, overlap=rhythm.overlap, outage=rhythm.outage)
        self._saved: Cursor | None = None
        self._since = Since()
        self._failed: dict[str, str] = {}
        self._odd: frozenset[str] = frozenset()
        self._reading: asyncio.Task[Full] | None = None
        self._full_due, self._full_why = 0.0, "the service has started"
        self._full_began = 0.0
        self._comparing = False
        self._poll_due = 0.0
        self._hub_due = 0.0
        self._instance = ""

    # ---- the loop ----

    async def run(self, stopping: asyncio.Event) -> None:
        """Go on until `stopping`; what was not told to the hub by then is done by the next run."""
        if not self.dry_run:
            self.follower.cursor = self._saved = await asyncio.to_thread(self.state.cursor)
            self.outbox.ending = await asyncio.to_thread(self.state.ending)
        try:
            while not stopping.is_set():
                await self.step()
                await _wait(stopping, self._pause())
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait({self._reading})

    def _pause(self) -> float:
        """Return how long there is nothing to do."""
        now = time.monotonic()
        waits = [max(self._poll_due, self.keycloak.until) - now]
        if self.outbox:
            waits.append(self.at_hub.until - now)
        if self._reading is not None:
            waits.append(0.1)
        return max(0.0, min(waits))

    async def step(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        # asked before the events are: one that fails each time keeps nobody from comparing
        may_read = self._reading is None and self._may_read()
        if now >= self._poll_due and self.keycloak.ready:
            self._poll_due = now + self.rhythm.poll
            await self._guarded(self.keycloak, self._follow())
        if may_read and now >= self._full_due:
            self._begin_full()
        if self._reading is not None and self._reading.done():
            await self._guarded(self.lists, self._finish_full())
        if self.at_hub.ready:
            await self._guarded(self.at_hub, self._tell_hub())

    def _may_read(self) -> bool:
        return self.keycloak.ready and self.lists.ready and self.at_hub.ready

    async def _guarded(self, backoff: Backoff, work: Coroutine[Any, Any, None]) -> None:
        """Await some work; what fails is tried again later, and told of once."""
        try:
            await work
        except HubUnavailableError as error:
            self._fail(self.at_hub, error)
        except HubRefusedError as error:
            self._fail(self.at_hub, error, logging.ERROR)
        except KeycloakUnavailableError as error:
            self._fail(backoff, error)
        except QHubAuthError as error:
            self._fail(backoff, error, logging.ERROR)
        except Exception as error:
            # A mistake of ours with one answer must not end the service for all others.
            self.log.exception("This should not happen")
            self._fail(backoff, error, logging.ERROR)
        else:
            if backoff.succeeded():
                self.log.info("It works again")

    def _fail(self, backoff: Backoff, error: Exception, level: int = logging.WARNING) -> None:
        said = backoff.why
        backoff.failed(str(error))
        if str(error) != said:
            self.log.log(level, "%s; trying again", error)

    def status(self) -> dict[str, Any]:
        """Return how it is, as plain data."""
        snapshot = self.snapshot or Snapshot()
        return {
            "last_success": self.last_success,
            "last_full": self.last_full,
            "full_seconds": self.full_seconds,
            "people": len(snapshot.people),
            "groups": len(snapshot.realm.groups),
            "users": len(self.users),
            "waiting": len(self.outbox),
            "events_kept": self.events_kept,
            "keycloak": self.keycloak.why or self.lists.why,
            "hub": self.at_hub.why,
            "keycloak_calls": self.admin.calls,
            "hub_calls": self.hub.calls,
            "counts": dict(self.counts),
        }

    async def once(self, listener: Callable[[Result], None]) -> None:
        """Compare everything and tell the hub, once.

        Args:
            listener: Hears what became, or would become, of each person.

        Raises:
            QHubAuthError: It could not be done as a whole.
        """
        self._reading = asyncio.create_task(self._read_full())
        await asyncio.wait({self._reading})
        await self._finish_full()
        while changes := self.outbox.next(_BATCH, time.time()):
            await self._send(changes, listener)

    def want_full(self, why: str, seconds: float = 0.0) -> None:
        """Compare everything, at the latest after some seconds."""
        due = time.monotonic() + seconds
        if due < self._full_due or not self._full_why:
            self._full_due, self._full_why = min(due, self._full_due), why

    # ---- following the events ----

    async def _follow(self) -> None:
        """Read what changed since the last time, and what that means for whom."""
        look = await self.follower.look()
        if look.everything:
            self.want_full(look.everything)
        if look.about.directory:
            await self._directory_changed()
        if look.about.people:
            await self._people_changed(look.about.people)
            self.changed()  # people whom the hub does not know may need an account, too
        self.follower.done(look)

    async def _directory_changed(self) -> None:
        """Read groups and roles again, and see for whom they make a difference."""
        realm = await self.admin.realm(fresh=True)
        before, self._realm, self._since.realm = self.snapshot, realm, realm
        if before is None:
            return  # everything is being read already
        self.users = await hub_users(self.hub)  # who logged in meanwhile is meant too
        snapshot = replace(before, realm=realm)
        missing = await removed_groups(self.admin, self.users, snapshot)
        self.snapshot = snapshot
        self._since.gone_groups |= missing
        held = {*self.held.people, *self.held.memberships} if self.held else set()
        users = [user for user in self.users.values() if user.sub and user.sub not in held]
        new = {user.sub for user in users if user.sub and user.sub not in before.people}
        if len(new) > _MANY_PEOPLE:
            self.want_full("groups changed, and many people are not known yet")
        else:
            await self._people_changed(new)
        # Memberships did not change, and of each group that is gone Keycloak said so itself.
        users = [user for user in users if user.sub and _differs(before, snapshot, user.sub)]
        self._post(plan(users, snapshot, certain=None).changes, urgent=True)

    async def _people_changed(self, subs: Collection[str]) -> None:
        """Read some people again, as far as the hub knows them."""
        if not subs:
            return
        named = {user.sub for user in self.users.values()}
        unknown = [sub for sub in subs if sub not in named]
        ours = set(subs) & named
        if self._reading is not None:
            ours = set(subs)  # who knows who will have logged in when it is read
        elif unknown:
            ours |= set(await asyncio.to_thread(self._known, unknown))
        members = await read_people(self.admin, ours)
        for sub in set(subs) - ours:
            self._drop(sub)
        if self._realm is None:
            self._realm = await self.admin.realm()
        for member in members.values():
            if member is not None and not self._has_groups(member):
                self._realm = self._since.realm = await self.admin.realm(fresh=True)
                break
        self._learn(members)
        self._since.people |= members
        users = [user for user in self.users.values() if user.sub in ours]
        users += [HubUser("", sub) for sub in ours - named]
        snapshot = Snapshot(
            self._realm, {sub: each for sub, each in members.items() if each is not None}
        )
        self._post(plan(users, snapshot, certain=None).changes, urgent=True)

    def _has_groups(self, member: Member) -> bool:
        return self._realm is not None and all(each in self._realm.groups for each in member.groups)

    def _drop(self, sub: str) -> None:
        """Forget somebody whom the hub does not know: it is not worth asking for them."""
        if self.snapshot is not None and sub in self.snapshot.people:
            people = {key: each for key, each in self.snapshot.people.items() if key != sub}
            self.snapshot = replace(self.snapshot, people=people)

    def _learn(self, members: Mapping[str, Member | None]) -> None:
        if self.snapshot is None or self._realm is None:
            return
        people = {**self.snapshot.people}
        for sub, member in members.items():
            if member is None:
                people.pop(sub, None)
            else:
                people[sub] = member
        self.snapshot = Snapshot(self._realm, people)

    def _post(self, changes: Iterable[Change], *, urgent: bool) -> None:
        for change in changes:
            self.outbox.put(change, urgent=urgent)

    # ---- everything ----

    def _begin_full(self) -> None:
        self.log.info("Comparing everything: %s", self._full_why)
        self._full_why, self._full_due = "", float("inf")
        self._full_began = time.monotonic()
        self._since = Since()
        self._reading = asyncio.create_task(self._read_full(), name="reading everything")

    async def _read_full(self) -> Full:
        confirmed = await asyncio.to_thread(self.state.confirmed)
        self.events_kept = await self.admin.keeps_events()
        return await read_full(self.admin, self.hub, confirmed=confirmed, limits=self.limits)

    async def _finish_full(self) -> None:
        """Put together what was read and heard of meanwhile, and see what is to be done."""
        task, self._reading = self._reading, None
        if task is None:
            return
        try:
            full = task.result()
        except BaseException:
            self.want_full("it did not work the last time")
            raise
        self.snapshot, self.users, found = put_together(full, self._since, self.limits)
        self._realm = self.snapshot.realm
        for user in self.users.values():
            facts = self.snapshot.facts(user.sub) if user.sub else None
            if user.sub in self.outbox.ending:
                digest = self.snapshot.realm.digest(facts) if facts is not None else GONE
                self.outbox.resume(Change(user.name, user.sub, facts, digest))
        self.outbox.forget_comparison()
        self._post(found.changes, urgent=False)
        self._comparing = bool(found.changes)
        if found.doubtful:
            self.want_full("somebody changed while everything was read", seconds=30.0)
        await self._hold(found.held, full.confirmed)
        self.last_full = time.time()
        self.full_seconds = time.monotonic() - self._full_began
        self.want_full("it is time", seconds=self.rhythm.full)
        self.changed()
        self._tell_odd(self.snapshot)
        self.log.info(
            "Compared everything in %.1f s: %d people and %d groups in Keycloak, %d users of the "
            "hub, %d of them to be changed",
            self.full_seconds,
            len(self.snapshot.people),
            len(self.snapshot.realm.groups),
            len(self.users),
            len(found.changes),
        )
        if self.events_kept is False:
            self.log.warning(
                "Keycloak keeps no admin events (Realm settings, Events, Admin events settings): "
                "changes are only seen every %.0f s",
                self.rhythm.full,
            )

    def _tell_odd(self, snapshot: Snapshot) -> None:
        """Say once of what Keycloak has that it counts for nothing."""
        before, self._odd = self._odd, frozenset(snapshot.odd())
        if new := sorted(self._odd - before):
            more = f" and {len(new) - _ODD_TOLD} more" if len(new) > _ODD_TOLD else ""
            self.log.warning("In Keycloak, to be mended: %s%s", "; ".join(new[:_ODD_TOLD]), more)

    async def _hold(self, held: Held | None, confirmed: Collection[str]) -> None:
        """Say what is not done, once, and keep it for an administrator."""
        before, self.held = self.held, held
        if self.dry_run:
            return
        if confirmed and held is None:
            await asyncio.to_thread(self.state.forget_confirmed)
        if held is not None and (before is None or before.id != held.id):
            self.log.error(
                "Held back: %s. Nobody is taken anything because of that, until the lists come "
                "back or an administrator says that it is meant: qhub-group-sync confirm %s",
                held,
                held.id,
            )
        elif held is None and before is not None:
            self.log.info("Nothing is held back any more")
        await asyncio.to_thread(self.state.set_held, held, time.time())

    # ---- telling the hub ----

    async def _tell_hub(self) -> None:
        """Send what waits, some people at a time; keep how far that brings us."""
        changes = self.outbox.next(_BATCH, time.time())
        if changes and self._realm is not None:
            await self._send(changes)
        elif time.monotonic() >= self._hub_due:
            await self.hub.hello()
            self._see_instance()
        else:
            return
        self._hub_due = time.monotonic() + _HEARTBEAT_SECONDS
        if self._comparing and not self.outbox:
            self._comparing = False
            self.log.info(
                "The hub is as Keycloak says, %.1f s after the comparison began",
                time.monotonic() - self._full_began,
            )
        if not self.dry_run:
            await self._keep()

    async def _send(
        self, changes: Sequence[Change], listener: Callable[[Result], None] | None = None
    ) -> None:
        now = time.time()
        entries, results = self.outbox.entries(changes, now)
        if entries:
            mark = self._realm.mark if self._realm is not None else ""
            answer = await self.hub.send(entries, directory=mark, dry_run=self.dry_run)
            results += answer.people
        self._take(changes, results, now)
        self._see_instance()
        if listener is not None:
            for result in results:
                listener(result)

    def _take(self, changes: Iterable[Change], results: Sequence[Result], now: float) -> None:
        """Note what the hub answered."""
        by_sub: dict[str, list[Result]] = {}
        for result in results:
            by_sub.setdefault(result.sub, []).append(result)
        if any(result.state in {"applied", "ended"} for result in results):
            self.changed()
        for change in changes:
            found = by_sub.get(change.sub, [])
            failed = self.outbox.answered(change, found, now)
            if failed:
                self.want_full("the hub could not change somebody", seconds=60.0)
            for result in found:
                self._note(change, result)

    def _note(self, change: Change, result: Result) -> None:
        self.counts[result.state] += 1
        if result.state in {"applied", "ended"} and (result.lost or result.gained or result.why):
            self.log.info(
                "%s%s %s: lost %s, gained %s%s",
                "(dry run) " if self.dry_run else "",
                result.name,
                result.state,
                ", ".join(result.lost) or "nothing",
                ", ".join(result.gained) or "nothing",
                f" ({result.why})" if result.why else "",
            )
        elif result.state == "failed":
            if self._failed.get(result.sub) != result.why:  # once, however often it is tried
                self.log.error("The hub could not change %s: %s", shown(result.name), result.why)
            self._failed[result.sub] = result.why
        if result.state != "failed":
            self._failed.pop(result.sub, None)
        if result.state in {"unknown", "failed"}:
            return
        user = HubUser(
            name=result.name,
            sub=result.sub,
            admin=result.admin,
            groups=frozenset(result.groups),
            roles=frozenset(result.roles),
            digest=change.digest,
        )
        self.users[user.name] = self._since.users[user.name] = user

    def _see_instance(self) -> None:
        if self.hub.instance != self._instance:
            if self._instance:
                self.want_full("the hub was started anew")
            self._instance = self.hub.instance

    async def _keep(self) -> None:
        """Keep how far everything is done, so that the next run begins there."""
        if self.outbox.urgent:
            return
        cursor = self.follower.cursor
        if cursor is not None and cursor != self._saved:
            await asyncio.to_thread(self.state.set_cursor, cursor)
            self._saved = cursor
        await asyncio.to_thread(self.state.set_ending, self.outbox.ending)
        confirmed = await asyncio.to_thread(self.state.confirmed) if self.held else ()
        if confirmed:
            self.want_full("an administrator has confirmed what is held back")
        if self.keycloak.failures == 0 and self.lists.failures == 0:
            self.last_success = time.time()


def _differs(before: Snapshot, after: Snapshot, sub: str) -> bool:
    """Whether groups or roles became something else for a person."""
    old, new = before.facts(sub), after.facts(sub)
    if old is None or new is None:
        return False
    return before.realm.digest(old) != after.realm.digest(new)


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
