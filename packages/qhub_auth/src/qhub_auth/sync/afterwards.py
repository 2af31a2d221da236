"""Commands that are run after changes: what writes account files, what makes folders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from qhub_auth.errors import shown

__all__ = ["Afterwards"]

# How much of what a failing command says is told.
_SHOWN_BYTES = 256
_KILL_SECONDS = 5.0
# How long to wait before a failed one is run again: at first, and at most, in seconds.
_FIRST_AGAIN_SECONDS, _LAST_AGAIN_SECONDS = 1.0, 900.0


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
        self._settle, self._timeout, self._log = settle, timeout, log
        self._due: float | None = None
        self._changed = asyncio.Event()
        self._told: dict[int, str] = {}

    def changed(self) -> None:
        """Note that something changed."""
        if self._commands:
            self._changed.set()

    async def run(self) -> None:
        """Go on until cancelled; a command that runs then is ended."""
        again = 0.0
        while True:
            await self._changed.wait()
            await asyncio.sleep(max(self._settle, again))
            self._changed.clear()
            failed = [at for at in range(len(self._commands)) if not await self._one(at)]
            if failed:
                self._changed.set()  # what it did not do is still to be done
                again = min(max(2 * again, _FIRST_AGAIN_SECONDS), _LAST_AGAIN_SECONDS)
            else:
                again = 0.0

    def _failed(self, at: int, message: str) -> bool:
        """Say what a command did not do, once as long as it is the same; return `False`."""
        if self._told.get(at) != message:
            self._log.error("%s", message)
        self._told[at] = message
        return False

    async def _one(self, at: int) -> bool:
        command = self._commands[at]
        began = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return self._failed(at, f"{shown(command[0])} cannot be run: {error.strerror}")
        try:
            async with asyncio.timeout(self._timeout):
                _, said = await process.communicate()
        except TimeoutError:
            await _end(process)
            return self._failed(at, f"{shown(command[0])} was ended after {self._timeout:.0f} s")
        except asyncio.CancelledError:
            await _end(process)
            raise
        if process.returncode:
            words = shown(said[:_SHOWN_BYTES].decode(errors="replace").strip(), _SHOWN_BYTES)
            name = shown(" ".join(command[:2]))
            return self._failed(at, f"{name}: exit code {process.returncode}: {words}")
        self._told.pop(at, None)
        self._log.info("%s: done in %.1f s", shown(" ".join(command[:2])), time.monotonic() - began)
        return True


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a command with all it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await process.communicate()
                return
