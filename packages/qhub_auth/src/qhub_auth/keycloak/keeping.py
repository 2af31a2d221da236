"""`DirectoryKeeper`: Keycloak's groups and roles as the hub knows them, kept fresh behind its back.

Log-ins take what is there. Only the first one after the hub's start waits, and not for long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from qhub_auth.directory import Directory
from qhub_auth.errors import (
    ConfigurationError,
    KeycloakError,
    KeycloakRefusedError,
    KeycloakUnavailableError,
)

__all__ = ["DirectoryKeeper"]

# A directory with less than half of the groups it had is believed when it was so for that long: a
# realm half imported, or a reader whose rights were cut, looks just like this.
_SHRUNK_SECONDS = 600.0
_FEW_GROUPS = 10
# After how long it is asked again when no answer came, and when it was refused, in seconds.
_AGAIN_SECONDS, _REFUSED_AGAIN_SECONDS = 5.0, 60.0


class DirectoryKeeper:
    """The directory, at most some seconds old; what is there stays while Keycloak does not answer.

    Args:
        read: Asks Keycloak for it.
        fresh_seconds: After how long it is read anew, behind the back of whoever asks.
        wait_seconds: How long somebody waits when there is none yet.
        log: Of the hub.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Directory]],
        *,
        fresh_seconds: float,
        wait_seconds: float,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._wait_seconds = wait_seconds
        self._log = log
        self._kept: Directory | None = None
        self._next = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._shrunk_since: float | None = None
        self._told = ""

    @property
    def known(self) -> Directory | None:
        """What is known, however old."""
        return self._kept

    async def directory(self) -> Directory | None:
        """Return the directory; `None` if Keycloak never said, or may not be asked.

        Once there is one it is returned at once. Cancelling ends the waiting, not the reading.
        """
        if time.monotonic() >= self._next:
            self._begin()
        if self._kept is None and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=self._wait_seconds)
        return self._kept

    async def renew(self) -> Directory | None:
        """Read it anew and return it: somebody knows that it has changed.

        What is being read just now may be of before that, so another reading follows it.
        """
        if self._reading is not None:
            await asyncio.wait({self._reading})
        self._begin()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        return self._kept

    def _begin(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._renew(), name="qhub: groups and roles")

    async def _renew(self) -> None:
        try:
            new = await self._read()
        except KeycloakUnavailableError as error:
            self._next = time.monotonic() + _AGAIN_SECONDS
            self._tell(f"Groups and roles cannot be read from Keycloak now: {error}")
        except KeycloakRefusedError as error:
            self._next = time.monotonic() + _REFUSED_AGAIN_SECONDS
            self._tell(
                "Without the service account's rights groups and roles come from people's tokens "
                f"alone: no shared folders, no roles with scopes. {error}"
            )
        except (KeycloakError, ConfigurationError) as error:
            self._next = time.monotonic() + _REFUSED_AGAIN_SECONDS
            self._tell(f"Groups and roles cannot be read from Keycloak: {error}")
        except Exception:  # noqa: BLE001 - whatever we did wrong, what is known stays
            self._next = time.monotonic() + _AGAIN_SECONDS
            self._log.exception("Groups and roles could not be read from Keycloak")
        else:
            self._next = time.monotonic() + self._fresh_seconds
            self._take(new)

    def _take(self, new: Directory) -> None:
        had = len(self._kept.groups) if self._kept is not None else 0
        if had >= _FEW_GROUPS and len(new.groups) < had / 2:
            now = time.monotonic()
            self._shrunk_since = now if self._shrunk_since is None else self._shrunk_since
            if now - self._shrunk_since < _SHRUNK_SECONDS:
                self._tell(
                    f"Keycloak shows {len(new.groups)} groups and showed {had} before. If it goes "
                    f"on saying so for {_SHRUNK_SECONDS / 60:.0f} minutes it will be believed"
                )
                return
        self._shrunk_since = None
        self._kept = new
        if self._told:
            self._told = ""
            self._log.info(
                "Groups and roles are read from Keycloak: %d and %d",
                len(new.groups),
                len(new.roles),
            )

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._told = message
            self._log.warning("%s", message)
