"""Servers as processes beside the hub: ``c.LocalBackend.*``."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import pwd
import signal
import socket
import string
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Float, Unicode
from traitlets.config import LoggingConfigurable

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.launch import (
    AddressRefusedError,
    BackendServer,
    Ended,
    Launch,
    Progress,
    ServerAddress,
    StartFailedError,
    StopFailedError,
)
from qhub_spawner.profiles import Profile

_KILL_SECONDS = 5.0
_LONGEST_NAME = 150  # a folder's name has at most 255 bytes


class LocalBackend(LoggingConfigurable):
    """Single-user servers as processes of the hub's own account, without any limits.

    For trying out and for tests: everybody's server runs as the hub's account.
    """

    name: ClassVar[str] = "local"

    home = Unicode(
        "",
        config=True,
        help="""
        The folder in which each person gets a folder of their own, which is their server's home.
        Default: empty, the home of the hub's account.

        Example: ``c.LocalBackend.home = "/srv/qhub/homes"``
        """,
    )
    startup_timeout = Float(
        60.0,
        min=1.0,
        config=True,
        help="""
        How long a server may take until it reports its address, in seconds. Default: 60.
        """,
    )

    def server(self, owner: Any) -> LocalServer:
        """See `Backend.server`."""
        return LocalServer(self, owner)

    async def open(self) -> None:
        """See `Backend.open`: there is nothing to do."""

    async def close(self) -> None:
        """See `Backend.close`: servers go on."""

    def check(self, profiles: tuple[Profile, ...]) -> None:
        """See `Backend.check`: every profile can be started."""

    async def availability(
        self, profiles: tuple[Profile, ...], user: str
    ) -> Mapping[str, Availability]:
        """See `Backend.availability`: a process starts at once."""
        del user
        now = Availability(start=StartEstimate(kind="now", source="calculated"))
        return {profile.slug: now for profile in profiles}

    async def limits(self, user: str) -> None:
        """See `Backend.limits`: there are none."""

    def home_of(self, user: str) -> Path:
        """Return the home of a person's server; made if it is one of ours."""
        if not self.home:
            return Path.home()
        path = Path(self.home) / _folder_name(user)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path


