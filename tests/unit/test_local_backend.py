"""Servers as processes beside the hub, started, found again and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.access import Person, select
from qhub_spawner.catalogue import load
from qhub_spawner.launch import AddressRefusedError, Launch, ServerAddress, StartFailedError
from qhub_spawner.local import backend as local
from qhub_spawner.local.backend import LocalBackend, LocalServer
from tests.unit import hostile

CATALOGUE = load([{"slug": "here", "display_name": "Here", "local": {}}])
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
    "JUPYTERHUB_API_TOKEN": "secret",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:0/",
}
SLEEPS = "import time; time.sleep(60)"
LEAVES_A_NOTE = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path("note").write_text("ended well")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
time.sleep(60)
"""
IGNORES_TERM = (
    "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "pathlib.Path('ready').touch(); time.sleep(60)"
)
HERE = ServerAddress("127.0.0.1", 4711)


class Owner:
    """A spawner that only counts."""

    def __init__(self) -> None:
        self.persisted = self.ended = 0

    def persist(self) -> None:
        """Count."""
        self.persisted += 1

    def server_ended(self) -> None:
        """Count."""
        self.ended += 1


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    """A backend with homes of its own."""
    made = LocalBackend()
    made.home = str(tmp_path)
    made.startup_timeout = 20
    return made


@pytest.fixture
async def server(backend: LocalBackend) -> AsyncIterator[LocalServer]:
    """A server; ended after the test."""
    made = backend.server(Owner())
    yield made
    await made.stop(now=True)


def launch(code: str, **options: Any) -> Launch:
    """Return a launch of a Python program."""
    return Launch(
        user="alice",
        server_name="",
        selection=select(CATALOGUE, Person("alice"), None),
        environment=ENVIRONMENT,
        argv=(sys.executable, "-c", code),
        **options,
    )


async def until(condition: Any) -> None:
    """Wait for something to come true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def alive_in_group(group: int) -> list[str]:
    """Return the processes of a group that are more than zombies (proc(5), stat)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, _, rest = path.read_text(errors="replace").rpartition(")")
            state, _, pgrp = rest.split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(path.parent.name)
    return found


async def started(server: LocalServer, asked: Launch) -> ServerAddress:
    """Start, and report the address as the server would."""
    starting = asyncio.ensure_future(server.start(asked))
    await until(lambda: server.pid)
    await server.accept_address(HERE)
    return await starting


@pytest.mark.enable_socket
class TestLife:
    """Start, poll, stop."""

    async def test_start(self, server: LocalServer) -> None:
        """The address is what was reported; the state outlives the hub and holds no secret."""
        assert await server.poll() is not None
        assert await started(server, launch(SLEEPS)) == HERE
        assert await server.poll() is None
        assert server.owner.persisted >= 1
        state = server.state()
        assert state["address"] == {"host": "127.0.0.1", "port": 4711}
        assert "secret" not in str(state)

    async def test_stop_is_graceful(self, server: LocalServer, tmp_path: Path) -> None:
        """The server gets SIGTERM, and time to write."""
        await started(server, launch(LEAVES_A_NOTE))
        home = tmp_path / "alice"
        await until((home / "ready").exists)
        await server.stop()
        assert (home / "note").read_text() == "ended well"
        assert server.pid is None
        assert server.state() == {}

    async def test_stop_by_force(self, server: LocalServer, tmp_path: Path) -> None:
        """A server that does not listen to SIGTERM is killed after the grace time."""
        await started(server, launch(IGNORES_TERM, grace_seconds=0.2))
        await until((tmp_path / "alice" / "ready").exists)
        await server.stop()
        assert server.pid is None

    async def test_its_children_end_with_it(self, server: LocalServer, tmp_path: Path) -> None:
        """The whole process group."""
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {IGNORES_TERM!r}])"
        await started(server, launch(code))
        await until((tmp_path / "alice" / "ready").exists)
        pid = server.pid
        assert pid is not None
        await server.stop(now=True)
        await until(lambda: not alive_in_group(pid))

    async def test_a_server_that_fails(self, server: LocalServer) -> None:
        """A start that cannot succeed ends at once and says why."""
        with pytest.raises(StartFailedError, match="ended with exit code 3 before it was up"):
            await server.start(launch("raise SystemExit(3)"))

    async def test_a_server_that_does_not_report(
        self, server: LocalServer, backend: LocalBackend
    ) -> None:
        """It has a time limit, which is named."""
        backend.startup_timeout = 1
        with pytest.raises(StartFailedError, match="did not report to the hub within 1 s"):
            await server.start(launch(SLEEPS))

    async def test_the_hub_hears_of_its_end(self, server: LocalServer) -> None:
        """At once, with a reason."""
        await started(server, launch(SLEEPS))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: server.owner.ended)
        ended = await server.poll()
        assert ended is not None
        assert ended.words == "it was killed by signal 9"
        assert ended.exit_code == 137

    async def test_a_cancelled_start_leaves_nothing(self, server: LocalServer) -> None:
        """Whoever cancels calls stop, as the hub does."""
        starting = asyncio.ensure_future(server.start(launch(SLEEPS)))
        await until(lambda: server.pid)
        pid = server.pid
        assert pid is not None
        starting.cancel()
        await asyncio.wait([starting])
        await server.stop(now=True)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.enable_socket
