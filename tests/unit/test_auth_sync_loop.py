"""The loop of the sync service, with a Keycloak and a hub of a few lines."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from qhub_auth.errors import KeycloakUnavailableError
from qhub_auth.keycloak.claims import full_paths
from qhub_auth.keycloak.composites import Composites
from qhub_auth.keycloak.events import AdminEvent
from qhub_auth.keycloak.representations import Account, GroupRecord, RoleKey
from qhub_auth.keycloak.snapshot import Member, Realm
from qhub_auth.sync import syncing
from qhub_auth.sync.bodies import Entry, Result, Results
from qhub_auth.sync.hub_door import HubUnavailableError
from qhub_auth.sync.pacing import Rhythm
from qhub_auth.sync.reconciling import HubUser, Limits
from qhub_auth.sync.state import SyncState
from qhub_auth.sync.syncing import Syncing


class Store:
    """What the database keeps."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def cursor(self, name: str) -> str | None:
        return self.kept.get(name)

    def set_cursor(self, name: str, value: str) -> None:
        self.kept[name] = value


class Keycloak:
    """People, groups, and events of what is done to them."""

    def __init__(self) -> None:
        self.groups = {path: GroupRecord(f"id{path}", path) for path in ("/a", "/a/b", "/d")}
        self.people: dict[str, Member] = {}
        self.listed: Collection[str] | None = None
        self.events: list[AdminEvent] = []
        self.down = False
        self.calls = self.read = 0
        self.reading: asyncio.Event | None = None
        self.kept = True

    @property
    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def put(self, sub: str, *paths: str, enabled: bool = True, quiet: bool = False) -> None:
        mine = frozenset(self.groups[path].id for path in paths)
        self.people[sub] = Member(Account(sub, f"name-{sub}", enabled=enabled), mine)
        if not quiet:
            self.happen("USER", f"users/{sub}")

    def delete(self, sub: str) -> None:
        del self.people[sub]
        self.happen("USER", f"users/{sub}")

    def happen(self, resource: str, path: str) -> None:
        self.events.append(AdminEvent(str(len(self.events)), self.now_ms, resource, "UPDATE", path))

    def _ask(self) -> None:
        self.calls += 1
        if self.down:
            raise KeycloakUnavailableError("no answer")

    async def client_uuid(self) -> str:
        self._ask()
        return "uuid"

    async def keeps_events(self) -> bool:
        self._ask()
        return self.kept

    async def realm(self, *, fresh: bool = False) -> Realm:
        self._ask()
        return Realm({each.id: each for each in self.groups.values()}, {}, Composites("hub"))

    async def everybody(self) -> AsyncIterator[list[Account]]:
        self._ask()
        people = dict(self.people)
        if self.reading is not None:
            await self.reading.wait()
        yield [
            each.account
            for sub, each in people.items()
            if self.listed is None or sub in self.listed
        ]

    async def all_members(self, group_id: str) -> frozenset[str]:
        self._ask()
        return frozenset(sub for sub, each in self.people.items() if group_id in each.groups)

    async def role_members(self, role: RoleKey) -> frozenset[str]:
        raise AssertionError

    async def member(self, sub: str) -> Member | None:
        self._ask()
        self.read += 1
        return self.people.get(sub)

    async def has_path(self, path: str) -> bool:
        self._ask()
        return path in self.groups

    async def admin_events(
        self, since_ms: int, *, resources: Sequence[str] = ()
    ) -> AsyncIterator[list[AdminEvent]]:
        self._ask()
        yield [each for each in reversed(self.events) if each.time_ms >= since_ms]


