"""The hub's side of the group sync, on the hub's own tables: who gets what, who loses it, and nothing else changes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import crypto, orm
from jupyterhub.roles import create_role, get_default_roles
from traitlets.config import Config

from qhub_auth.applying import Applier
from qhub_auth.authenticator import KeycloakAuthenticator
from qhub_auth.directory import ClientRole, Directory, Group, PersonFacts
from qhub_auth.errors import IdentityUnavailableError, KeycloakUnavailableError
from qhub_auth.reconciling import GONE
from qhub_auth.store import PersonWanted
from qhub_auth.sync_bodies import Batch, Entry, Facts, Result

GROUPS = {path: Group(f"id{path}", path, {"share": ("rw",)}) for path in ("/a", "/a/b", "/d")}
ROLES = {
    "reader": ClientRole("reader", ("read:groups",)),
    "lister": ClientRole("lister", ("list:users",)),
}


class User:
    """The hub's own object of a user, with so many servers as there still are."""

    def __init__(self, world: World, name: str, row: Any) -> None:
        self.world, self.name, self.orm_user = world, name, row

    @property
    def spawners(self) -> dict[str, Any]:
        left = self.world.active.get(self.name, 0)
        return {str(number): SimpleNamespace(active=True) for number in range(left)}


class World:
    """A hub's database with some users, and an authenticator with a directory."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        config = Config()
        config.Keycloak.update(
            {"issuer": "http://k/realms/r", "client_id": "hub", "client_secret": "x"}
        )
        config.Identities.database_url = f"sqlite:///{folder}/identity.sqlite"
        config.Identities.host_accounts = "ignore"
        config.KeycloakAuthenticator.update({"allow_all": True, **settings})
        self.authenticator = KeycloakAuthenticator(config=config)
        keeper = self.authenticator.directory_keeper
        keeper._kept, keeper._next = Directory(GROUPS, ROLES), float("inf")
        self.db = orm.new_session_factory("sqlite:///:memory:")()
        for role in get_default_roles():
            create_role(self.db, role)
        self.ended: list[tuple[str, bool, bool]] = []
        self.active: dict[str, int] = {}
        self.handler = SimpleNamespace(
            db=self.db, settings={}, log=logging.getLogger("hub"), find_user=self.find_user
        )
        self.applier = Applier(self.authenticator)

    def add(self, *names: str, sub: str | None = None) -> None:
        role = orm.Role.find(self.db, "user")
        for name in names:
            self.db.add(orm.User(name=name, roles=[role]))
            if sub != "":
                self.authenticator.identities.store.persons(
                    [PersonWanted(sub or f"s-{name}", name)]
                )
        self.db.commit()

    def row(self, name: str) -> Any:
        return orm.User.find(self.db, name)

    def find_user(self, name: str) -> Any:
        row = self.row(name)
        return None if row is None else User(self, name, row)

    def has(self, name: str) -> tuple[set[str], set[str]]:
        row = self.row(name)
        return {group.name for group in row.groups}, {role.name for role in row.roles}

    async def send(self, *entries: Entry, dry_run: bool = False) -> list[Result]:
        batch = Batch(people=entries, dry_run=dry_run)
        return list((await self.applier.apply(self.handler, batch)).people)

    async def state(self, name: str) -> dict[str, Any]:
        encrypted = self.row(name).encrypted_auth_state
        return {} if encrypted is None else dict(await crypto.decrypt(encrypted))

    async def digest(self, name: str) -> str:
        page = await self.applier.listed(self.db, "", 1000)
        return next(user.digest for user in page.users if user.name == name)


def entry(
    name: str, *groups: str, roles: set[str] | None = None, digest: str = "d", **more: Any
) -> Entry:
    facts = PersonFacts(
        more.pop("sub", f"s-{name}"),
        name,
        groups=frozenset(groups),
        roles=frozenset(roles or ()),
        **more,
    )
    return Entry(sub=facts.sub, facts=Facts.of(facts), digest=digest)


@contextmanager
def _world(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[World]:
    keeper = crypto.CryptKeeper.instance()
    before = keeper.keys
    keeper.keys = [secrets.token_bytes(32)]
    world = World(folder, **settings)

    async def end(
        handler: Any, user: Any, *, revoke_tokens: bool, stop_servers: bool, why: str
    ) -> None:
        world.ended.append((user.name, revoke_tokens, stop_servers))
        if stop_servers:
            world.active[user.name] = 0

    for module in ("applying", "batches"):
        monkeypatch.setattr(f"qhub_auth.{module}.end_sessions", end)
    try:
        yield world
    finally:
        keeper.keys = before
        world.authenticator.identities.store.close()
        engine = world.db.get_bind()
        world.db.close()
        engine.dispose()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with _world(tmp_path, monkeypatch) as made:
        yield made


async def test_applied_once(world: World) -> None:
    """Groups with those above, roles, numbers and folders come at once; the same again changes nothing."""
    world.add("alice")
    first = (await world.send(entry("alice", "/a/b", roles={"reader", "unheard-of"})))[0]
    assert first.state == "applied"
    assert set(first.gained) == {"/a", "/a/b", "reader"}
    assert world.has("alice") == ({"/a", "/a/b"}, {"user", "reader"})
    contract = (await world.state("alice"))["qhub"]
    assert [each["path"] for each in contract["groups"]] == ["/a", "/a/b"]
    blob = world.row("alice").encrypted_auth_state
    again = (await world.send(entry("alice", "/a/b", roles={"reader", "unheard-of"})))[0]
    assert again.state == "unchanged"
    assert world.row("alice").encrypted_auth_state == blob


async def test_roles_are_marked_and_cleared(world: World) -> None:
    """A role that came from here is marked as such; when nobody has it any more, and no group, it is gone."""
    world.add("alice", "bob")
    await world.send(entry("alice", roles={"reader"}), entry("bob", roles={"reader"}))
    table = orm.Base.metadata.tables["user_role_map"]
    role = orm.Role.find(world.db, "reader")
    assert role.managed_by_auth
    marks = world.db.execute(table.select().where(table.c.role_id == role.id)).all()
    assert [mark.managed_by_auth for mark in marks] == [True, True]
    await world.send(entry("alice"))
    assert orm.Role.find(world.db, "reader") is not None
    await world.send(entry("bob"))
    assert orm.Role.find(world.db, "reader") is None
    assert orm.Role.find(world.db, "user") is not None


async def test_other_roles_scopes_change(world: World) -> None:
    """A role's scopes are what Keycloak says now."""
    world.add("alice")
    await world.send(entry("alice", roles={"reader"}))
    other = {**ROLES, "reader": ClientRole("reader", ("read:users",))}
    world.authenticator.directory_keeper._kept = Directory(GROUPS, other)
    await world.send(entry("alice", roles={"reader"}))
    assert orm.Role.find(world.db, "reader").scopes == ["read:users"]