class TestAcrossHubs:
    """A hub that ends leaves servers running, and the next one takes them up."""

    async def test_taken_up(self, server: LocalServer, backend: LocalBackend) -> None:
        """By pid and start time; ended by the next hub."""
        await started(server, launch(SLEEPS))
        later = backend.server(Owner())
        later.restore(server.state())
        assert await later.poll() is None
        assert later.address == HERE
        await later.stop(now=True)
        assert server._waiting is not None
        await asyncio.wait([server._waiting], timeout=20)
        assert await server.poll() is not None

    async def test_a_pid_of_somebody_else(self, backend: LocalBackend) -> None:
        """A pid that the kernel has given away again is not ours, and is left alone."""
        with subprocess.Popen([sys.executable, "-c", SLEEPS]) as other:
            later = backend.server(Owner())
            later.restore({"version": 1, "pid": other.pid, "born": "1", "address": None})
            ended = await later.poll()
            assert ended is not None
            assert ended.words == "its process ended while the hub was down"
            await later.stop()
            assert other.poll() is None
            other.kill()

    async def test_nothing_to_take_up(self, backend: LocalBackend) -> None:
        """An empty state is no server."""
        later = backend.server(Owner())
        later.restore({})
        assert await later.poll() is not None


@pytest.mark.enable_socket
class TestAddress:
    """Only an address of this machine."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.10"])
    async def test_accepted(self, server: LocalServer, host: str) -> None:
        """Wherever it may listen here."""
        await started(server, launch(SLEEPS))
        assert await server.accept_address(ServerAddress(host, 1)) is True
        assert await server.accept_address(ServerAddress(host, 1)) is False

    @pytest.mark.parametrize(
        "host", ["198.18.0.1", "0.0.0.0", "::", "example.org", "224.0.0.1", "2001:db8::1", ""]
    )
    async def test_refused(self, server: LocalServer, host: str) -> None:
        """No other machine, and no address that is none."""
        await started(server, launch(SLEEPS))
        with pytest.raises(AddressRefusedError) as refused:
            await server.accept_address(ServerAddress(host, 80))
        assert refused.value.status_code == 400
        assert server.address == HERE

    async def test_no_process(self, backend: LocalBackend) -> None:
        """Nobody reports for a server that does not run."""
        with pytest.raises(AddressRefusedError) as refused:
            await backend.server(Owner()).accept_address(HERE)
        assert refused.value.status_code == 409


class TestHomes:
    """A folder for each person."""

    def test_plain(self, backend: LocalBackend, tmp_path: Path) -> None:
        """Of their own name, for them alone."""
        assert backend.home_of("alice") == tmp_path / "alice"
        assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("name", sorted(set(hostile.TEXTS) - {"empty", "surrogate"}))
    def test_hostile(self, backend: LocalBackend, tmp_path: Path, name: str) -> None:
        """Whatever a user is called, the folder is one in the folder of homes."""
        path = backend.home_of(hostile.TEXTS[name])
        assert path.parent == tmp_path
        assert path.is_dir()

    @given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
    def test_nobody_shares(self, names: list[str]) -> None:
        """Two names are two folders."""
        first, second = (local._folder_name(name) for name in names)
        if not any("\ud800" <= char <= "\udfff" for name in names for char in name):
            assert first != second
        assert len(first) < 256
        assert first.isascii()
        assert "/" not in first
        assert not first.startswith(".")

    def test_the_hubs_own(self) -> None:
        """Without a folder of homes it is the hub's own."""
        assert LocalBackend().home_of("alice") == Path.home()


class TestBackend:
    """What the hub asks of it."""

    async def test_always_now(self, backend: LocalBackend) -> None:
        """A process starts at once, and nobody records limits."""
        found = await backend.availability(CATALOGUE.profiles, "alice")
        assert found["here"].start.kind == "now"
        assert await backend.limits("alice") is None
        backend.check(CATALOGUE.profiles)
