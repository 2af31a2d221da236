"""Commands that are run after changes: what writes account files, what makes folders."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

from qhub_auth.errors import shown

__all__ = ["Afterwards", "Due", "words_of"]

# How much is told of what a failing command says (the end of it), and of the command itself.
_SHOWN_BYTES, _SHOWN_COMMAND = 1000, 500
_READ_BYTES = 65536
_KILL_SECONDS = 5.0
# How long to wait before a failed one is run again: at first, and at most, in seconds.
_FIRST_AGAIN_SECONDS, _LAST_AGAIN_SECONDS = 1.0, 900.0
_SECRET = re.compile(
    r"(?i)token|secret|passw|credential|private|api[-_]?key|authorization|bearer|://[^/@\s]+(?=@)"
)


class Due:
    """Which commands are to be run, and when. Pure.

    A change leads to a run of all of them once it has settled. One that failed is run again after
    a wait of its own, which grows and holds up neither the others nor what a change leads to.

    Args:
        count: How many commands there are.
        settle: How long to wait after a change, in seconds.
    """

    def __init__(self, count: int, settle: float) -> None:
        self._count, self._settle = count, settle
        self._settled: float | None = None
        self._waits: dict[int, float] = {}
        self._again: dict[int, float] = {}

    def changed(self, now: float) -> None:
        """Note that something changed; what changes while it settles is done with it."""
        if self._count and self._settled is None:
            self._settled = now + self._settle

    def taken(self, now: float) -> list[int]:
        """Return those whose time has come, in their order; they count as begun."""
        if self._settled is not None and self._settled <= now:
            self._settled = None
            return list(range(self._count))
        return sorted(at for at, when in self._again.items() if when <= now)

    def failed(self, at: int, now: float) -> None:
        """Note that a command failed."""
        wait = min(max(2 * self._waits.get(at, 0.0), _FIRST_AGAIN_SECONDS), _LAST_AGAIN_SECONDS)
        self._waits[at], self._again[at] = wait, now + wait

    def done(self, at: int) -> bool:
        """Note that a command did what it should; say whether it had failed before."""
        self._waits.pop(at, None)
        return self._again.pop(at, None) is not None

    def seconds(self, now: float) -> float | None:
        """Return how long there is nothing to do; `None`: until something changes."""
        times = [*self._again.values(), *([] if self._settled is None else [self._settled])]
        return max(0.0, min(times) - now) if times else None


class Afterwards:
    """Runs commands some time after something changed, one after the other and never twice at once.

    Args:
        commands: Each a program with its arguments; no shell is involved.
        settle: How long to wait after a change, since seldom comes one alone, in seconds.
        timeout: How long one command may take, in seconds.
        log: For administrators.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        settle: float,
        timeout: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._commands = [list(command) for command in commands]
        self._timeout, self._log = timeout, log
        self._due = Due(len(self._commands), settle)
        self._woken = asyncio.Event()
        self._told: dict[int, str] = {}

    def changed(self) -> None:
        """Note that something changed."""
        self._due.changed(time.monotonic())
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled; a command that runs then is ended."""
        while True:
            self._woken.clear()
            todo = self._due.taken(time.monotonic())
            if not todo:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._due.seconds(time.monotonic())):
                        await self._woken.wait()
                continue
            for at in range(len(self._commands)):
                if at not in todo:
                    continue
                if not await self._one(at):
                    self._due.failed(at, time.monotonic())
                elif self._due.done(at):
                    # what it did at last counts for those that come after it
                    todo = [*todo, *range(at + 1, len(self._commands))]

    def _failed(self, at: int, message: str, output: str = "") -> bool:
        """Say what a command did not do, once as long as it is the same; return `False`.

        Args:
            at: Which command.
            message: What to say.
            output: Stands for all that it said, of which the message may have only a part.
        """
        if self._told.get(at) != message + output:
            self._log.error("%s", message)
        self._told[at] = message + output
        return False

    async def _one(self, at: int) -> bool:
        command, name = self._commands[at], words_of(self._commands[at])
        began = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            return self._failed(at, f"{name} cannot be run: {error.strerror}")
        try:
            async with asyncio.timeout(self._timeout):
                said, output = await _said(process)
                await process.wait()
        except TimeoutError:
            await _end(process)
            return self._failed(at, f"{name} was ended after {self._timeout:.0f} s")
        except asyncio.CancelledError:
            await _end(process)
            raise
        if process.returncode:
            return self._failed(at, f"{name}: exit code {process.returncode}: {said}", output)
        self._told.pop(at, None)
        self._log.info("%s: done in %.1f s", name, time.monotonic() - began)
        return True


def words_of(command: Sequence[str]) -> str:
    """Return a command as the log shows it: whole, but for what may be a secret."""
    parts: list[str] = []
    hidden = False
    for part in command:
        found = _SECRET.search(part)
        if hidden and not part.startswith("-"):
            parts.append("***")
        elif found is None or part.startswith("/"):
            parts.append(part)  # a path is none
        else:
            name, is_, _ = part.partition("=")
            plain = part.startswith("-") and " " not in name
            parts.append(name + (f"{is_}***" if is_ else "") if plain else "***")
        hidden = found is not None and part.startswith("-") and "=" not in part
    return shown(" ".join(parts), _SHOWN_COMMAND)


async def _said(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Return the end of what a command says, and what stands for all of it."""
    end, whole, cut = b"", hashlib.sha256(), False
    while process.stdout is not None and (read := await process.stdout.read(_READ_BYTES)):
        whole.update(read)
        end += read
        cut, end = cut or len(end) > _SHOWN_BYTES, end[-_SHOWN_BYTES:]
    lines = [line.strip() for line in end.decode(errors="replace").splitlines()]
    text = "; ".join(line for line in lines if line)
    return ("..." if cut else "") + shown(text, 4 * _SHOWN_BYTES), whole.hexdigest()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command with all it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await process.communicate()
                return