class Hub:
    """Users with groups; those of `servers` have servers that do not stop at once."""

    def __init__(self) -> None:
        self.groups: dict[str, frozenset[str]] = {}
        self.digests: dict[str, str] = {}
        self.servers: set[str] = set()
        self.ended: set[str] = set()
        self.sent: list[Entry] = []
        self.down = False
        self.calls = 0
        self.instance = "first"

    def _ask(self) -> None:
        self.calls += 1
        if self.down:
            raise HubUnavailableError("no answer")

    async def hello(self) -> None:
        self._ask()

    async def users(self) -> AsyncIterator[list[HubUser]]:
        self._ask()
        yield [
            HubUser(f"name-{sub}", sub, groups=groups, digest=self.digests.get(sub, ""))
            for sub, groups in self.groups.items()
        ]

    async def send(
        self, entries: Sequence[Entry], *, directory: str, dry_run: bool = False
    ) -> Results:
        self._ask()
        return Results(instance=self.instance, people=tuple(map(self._one, entries)))

    def _one(self, entry: Entry) -> Result:
        self.sent.append(entry)
        if entry.sub not in self.groups:
            return Result(sub=entry.sub, state="unknown")
        self.digests[entry.sub] = entry.digest
        name = f"name-{entry.sub}"
        if entry.facts is None or not entry.facts.enabled:
            self.groups[entry.sub] = frozenset()
            self.ended.add(entry.sub)
            if entry.stop_servers:
                self.servers.discard(entry.sub)
            left = int(entry.sub in self.servers)
            return Result(sub=entry.sub, name=name, state="ended", servers=left)
        self.groups[entry.sub] = entry.facts.facts().all_groups
        self.ended.discard(entry.sub)
        groups = tuple(self.groups[entry.sub])
        return Result(sub=entry.sub, name=name, state="applied", groups=groups)


class World:
    """All of it."""

    def __init__(self, people: int = 10, **rhythm: float) -> None:
        self.keycloak, self.hub, self.store = Keycloak(), Hub(), Store()
        self.rhythm = Rhythm(**{"poll": 0.0, "full": 1e6, **rhythm})
        for number in range(people):
            self.keycloak.put(f"s{number}", "/a/b", quiet=True)
            self.hub.groups[f"s{number}"] = frozenset()
        self.start()

    def start(self) -> None:
        self.syncing = Syncing(
            self.keycloak,  # type: ignore[arg-type]
            self.hub,  # type: ignore[arg-type]
            SyncState(self.store, "realm"),
            known=lambda subs: [sub for sub in subs if sub in self.hub.groups],
            rhythm=self.rhythm,
            limits=Limits(),
            log=logging.getLogger("test"),
        )

    async def settle(self, steps: int = 12) -> None:
        """Let it do what is due, and what comes of that."""
        for _ in range(steps):
            for backoff in (self.syncing.keycloak, self.syncing.lists, self.syncing.at_hub):
                backoff.until = 0.0
            await self.syncing.step()
            reading = self.syncing._reading
            if reading is not None and self.keycloak.reading is None:
                await asyncio.wait({reading})

    async def restart(self) -> None:
        """Begin anew with what was kept, as after kill -9."""
        if self.syncing._reading is not None:
            self.syncing._reading.cancel()
            await asyncio.wait({self.syncing._reading})
        self.start()
        self.syncing.follower.cursor = self.syncing._saved = self.syncing.state.cursor()
        self.syncing.outbox.ending = self.syncing.state.ending()


AB = frozenset({"/a", "/a/b"})


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_HEARTBEAT_SECONDS", 0.0)


async def test_everything_then_nothing() -> None:
    """At first everybody is told; when nothing changes nobody is, and nobody is read."""
    world = World()
    await world.settle()
    assert set(world.hub.groups.values()) == {AB}
    sent, read = len(world.hub.sent), world.keycloak.read
    assert sent == 10
    await world.restart()
    await world.settle()
    assert (len(world.hub.sent), world.keycloak.read) == (sent, read)


async def test_one_change() -> None:
    """An event costs one person read and one told."""
    world = World()
    await world.settle()
    read, sent = world.keycloak.read, len(world.hub.sent)
    world.keycloak.put("s3", "/d")
    await world.settle(2)
    assert world.hub.groups["s3"] == {"/d"}
    assert (world.keycloak.read - read, len(world.hub.sent) - sent) == (1, 1)


async def test_unknown_people_cost_nothing() -> None:
    """Who never came to the hub is not read when they change; once they have come they are."""
    world = World()
    await world.settle()
    read = world.keycloak.read
    world.keycloak.put("stranger", "/d")
    await world.settle(2)
    assert world.keycloak.read == read
    world.hub.groups["stranger"] = frozenset({"/d"})
    world.keycloak.put("stranger", "/a")
    await world.settle(2)
    assert world.hub.groups["stranger"] == {"/a"}


