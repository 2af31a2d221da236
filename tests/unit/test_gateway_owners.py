"""The clusters of people who are no more end; those of everybody else go on."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from qhub_gateway.errors import HubUnavailableError, PersonUnclearError
from qhub_gateway.hub import HubDoor, HubPerson
from qhub_gateway.owners import OwnerWatch, why_not
from qhub_gateway.requests import Owner
from qhub_spawner.identity import Identity

IDENTITY = Identity(version=1, uid=5001, gid=5001, home="/home/alice")
PLAIN = Owner(name="alice")
KNOWN = Owner(name="alice", identity=IDENTITY)


@pytest.mark.parametrize(
    ("owner", "person", "ends"),
    [
        (PLAIN, HubPerson("alice"), False),
        (PLAIN, HubPerson("alice", identity=IDENTITY), False),
        (KNOWN, HubPerson("alice", identity=IDENTITY), False),
        (KNOWN, HubPerson("alice", frozenset({"other"}), identity=IDENTITY), False),
        (KNOWN, HubPerson("alice"), True),
        (PLAIN, None, True),
        (KNOWN, None, True),
    ],
)
def test_who_may_not_go_on(owner: Owner, person: HubPerson | None, ends: bool) -> None:
    """Whom the hub does not know, and who had an identity and has none any more."""
    assert (why_not(owner, person) is not None) is ends


class Site:
    """Clusters of two people, and a hub that says what the test sets."""

    def __init__(self) -> None:
        self.clusters = [
            (SimpleNamespace(name="one"), KNOWN),
            (SimpleNamespace(name="two"), Owner(name="bob")),
            (SimpleNamespace(name="three"), KNOWN),
        ]
        self.people: dict[str, Any] = {"alice": HubPerson("alice"), "bob": HubPerson("bob")}
        self.asked: list[str] = []
        self.ended: list[str] = []

    async def person(self, name: str) -> HubPerson | None:
        self.asked.append(name)
        found = self.people[name]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def watch(self, period: float = 1.0) -> OwnerWatch:
        return OwnerWatch(
            lambda: self.clusters,
            self.person,
            lambda cluster, words: self.ended.append(f"{cluster.name}: {words}"),
            period=period,
            log=logging.getLogger("test"),
        )


async def test_a_round() -> None:
    """Each owner is asked about once; every cluster of who may not go on ends, with why."""
    site = Site()
    await site.watch().look()
    assert site.asked == ["alice", "bob"]
    words = "alice may not use the hub any more"
    assert site.ended == [f"one: {words}", f"three: {words}"]


async def test_silence_ends_nothing() -> None:
    """While the hub does not answer, nobody's clusters end, and it is not asked about others."""
    site = Site()
    site.people["alice"] = HubUnavailableError("the hub does not answer")
    site.people["bob"] = None
    await site.watch().look()
    assert (site.asked, site.ended) == (["alice"], [])


async def test_one_unclear_answer() -> None:
    """Of whom the hub says nothing usable, the clusters go on; all others are looked at."""
    site = Site()
    site.people["alice"] = PersonUnclearError("the hub answered 500 to who 'alice' is")
    site.people["bob"] = None
    await site.watch().look()
    assert site.asked == ["alice", "bob"]
    assert site.ended == ["two: the hub does not know bob any more"]


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (500, None),
        (502, "<html>"),
        (403, {"message": "Forbidden"}),
        (404, {"message": "no such route"}),
        (200, {"name": "bob"}),
        (200, {"name": "alice", "identity": {"version": 1, "uid": "x"}}),
    ],
)
async def test_what_is_unclear(status: int, data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the hub answers about one person, and cannot be used, is said of this one alone."""
    door = HubDoor("http://hub", lambda: "token")

    async def get(path: str, token: str) -> tuple[int, object]:
        return status, data

    monkeypatch.setattr(door, "_get", get)
    with pytest.raises(PersonUnclearError):
        await door.person("alice")


async def test_a_failing_round_is_not_the_last() -> None:
    """Whatever goes wrong in one round, there is a next."""
    site = Site()
    site.people["alice"] = RuntimeError("no")
    watching = asyncio.ensure_future(site.watch(period=0.01).run())
    async with asyncio.timeout(20):
        while len(site.asked) < 2:
            await asyncio.sleep(0.01)
        site.people["alice"] = None
        while not site.ended:
            await asyncio.sleep(0.01)
    watching.cancel()