async def test_tokens_in_auth_state_stay(world: World) -> None:
    """What a log-in kept is still there; only the contract is new."""
    world.add("alice")
    world.row("alice").encrypted_auth_state = await crypto.encrypt(
        {"refresh_token": "r", "qhub": {"old": 1}}
    )
    world.db.commit()
    await world.send(entry("alice", "/d"))
    state = await world.state("alice")
    assert state["refresh_token"] == "r"
    assert state["qhub"]["version"] == 1


async def test_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes into an administrators' group administers, with the hub's own role; who leaves it does not."""
    with _world(tmp_path, monkeypatch, admin_groups={"/d"}) as world:
        world.add("alice")
        assert (await world.send(entry("alice", "/d")))[0].admin
        assert world.row("alice").admin
        assert "admin" in world.has("alice")[1]
        await world.send(entry("alice", "/a"))
        assert not world.row("alice").admin
        assert world.has("alice")[1] == {"user"}


@pytest.mark.parametrize("how", ["gone", "disabled", "not allowed"])
async def test_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Gone, disabled or not allowed: sessions end, rights are taken, the record stays; it is told once."""
    with _world(tmp_path, monkeypatch, allow_all=False, allowed_groups={"/a"}) as world:
        world.add("alice")
        await world.send(entry("alice", "/a", roles={"reader"}))
        world.active["alice"] = 1
        ends = {
            "gone": Entry(sub="s-alice", name="alice", digest=GONE),
            "disabled": entry("alice", "/a", enabled=False),
            "not allowed": entry("alice", "/d"),
        }[how]
        result = (await world.send(ends))[0]
        assert (result.state, result.servers) == ("ended", 0)
        assert result.why
        assert set(result.lost) == {"/a", "reader"}
        assert world.has("alice") == (set(), {"user"})
        assert world.row("alice").encrypted_auth_state is None
        assert world.ended == [("alice", True, False), ("alice", True, True)]
        assert await world.digest("alice") == ends.digest
        world.active["alice"] = 0
        await world.send(ends)
        assert len(world.ended) == 2
        back = (await world.send(entry("alice", "/a", roles={"reader"})))[0]
        assert back.state == "applied"
        assert world.has("alice") == ({"/a"}, {"user", "reader"})


