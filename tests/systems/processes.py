"""Starting and ending processes by pid, reserving ports, waiting with a deadline.

Shared by the test systems. Nothing here ends a process by its name: a process is known by its
pid together with its start time, so that a pid which the kernel has given away again is never hit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import random
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.02
PORTS = range(20_000, 32_000)  # below Linux' default ephemeral range, which starts at 32768
LOG_TAIL_LINES = 15


class SystemUnavailableError(RuntimeError):
    """This machine cannot run the system (no root, packages or cgroups); says which and why."""


class NotReadyError(RuntimeError):
    """A daemon ended early, or a condition did not come true within its deadline."""


def wait_until(
    condition: Callable[[], T],
    deadline_seconds: float,
    what: str = "the condition",
    *,
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """Call `condition` until its answer is true, and return that answer.

    Raises:
        NotReadyError: It was not true within `deadline_seconds`; names `what` and the last answer.
    """
    end = time.monotonic() + deadline_seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= end:
            message = f"{what} did not come within {deadline_seconds:g} s (last answer: {answer!r})"
            raise NotReadyError(message)
        time.sleep(poll_seconds)


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid.

    Attributes:
        pid: The process id.
        start_ticks: Its start time in clock ticks since boot (proc(5), `/proc/PID/stat` field 22).
    """

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this pid now; None when there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        # "123 (a name (with) parentheses) S 1 123 …": the fields start after the last parenthesis
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def read(cls, path: Path) -> ProcessId | None:
        """Read what `write` wrote; None when it is absent or half written."""
        try:
            data = json.loads(path.read_text())
            return cls(int(data["pid"]), int(data["start_ticks"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path, **more: object) -> None:
        """Keep it in a file (atomically), for another run to find."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({"pid": self.pid, "start_ticks": self.start_ticks, **more}))
        part.replace(path)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False when it has ended already."""
        try:
            descriptor = os.pidfd_open(self.pid)  # pins the process, so the check below stays true
        except OSError:
            return False
        try:
            if not self.alive:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def end_processes(processes: Collection[ProcessId], grace_seconds: float = 5) -> None:
    """End processes: SIGTERM (and SIGCONT, as one may be paused), SIGKILL after the grace time.

    Raises:
        NotReadyError: One of them survives SIGKILL for ten seconds.
    """
    steps = [(signal.SIGTERM, grace_seconds)] if grace_seconds > 0 else []
    for number, seconds in [*steps, (signal.SIGKILL, 10.0)]:
        for process in processes:
            if process.signal(number):
                process.signal(signal.SIGCONT)
        with contextlib.suppress(NotReadyError):
            wait_until(lambda: not any(process.alive for process in processes), seconds)
            return
    left = [process.pid for process in processes if process.alive]
    message = f"processes {left} survive SIGKILL"
    raise NotReadyError(message)


def tail(path: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented; says so when there is none."""
    try:
        text = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"    (no log: {error})"
    return "\n".join(f"    {line}" for line in text[-lines:]) or "    (the log is empty)"


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as connection:
        connection.settimeout(2)
        return connection.connect_ex((host, port)) == 0


def socket_accepts(path: Path) -> bool:
    """Whether somebody accepts connections on this unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        return connection.connect_ex(str(path)) == 0


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file (created when absent) among all processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Ports:
    """Ports on loopback that no other `Ports` on this machine is given while this one lives.

    A port is held by a lock on a file, not by an open socket, so that a daemon may bind it, end,
    and bind it again. A port that somebody else listens on is passed over.
    """

    def __init__(self) -> None:
        self._locks: list[int] = []

    def reserve(self, count: int = 1) -> list[int]:
        """Reserve free ports until `release` or the end of this process.

        Raises:
            NotReadyError: So many are not free.
        """
        folder = Path(tempfile.gettempdir()) / f"qhub-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            message = f"{folder} belongs to another user: remove it"
            raise NotReadyError(message)
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                return found
            descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                os.close(descriptor)
                continue
            self._locks.append(descriptor)
            found.append(port)
        if len(found) == count:
            return found
        message = f"no {count} free ports between {PORTS.start} and {PORTS.stop}"
        raise NotReadyError(message)

    def release(self) -> None:
        """Give all of them back."""
        while self._locks:
            os.close(self._locks.pop())


def identity(user: str) -> dict[str, object]:
    """The keyword arguments that make `subprocess` run as this user, with exactly its groups."""
    entry = pwd.getpwnam(user)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": os.getgrouplist(user, entry.pw_gid),
    }


@dataclass
class Daemon:
    """One daemon in the foreground of a session of its own, with a log and a recorded pid.

    Attributes:
        name: What people call it ("slurmd:cn01").
        argv: Its command.
        log: Where its output goes (appended).
        record: Where its pid is kept while it runs.
        ready: Whether it serves; asked until it does.
        user: Whom it runs as; None for the current user.
        environment: Its whole environment.
        deadline_seconds: How long it may take to be ready.
    """

    name: str
    argv: Sequence[str]
    log: Path
    record: Path
    ready: Callable[[], bool]
    user: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    deadline_seconds: float = 30
    _popen: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _id: ProcessId | None = field(default=None, init=False, repr=False)

    @property
    def running(self) -> bool:
        """Whether its process is there (paused counts as running)."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Its pid.

        Raises:
            NotReadyError: It does not run.
        """
        if self._popen is None or self._popen.poll() is not None:
            message = f"{self.name} does not run"
            raise NotReadyError(message)
        return self._popen.pid

    def launch(self) -> None:
        """Start its process, without waiting for it to serve; does nothing when it runs."""
        if self.running:
            return
        extra = identity(self.user) if self.user else {}
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment),
                cwd="/",
                start_new_session=True,
                **extra,  # type: ignore[call-overload]
            )
        self._id = ProcessId.of(self._popen.pid)
        if self._id is not None:
            self._id.write(self.record, name=self.name)

    def wait_ready(self) -> None:
        """Wait until it serves.

        Raises:
            NotReadyError: It ended, or took too long; with its command and the end of its log.
        """

        def serves_or_ended() -> bool:
            return not self.running or self.ready()

        try:
            wait_until(serves_or_ended, self.deadline_seconds, self.name)
        except NotReadyError as error:
            raise NotReadyError(f"{error}\n{self.describe()}") from error
        if not self.running:
            code = self._popen.returncode if self._popen else None
            message = f"{self.name} ended with exit code {code} while starting\n{self.describe()}"
            raise NotReadyError(message)

    def describe(self) -> str:
        """Its command and the end of its log."""
        return f"  command: {shlex.join(self.argv)}\n  log {self.log}:\n{tail(self.log)}"

    def signal(self, number: int) -> None:
        """Send it a signal; nothing when it has ended."""
        if self._id is not None:
            self._id.signal(number)

    def end(self, grace_seconds: float = 5) -> None:
        """End its process (SIGTERM, then SIGKILL) and collect it; nothing when it does not run."""
        if self._popen is None:
            return
        if self._popen.poll() is None:
            if grace_seconds > 0:
                self.signal(signal.SIGTERM)
                self.signal(signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(grace_seconds)
            if self._popen.poll() is None:
                self.signal(signal.SIGKILL)
            self._popen.wait(10)
        self._popen = None
        self._id = None
        self.record.unlink(missing_ok=True)