class LocalServer(BackendServer):
    """A single-user server in a process group of its own."""

    def __init__(self, backend: LocalBackend, owner: Any) -> None:
        """Belong to `owner`; nothing is started yet."""
        self.backend = backend
        self.owner = owner
        self.pid: int | None = None
        self.born: str | None = None
        self.address: ServerAddress | None = None
        self.grace_seconds = 10.0
        self._process: asyncio.subprocess.Process | None = None
        self._work: asyncio.subprocess.Process | None = None
        self._addressed = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None
        self._restored = False

    async def start(self, launch: Launch) -> ServerAddress:
        """See `BackendServer.start`."""
        self.grace_seconds = launch.grace_seconds
        home = self.backend.home_of(launch.user)
        account = pwd.getpwuid(os.getuid())
        environment = {
            "USER": account.pw_name,
            "LOGNAME": account.pw_name,
            "SHELL": os.environ.get("SHELL") or "/bin/bash",
            "LANG": "C.UTF-8",
            **launch.environment,
            "HOME": str(home),
        }
        prefix = launch.selection.profile.environment.prefix
        if prefix:
            environment["PATH"] = f"{prefix}/bin:{environment.get('PATH', os.defpath)}"
        bootstrap = str(files("qhub_spawner") / "singleuser.py")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            bootstrap,
            *launch.argv,
            env=environment,
            cwd=home,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.born = _born(self.pid)
        self._waiting = asyncio.ensure_future(self._wait(self._process))
        self.owner.persist()
        self._work = await _told_of(self.pid)
        addressed = asyncio.ensure_future(self._addressed.wait())
        try:
            await asyncio.wait(
                {addressed, self._waiting},
                timeout=self.backend.startup_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            addressed.cancel()
        if self.address is not None:
            return self.address
        if self._process.returncode is not None:
            code = self._process.returncode
            msg = f"The server ended with exit code {code} before it was up; see the hub's log."
            raise StartFailedError(msg)
        msg = f"The server did not report to the hub within {self.backend.startup_timeout:g} s."
        raise StartFailedError(msg)

    async def _wait(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        if self._work is not None and self._work.returncode is None:
            self._work.terminate()  # it would notice within a minute by itself
        if self.address is not None:
            self.owner.server_ended()

    async def accept_address(self, address: ServerAddress) -> bool:
        """See `BackendServer.accept_address`: an address of this machine."""
        if self.pid is None:
            msg = "no process of this server runs"
            raise AddressRefusedError(msg)
        if not _is_here(address.host):
            msg = f"{ascii(address.host)[:64]} is not an address of the hub's own machine"
            raise AddressRefusedError(msg, status_code=400)
        moved = self.address is not None and self.address != address
        self.address = address
        # the server reports once: from here on the address must not be lost
        self.owner.persist()
        self._addressed.set()
        return moved

    @property
    def unfinished(self) -> bool:
        """See `BackendServer.unfinished`."""
        return self._restored and self.address is None

    async def resume(self) -> ServerAddress:
        """See `BackendServer.resume`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.backend.startup_timeout
        while self.address is None:
            if await self.poll() is not None:
                msg = "The server ended while the hub was down; see the hub's log."
                raise StartFailedError(msg)
            if loop.time() > deadline:
                msg = f"The server did not report within {self.backend.startup_timeout:g} s."
                raise StartFailedError(msg)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._addressed.wait(), 0.5)
        return self.address

    async def poll(self) -> Ended | None:
        """See `BackendServer.poll`."""
        if self.pid is None:
            return Ended(0, "it was not started")
        if self._process is not None:
            code = self._process.returncode
            if code is None:
                return None
            return Ended(code if code >= 0 else 128 - code, _ending_words(code))
        if _born(self.pid) == self.born:
            return None
        return Ended(1, "its process ended while the hub was down")

    async def stop(self, *, now: bool = False) -> None:
        """See `BackendServer.stop`: SIGTERM, the grace time, SIGKILL, to the process group."""
        if self.pid is None:
            return
        steps = [(signal.SIGKILL, _KILL_SECONDS)]
        if not now:
            steps.insert(0, (signal.SIGTERM, self.grace_seconds))
        for number, seconds in steps:
            if await self.poll() is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            await self._gone_within(seconds)
        if await self.poll() is None:
            msg = f"process {self.pid} did not end after SIGKILL"
            raise StopFailedError(msg)
        self.pid = None

    async def _gone_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        if self._waiting is not None:
            await asyncio.wait([self._waiting], timeout=seconds)
            return
        # not our child after a restart of the hub: the kernel tells nobody else when it ends
        while await self.poll() is None and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def progress(self) -> AsyncIterator[Progress]:
        """See `BackendServer.progress`."""
        yield Progress("Starting your server on the hub's machine.", 30)
        await self._addressed.wait()
        yield Progress("The server is up; connecting to it.", 90)

    def state(self) -> dict[str, Any]:
        """See `BackendServer.state`."""
        if self.pid is None:
            return {}
        return {
            "version": 1,
            "pid": self.pid,
            "born": self.born,
            "grace_seconds": self.grace_seconds,
            "address": {"host": self.address.host, "port": self.address.port}
            if self.address
            else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `BackendServer.restore`."""
        if "pid" in state:
            self._restored = True
            self.pid, self.born = int(state["pid"]), state.get("born")
            self.grace_seconds = float(state.get("grace_seconds", self.grace_seconds))
            if state.get("address"):
                self.address = ServerAddress(**state["address"])
                self._addressed.set()


async def _told_of(server: int) -> asyncio.subprocess.Process | None:
    """Start what tells the hub what a server works at; nothing secret is given to it."""
    with suppress(OSError):  # no server fails for that
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            str(files("qhub_spawner") / "work.py"),
            str(server),
            env={},
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    return None


def _folder_name(user: str) -> str:
    """Encode a user name, which may hold anything: no two share a folder, none leaves its own."""
    plain = frozenset(string.ascii_letters + string.digits + "-_")
    name = "".join(
        char
        if char in plain
        else "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "replace"))
        for char in user
    )
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}%-{hashlib.sha256(user.encode('utf-8', 'replace')).hexdigest()}"


def _is_here(host: str) -> bool:
    """Whether `host` is an address of this machine."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
            # a broadcast address can be bound too, but not be sent to: nothing is sent here
            probe.connect((str(address), 9))
        except OSError:
            return False
    return True


def _born(pid: int) -> str | None:
    """Return when a process started (proc(5), field 22), to tell it from a later one of that id."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # 4711 (python3 -I) S 1 4711 4711 0 -1 ...: the name may hold spaces and brackets
    fields = line.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _ending_words(code: int) -> str:
    if code < 0:
        return f"it was killed by signal {-code}"
    return "it ended by itself" if code == 0 else f"it failed with exit code {code}"