async def test_renamed_group_asks_for_nobody() -> None:
    """A group's new name is told of all its members, of none else, and no person is read."""
    world = World()
    world.keycloak.put("s0", "/d", quiet=True)
    await world.settle()
    read, sent = world.keycloak.read, len(world.hub.sent)
    groups = world.keycloak.groups
    groups["/x"], groups["/x/b"] = (
        replace(groups.pop("/a"), path="/x"),
        replace(groups.pop("/a/b"), path="/x/b"),
    )
    world.keycloak.happen("GROUP", "groups/id/a")
    await world.settle(3)
    assert world.hub.groups["s1"] == {"/x", "/x/b"}
    assert world.hub.groups["s0"] == {"/d"}
    assert (world.keycloak.read - read, len(world.hub.sent) - sent) == (0, 9)


async def test_group_list_that_lacks_some() -> None:
    """A list without groups that are there takes them from nobody."""
    world = World()
    await world.settle()
    hidden = world.keycloak.groups.pop("/a/b")
    real = world.keycloak.has_path
    world.keycloak.has_path = lambda path: _true()  # type: ignore[method-assign]
    world.keycloak.happen("GROUP", "groups/id/a")
    await world.settle(3)
    assert world.syncing.keycloak.failures
    assert world.hub.groups["s1"] == AB
    world.keycloak.groups["/a/b"] = hidden
    world.keycloak.has_path = real  # type: ignore[method-assign]
    await world.settle(3)
    assert world.hub.groups["s1"] == AB
    assert not world.syncing.keycloak.failures


async def _true() -> bool:
    return True


async def test_keycloak_down() -> None:
    """While Keycloak does not answer nothing is taken; what happened just before and meanwhile is done afterwards."""
    world = World()
    await world.settle()
    world.keycloak.put("s1", "/d")
    world.keycloak.down = True
    await world.settle(5)
    assert world.hub.groups["s1"] == AB
    assert world.syncing.keycloak.failures
    world.keycloak.put("s2", "/d")
    world.keycloak.down = False
    await world.settle(3)
    assert world.hub.groups["s1"] == world.hub.groups["s2"] == {"/d"}


async def test_down_at_the_start() -> None:
    """A service that starts before Keycloak and hub waits for both."""
    world = World()
    world.keycloak.down = world.hub.down = True
    await world.settle(5)
    world.keycloak.down = False
    await world.settle(5)
    world.hub.down = False
    await world.settle()
    assert world.hub.groups["s1"] == AB


async def test_hub_down_keeps_the_place() -> None:
    """What the hub was not told is not counted as done: also a service that is killed then tells it."""
    world = World()
    await world.settle()
    world.hub.down = True
    world.keycloak.put("s1", "/d")
    await world.settle(4)
    kept = world.store.kept["group-sync:cursor"]
    await world.restart()
    assert world.store.kept["group-sync:cursor"] == kept
    world.keycloak.reading = asyncio.Event()  # so that it is the event that does it
    world.hub.down = False
    await world.settle(3)
    assert world.hub.groups["s1"] == {"/d"}
    world.keycloak.reading.set()
    await world.restart()


async def test_what_happens_while_everything_is_read() -> None:
    """A change during a long reading counts at once, and what was read before it does not undo it."""
    world = World()
    await world.settle()
    world.keycloak.reading = asyncio.Event()
    world.syncing.want_full("test")
    await world.settle(2)
    world.keycloak.put("s1", "/d")
    world.keycloak.delete("s2")
    await world.settle(2)
    assert world.hub.groups["s1"] == {"/d"}
    assert world.hub.groups["s2"] == frozenset()
    release, world.keycloak.reading = world.keycloak.reading, None
    release.set()
    await world.settle()
    assert world.hub.groups["s1"] == {"/d"}
    assert world.hub.groups["s2"] == frozenset()
    assert world.syncing.last_full