async def test_grace(world: World) -> None:
    """With a grace time the sessions end and the servers do not, until it is said."""
    world.add("alice")
    world.active["alice"] = 2
    waiting = entry("alice", enabled=False)
    result = (await world.send(waiting.model_copy(update={"stop_servers": False})))[0]
    assert (result.state, result.servers) == ("ended", 2)
    assert world.ended == [("alice", True, False)]
    result = (await world.send(waiting))[0]
    assert result.servers == 0
    assert world.ended[-1] == ("alice", True, True)


async def test_lost_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers stop for a lost share only where it is configured, tokens stay, and a gained one stops nothing."""
    for stops in (False, True):
        folder = tmp_path / str(stops)
        folder.mkdir()
        with _world(folder, monkeypatch, stop_servers_on_lost_share=stops) as world:
            world.add("alice")
            await world.send(entry("alice", "/d"))
            world.active["alice"] = 1
            await world.send(entry("alice", "/d", "/a"))
            assert world.ended == []
            await world.send(entry("alice", "/a"))
            assert world.ended == ([("alice", False, True)] if stops else [])


async def test_only_known_people(world: World) -> None:
    """No user is made, no number given, and nobody is ended by somebody else's sub."""
    world.add("alice")
    world.add("robot", sub="")
    results = await world.send(
        entry("nobody", "/a"),
        Entry(sub="s-other", name="alice"),
        Entry(sub="s-third", name="robot"),
    )
    assert [each.state for each in results] == ["unknown"] * 3
    assert world.row("nobody") is None
    assert world.authenticator.identities.store.find("s-nobody") is None
    assert world.ended == []
    listed = await world.applier.listed(world.db, "", 10)
    assert {user.name: user.sub for user in listed.users} == {"alice": "s-alice", "robot": None}


async def test_name_of_somebody_else(world: World) -> None:
    """Who took the name of another person in Keycloak does not get at that one's account."""
    world.add("alice")
    await world.send(entry("alice", "/a"))
    result = (await world.send(entry("alice", "/d", sub="s-thief")))[0]
    assert result.state != "applied"
    assert world.has("alice")[0] == {"/a"}
    assert world.ended == []


async def test_renamed(world: World) -> None:
    """By a new name the old one ends; the new one is made at the next log-in, not here."""
    world.add("alice")
    await world.send(entry("alice", "/a"))
    results = await world.send(entry("alicia", "/a", sub="s-alice"))
    assert [(each.name, each.state) for each in results] == [("alice", "ended")]
    assert world.has("alice")[0] == set()
    assert world.row("alicia") is None


