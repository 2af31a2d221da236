"""What a server works at, from its processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qhub_spawner import work
from qhub_spawner.work import Process

TICKS = os.sysconf("SC_CLK_TCK")


def process(parent: int = 1, session: int = 5, terminal: int = 0, ticks: int = 0, name: str = "x"):
    return Process(parent, session, terminal, ticks, name)


def test_what_descends_from_the_server() -> None:
    """Children and theirs, and nobody else, nor the server itself."""
    known = {
        1: process(0),
        100: process(1),
        101: process(100),
        102: process(101),
        200: process(1),
        201: process(200),
    }
    assert set(work.below(100, known)) == {101, 102}


def test_a_loop_of_parents_ends() -> None:
    """A pid that the kernel gave away again while we looked leads nowhere."""
    assert work.below(100, {7: process(8), 8: process(7), 100: process(1)}) == {}


@pytest.mark.parametrize(
    ("found", "busy"),
    [
        (process(session=9, terminal=34816, name="python3"), True),
        (process(session=9, terminal=34816, name="vim"), False),
        (process(session=50, terminal=34816, name="bash"), False),
        (process(session=9, terminal=0, name="python3"), False),
    ],
)
def test_terminals(found: Process, busy: bool) -> None:
    """A program in a terminal is work; its shell, and an editor left open, are not."""
    assert bool(work.work({50: found}, {50: found}, 60)) is busy


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, ""), (11, ""), (30, "its processes use 0.5 cores")]
)
def test_processor_time(seconds: int, words: str) -> None:
    """What processes have used since the last look, a new one's whole time included."""
    before = {50: process(ticks=1000)}
    now = {
        50: process(ticks=1000 + seconds * TICKS // 3),
        51: process(ticks=seconds * TICKS * 2 // 3),
    }
    assert work.work(now, before, 60) == words


@pytest.fixture
def server() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a shell in a terminal of its own."""
    code = (
        "import os, pty, time\n"
        "pid, fd = pty.fork()\n"
        "if pid == 0: os.execvp('sh', ['sh', '-i'])\n"
        "print(fd, flush=True)\n"
        "import sys\n"
        "for line in sys.stdin: os.write(fd, line.encode())\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert started.stdout is not None
    started.stdout.readline()
    yield started
    started.kill()
    started.wait()
    started.stdout.close()
    assert started.stdin is not None
    started.stdin.close()


def seen(server: Any, wanted: bool) -> bool:
    """Whether a terminal is seen at work, as wanted, within a few seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        now = work.below(server.pid, work.processes())
        if bool(work.work(now, now, 60)) is wanted:
            return True
        time.sleep(0.05)
    return False


def test_a_real_terminal(server: Any) -> None:
    """A silent program in a real terminal is seen, and is not when it has ended."""
    assert pty
    assert seen(server, wanted=False)
    server.stdin.write(b"sleep 4\n")
    server.stdin.flush()
    assert seen(server, wanted=True)
    assert seen(server, wanted=False)


def test_the_servers_own_environment() -> None:
    """The token is read where it stands already: nothing is handed over."""
    child = subprocess.Popen(["sleep", "30"], env={"JUPYTERHUB_API_TOKEN": "a=b", "EMPTY": ""})
    try:
        until = time.monotonic() + 10
        found: dict[str, str] = {}
        while not found and time.monotonic() < until:  # it is there once the program has begun
            found = work.environment(child.pid)
        assert found == {"JUPYTERHUB_API_TOKEN": "a=b", "EMPTY": ""}
    finally:
        child.kill()
        child.wait()


def test_it_ends_with_the_server() -> None:
    """No process is left behind."""
    child = subprocess.Popen(["sleep", "0.3"])
    watcher = subprocess.Popen([sys.executable, "-IS", work.__file__, str(child.pid), "0.2"])
    child.wait()
    assert watcher.wait(20) == 0