async def test_empty_list_is_held_and_confirmed() -> None:
    """An empty list removes nobody until an administrator says so; one that comes back is forgotten."""
    world = World(30)
    await world.settle()
    world.keycloak.listed = ()
    world.syncing.want_full("test")
    await world.settle()
    assert not world.hub.ended
    held = world.syncing.state.held()
    assert held is not None
    assert "30 of 30 people are missing" in held["what"]
    world.keycloak.put("s1", "/d")  # events go on
    world.keycloak.happen("GROUP", "groups/id/a")
    await world.settle(3)
    assert world.hub.groups["s1"] == {"/d"}
    assert not world.hub.ended
    world.keycloak.listed = None
    world.syncing.want_full("test")
    await world.settle()
    assert world.syncing.state.held() is None
    world.keycloak.listed = ()
    world.syncing.want_full("test")
    await world.settle()
    assert not world.syncing.state.confirm("another")
    assert world.syncing.state.confirm(world.syncing.state.held()["id"])
    await world.settle()  # it is seen by itself
    assert len(world.hub.ended) == 30
    assert world.syncing.state.held() is None
    assert world.syncing.state.confirmed() == frozenset()


async def test_few_missing_are_asked_for() -> None:
    """Whom a list lacks is asked for: who is there stays, who is not has gone."""
    world = World(30)
    await world.settle()
    world.keycloak.listed = [f"s{number}" for number in range(27)]
    del world.keycloak.people["s29"]
    world.syncing.want_full("test")
    await world.settle()
    assert world.hub.ended == {"s29"}
    assert world.hub.groups["s28"] == AB


async def test_hub_started_anew() -> None:
    """A hub that was started anew has everything compared."""
    world = World()
    await world.settle()
    done = world.syncing.last_full
    world.hub.instance = "second"
    world.hub.digests.clear()
    world.hub.groups["s1"] = frozenset({"/old"})
    await world.settle()
    assert world.syncing.last_full > done
    assert world.hub.groups["s1"] == AB


async def test_events_thrown_away() -> None:
    """Where Keycloak has thrown events away everything is compared."""
    world = World()
    world.keycloak.happen("COMPONENT", "components/x")
    await world.settle()
    done = world.syncing.last_full
    world.keycloak.events.clear()
    world.keycloak.put("s1", "/d", quiet=True)
    await world.settle()
    assert world.syncing.last_full > done
    assert world.hub.groups["s1"] == {"/d"}


async def test_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers go on for the grace time, over a restart too; then they are stopped, unless the person is back."""
    world = World(grace=100.0)
    await world.settle()
    for sub in ("s1", "s2"):
        world.hub.servers.add(sub)
        world.keycloak.put(sub, "/a/b", enabled=False)
    await world.settle(2)
    assert world.hub.ended == {"s1", "s2"}
    assert world.hub.servers == {"s1", "s2"}
    world.keycloak.put("s2", "/a/b")
    await world.settle(2)
    await world.restart()
    await world.settle()
    assert world.hub.servers == {"s1", "s2"}
    later = time.time() + 200
    monkeypatch.setattr(syncing.time, "time", lambda: later)
    await world.settle(3)
    assert world.hub.servers == {"s2"}
    assert not world.syncing.outbox.ending


async def test_run_ends(caplog: Any) -> None:
    """It ends when it is told to, in the middle of a reading too."""
    world = World()
    world.keycloak.reading = asyncio.Event()
    stopping = asyncio.Event()
    task = asyncio.create_task(world.syncing.run(stopping))
    while world.syncing._reading is None:
        await asyncio.sleep(0)
    stopping.set()
    await asyncio.wait_for(task, 5)


async def test_no_events_kept(caplog: Any) -> None:
    """Where Keycloak keeps no events the log says so."""
    world = World()
    world.keycloak.kept = False
    with caplog.at_level(logging.WARNING):
        await world.settle()
    assert "Keycloak keeps no admin events" in caplog.text


async def test_groups_of_the_hub_that_are_no_paths() -> None:
    """A group at the hub that could never be one of Keycloak's is taken, and disturbs nothing."""
    world = World()
    world.hub.groups["s1"] = frozenset({"/a//b", "/", "plain"})
    await world.settle()
    assert world.hub.groups["s1"] == AB