async def test_digest_is_forgotten_when_others_change(world: World) -> None:
    """What was applied counts only as long as nobody else changed it, and not after a restart."""
    world.add("alice")
    await world.send(entry("alice", "/a"))
    assert await world.digest("alice") == "d"
    world.row("alice").groups = []
    world.db.commit()
    assert await world.digest("alice") == ""
    await world.send(entry("alice", "/a"))
    world.row("alice").encrypted_auth_state = b"other"
    world.db.commit()
    assert await world.digest("alice") == ""
    fresh = Applier(world.authenticator)
    assert fresh.instance != world.applier.instance
    assert {user.digest for user in (await fresh.listed(world.db, "", 10)).users} == {""}


async def test_pages(world: World) -> None:
    """All users come once, by name."""
    world.add(*(f"u{number:02d}" for number in range(23)))
    after: str | None = ""
    found: list[str] = []
    while after is not None:
        page = await world.applier.listed(world.db, after, 5)
        found += [user.name for user in page.users]
        after = page.after
    assert found == [f"u{number:02d}" for number in range(23)]


async def test_dry_run(world: World) -> None:
    """Everything is answered as it would be, and nothing is changed."""
    world.add("alice", "bob")
    await world.send(entry("bob", "/a"))
    before = {
        name: (world.has(name), world.row(name).encrypted_auth_state) for name in ("alice", "bob")
    }
    results = await world.send(entry("alice", "/a"), entry("bob", enabled=False), dry_run=True)
    assert [(each.name, each.state) for each in results] == [("alice", "applied"), ("bob", "ended")]
    assert set(results[0].gained) == {"/a"}
    assert {
        name: (world.has(name), world.row(name).encrypted_auth_state) for name in before
    } == before
    assert world.ended == []
    assert await world.digest("alice") == ""


async def test_one_failure_fails_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who cannot be written is told of, and the others of the batch are written."""
    world.add(*(f"u{number}" for number in range(30)))
    from qhub_auth import batches

    set_one = batches.Work._set

    def failing(self: Any, person: Any, user: Any) -> None:
        if person.name == "u7":
            raise RuntimeError("no")
        set_one(self, person, user)

    monkeypatch.setattr(batches.Work, "_set", failing)
    results = await world.send(*(entry(f"u{number}", "/a") for number in range(30)))
    assert {each.name for each in results if each.state == "failed"} == {"u7"}
    assert sum(each.state == "applied" for each in results) == 29
    assert all(world.has(f"u{number}")[0] == {"/a"} for number in range(30) if number != 7)


async def test_database_of_numbers_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the database of numbers nothing is changed, and the service is told to come again."""
    world.add("alice")

    def down(*_: Any, **__: Any) -> Any:
        raise IdentityUnavailableError("down")

    monkeypatch.setattr(world.authenticator.identities, "resolve_all", down)
    with pytest.raises(IdentityUnavailableError):
        await world.send(entry("alice", "/a"))
    assert world.has("alice")[0] == set()


async def test_hub_without_directory(world: World) -> None:
    """A hub that never heard of groups and roles from Keycloak takes nothing from anybody by them."""
    world.add("alice")
    await world.send(entry("alice", "/a", roles={"reader"}))
    world.authenticator.directory_keeper._kept = None
    with pytest.raises(KeycloakUnavailableError):
        await world.send(entry("alice", "/a", roles={"reader"}))
    assert world.has("alice") == ({"/a"}, {"user", "reader"})


async def test_turns(world: World) -> None:
    """While somebody's log-in or refresh is being saved their change waits, and is done afterwards."""
    world.add("alice")
    async with world.authenticator.saving("alice"):
        task = asyncio.create_task(world.send(entry("alice", "/a")))
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert not task.done()
        assert world.has("alice")[0] == set()
    assert (await asyncio.wait_for(task, 10))[0].state == "applied"
