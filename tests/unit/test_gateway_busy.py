"""Which clusters are at work, and what the hub is told of it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from dask_gateway_server.backends.db_base import JobStatus

from qhub_gateway import busy
from qhub_gateway.busy import BusyWatch, at_work, counts_url
from qhub_gateway.errors import HubUnavailableError, PersonUnclearError
from qhub_gateway.requests import Owner


@pytest.mark.parametrize(
    ("dashboard", "url"),
    [
        ("http://10.1.2.3:8787", "http://10.1.2.3:8787/json/counts.json"),
        ("http://[fd00::1]:8787", "http://[fd00::1]:8787/json/counts.json"),
        ("http://10.1.2.3:80", None),
        ("http://169.254.169.254:8787", None),
        ("http://[fe80::1]:8787", None),
        ("http://metadata.internal:8787", None),
        ("https://10.1.2.3:8787", None),
        ("file:///etc/passwd", None),
        ("http://10.1.2.3:99999", None),
        ("", None),
    ],
)
def test_where_a_scheduler_is_asked(dashboard: str, url: str | None) -> None:
    """A host's number and a port of programs, and nothing else that a scheduler may say."""
    assert counts_url(dashboard) == url


IDLE = {
    "processing": 0,
    "waiting": 0,
    "unrunnable": 0,
    "workers": 2,
    "desired_workers": 1,
    "tasks": 9,
}


@pytest.mark.parametrize(
    ("counts", "works"),
    [
        (IDLE, False),
        (IDLE | {"processing": 1}, True),
        (IDLE | {"waiting": 3}, True),
        (IDLE | {"unrunnable": 3}, True),
        (IDLE | {"workers": 0}, True),
        (IDLE | {"workers": 0, "desired_workers": 0}, False),
        ({}, None),
        ([], None),
        (None, None),
        (IDLE | {"processing": "many"}, None),
    ],
)
def test_what_is_work(counts: object, works: bool | None) -> None:
    """Tasks that run, wait for others or for a worker; results that are kept are none."""
    # with no worker at all they wait in a queue, of which only that a worker is desired is told
    assert at_work(counts) is works


class Site:
    """Clusters, their schedulers and a hub, as the test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clusters: list[Any] = []
        self.answers: dict[str | None, bool | None] = {None: None}
        self.unclear = ""
        self.told: list[tuple[str, str | None, str]] = []
        self.hub_is_there = True
        monkeypatch.setattr(busy, "_asked", self._asked)
        self.elsewhere: set[str] = set()
        self.watch = BusyWatch(
            lambda: self.clusters, lambda each: each.request, self._where, self._tell
        )

    async def _where(self, cluster: Any) -> str | None:
        return None if cluster.name in self.elsewhere else cluster.dashboard_address

    async def _asked(self, session: object, url: str | None) -> bool | None:
        return self.answers[url]

    async def _tell(self, name: str, server: str | None, what: str) -> None:
        if not self.hub_is_there:
            raise HubUnavailableError("the hub does not answer")
        if name == self.unclear:
            raise PersonUnclearError("the hub answered 500")
        self.told.append((name, server, what))

    def cluster(
        self,
        number: int,
        works: bool | None,
        *,
        status: JobStatus = JobStatus.RUNNING,
        idle_timeout: object = 3600,
        **owner: Any,
    ) -> None:
        address = f"http://10.0.0.{number}:8787"
        self.answers[counts_url(address)] = works
        request = SimpleNamespace(owner=Owner(**owner), idle_timeout=idle_timeout)
        self.clusters.append(
            SimpleNamespace(
                name=f"c{number}", status=status, dashboard_address=address, request=request
            )
        )

    async def look(self) -> list[tuple[str, str | None, str]]:
        self.told.clear()
        await self.watch.look()
        return self.told


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


async def test_who_is_told_of(site: Site) -> None:
    """The server that a busy cluster was made from, else all of its owner's; once however many."""
    site.cluster(1, True, name="alice", server="lab")
    site.cluster(2, True, name="alice", server="lab")
    site.cluster(3, False, name="alice", server="")
    site.cluster(4, True, name="bob")
    site.cluster(5, False, name="carol", server="")
    site.cluster(6, None, name="dave", server="", status=JobStatus.SUBMITTED)
    assert await site.look() == [
        ("alice", "lab", busy.WORKS),
        ("bob", None, busy.WORKS),
        ("dave", "", busy.WAITS),
    ]


async def test_a_silent_scheduler(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be at work; one that would not end by itself is believed to be so for an hour."""
    site.cluster(1, None, name="alice", server="")
    site.cluster(2, None, name="bob", server="", idle_timeout=None)
    both = [("alice", "", busy.MAY_WORK), ("bob", "", busy.MAY_WORK)]
    assert await site.look() == both
    clock, now = time.monotonic, 0.0
    monkeypatch.setattr("qhub_gateway.busy.time", SimpleNamespace(monotonic=lambda: clock() + now))
    now = 3500.0
    assert await site.look() == both
    now = 3700.0
    assert await site.look() == both[:1]
    site.answers = dict.fromkeys(site.answers, False)
    assert await site.look() == []
    site.answers = dict.fromkeys(site.answers)
    assert await site.look() == both


async def test_a_silent_hub(site: Site) -> None:
    """What it does not take is told again in the next round, and nothing else fails."""
    site.cluster(1, True, name="alice", server="")
    site.hub_is_there = False
    assert await site.look() == []
    site.hub_is_there = True
    assert await site.look() == [("alice", "", busy.WORKS)]


async def test_one_of_whom_the_hub_takes_nothing(site: Site) -> None:
    """The hub is told of everybody else all the same."""
    site.cluster(1, True, name="alice", server="lab")
    site.cluster(2, True, name="bob", server="lab")
    site.unclear = "alice"
    assert await site.look() == [("bob", "lab", busy.WORKS)]


async def test_a_scheduler_that_says_it_is_elsewhere(site: Site) -> None:
    """An address that is not where its job runs is not asked: it counts as silent."""
    site.cluster(1, True, name="alice", server="lab")
    site.elsewhere = {"c1"}
    assert await site.look() == [("alice", "lab", busy.MAY_WORK)]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 65_000,
        b"9" * 65_000,
        b'{"processing":',
        b"\xff\xfe",
        b"x" * 70_000,
        b"null",
        b'{"processing": NaN}',
    ],
)
async def test_what_a_stranger_answers(tmp_path: Path, body: bytes) -> None:
    """Whatever a person's program says instead of counts, it is only silent."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    try:
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        async with aiohttp.ClientSession(connector=connector) as session:
            assert await busy._asked(session, "http://10.0.0.1:8787/json/counts.json") is None
    finally:
        await runner.cleanup()