async def test_broken_lists_do_not_slow_events_down() -> None:
    """While lists cannot be read, what events say counts as soon as ever."""
    world = World()
    await world.settle()

    async def broken(group_id: str) -> frozenset[str]:
        raise KeycloakUnavailableError("half a list")

    world.keycloak.all_members = broken  # type: ignore[method-assign]
    world.syncing.want_full("test")
    await world.settle()
    assert world.syncing.lists.failures
    assert not world.syncing.keycloak.failures
    assert world.syncing.status()["keycloak"] == "half a list"
    world.keycloak.put("s1", "/d")
    await world.settle(2)
    assert world.hub.groups["s1"] == {"/d"}


async def test_broken_people_do_not_keep_lists_from_being_compared() -> None:
    """While somebody whom an event names cannot be read, everybody else is compared all the same."""
    world = World()
    await world.settle()

    async def broken(sub: str) -> Member | None:
        raise KeycloakUnavailableError("no person")

    world.keycloak.member = broken  # type: ignore[method-assign]
    world.keycloak.put("s1", "/a/b", "/d")  # nobody loses anything, so nobody is asked for again
    await world.settle(2)
    assert world.syncing.keycloak.failures
    world.hub.groups["s2"], world.hub.digests["s2"] = frozenset(), "of another day"
    world.syncing.want_full("test")
    await world.settle()
    assert world.syncing.keycloak.failures
    assert world.hub.groups["s2"] == AB


@pytest.mark.parametrize(
    "odd",
    [{"uid": 5000020001}, {"home": "/home/" + "x" * 1100}, {"email": "x" * 2000}, {"name": "n\nn"}],
)
async def test_one_odd_value_stops_nobody_else(odd: dict[str, Any], caplog: Any) -> None:
    """Who has a value that the hub would not take is told of once; everybody else follows, and they do too once it is mended."""
    world = World()
    await world.settle()
    good = world.keycloak.people["s3"]
    bad = replace(good, account=replace(good.account, **odd))
    world.keycloak.people["s3"] = bad
    world.keycloak.happen("USER", "users/s3")
    world.keycloak.put("s4", "/d")
    await world.settle(2)
    world.syncing.want_full("test")
    await world.settle()
    assert world.hub.groups["s4"] == {"/d"}
    assert world.syncing.counts["failed"] == 2
    assert not world.syncing.at_hub.failures
    assert len(world.syncing.outbox) == 0
    assert caplog.text.count("could not change 'name-s3'") == 1
    assert next(iter(odd)) in caplog.text
    report: list[Result] = []
    world.start()
    await world.syncing.once(report.append)
    assert [each.state for each in report if each.sub == "s3"] == ["failed"]
    world.keycloak.people["s3"] = replace(bad, account=replace(bad.account, enabled=False))
    world.keycloak.happen("USER", "users/s3")
    await world.settle(3)
    assert "s3" in world.hub.ended
    world.keycloak.put("s3", "/d")
    await world.settle(3)
    assert world.hub.groups["s3"] == {"/d"}


async def test_whoever_is_new_is_told_to_the_commands() -> None:
    """Also people whom the hub does not know lead to the commands after changes: they may need an account."""
    world = World()
    await world.settle()
    calls: list[str] = []
    world.syncing.changed = lambda: calls.append("changed")
    await world.settle(2)
    assert not calls
    world.keycloak.put("stranger", "/d")
    await world.settle(2)
    assert calls


@pytest.mark.parametrize(
    "path", ["/new\nline", "/no\u00a0break", "/zero\u200bwidth", "/" + "x" * 300]
)
async def test_groups_that_count_for_nothing(path: str, caplog: Any) -> None:
    """A group that log-in would not take is none for group sync either: it is told of once, and nothing comes and goes."""
    assert full_paths([path])[0] == frozenset()
    world = World()
    world.keycloak.groups[path] = GroupRecord("odd", path)
    world.keycloak.put("s1", "/d", path, quiet=True)
    world.hub.groups["s1"] = frozenset({path})  # of another day
    for _ in range(2):
        await world.settle()
        world.syncing.want_full("test")
    assert world.hub.groups["s1"] == {"/d"}
    assert not world.syncing.lists.failures
    assert caplog.text.count("counts for nothing") == 1
