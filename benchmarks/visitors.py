"""People who look at a hub's options page: log in, open it, let it refresh itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

LOGINS_AT_ONCE = 4


@dataclass
class Visitor:
    """One person with a session of their own.

    Attributes:
        name: The hub's name of them.
        client: Their browser, with its cookies.
        pages: Seconds that each page took, from asking to the last byte.
        refreshes: The same of the page's own requests for new figures.
    """

    name: str
    client: httpx.AsyncClient
    pages: list[float] = field(default_factory=list)
    refreshes: list[float] = field(default_factory=list)

    async def log_in(self) -> None:
        """Log in at the hub's form (the dummy authenticator takes any password)."""
        await self.client.get("hub/login")
        fields = {"username": self.name, "password": "x", "_xsrf": self._xsrf}
        answer = await self.client.post("hub/login", data=fields)
        if answer.status_code != 302:
            msg = f"logging in as {self.name}: the hub answered {answer.status_code}"
            raise RuntimeError(msg)

    @property
    def _xsrf(self) -> str:
        return next(
            cookie.value or "" for cookie in self.client.cookies.jar if cookie.name == "_xsrf"
        )

    async def open_page(self, holds: str) -> None:
        """Open the options page, which must hold a certain text."""
        began = time.monotonic()
        answer = await self.client.get("hub/spawn")
        self.pages.append(time.monotonic() - began)
        if answer.status_code != 200 or holds not in answer.text:
            msg = f"the page of {self.name} came with {answer.status_code}, without {holds!r}"
            raise RuntimeError(msg)

    async def refresh(self) -> None:
        """Ask for new figures as the page's script does."""
        began = time.monotonic()
        answer = await self.client.get(
            f"hub/api/users/{self.name}/qhub/profiles", headers={"X-XSRFToken": self._xsrf}
        )
        self.refreshes.append(time.monotonic() - began)
        if answer.status_code != 200:
            msg = f"the figures for {self.name} came with {answer.status_code}: {answer.text[:200]}"
            raise RuntimeError(msg)


@contextlib.asynccontextmanager
async def logged_in(hub_url: str, names: Sequence[str]) -> AsyncIterator[list[Visitor]]:
    """Log in all of them at the hub itself."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with contextlib.AsyncExitStack() as stack:
        visitors = []
        for name in names:
            client = httpx.AsyncClient(base_url=hub_url, limits=limits, timeout=60)
            visitors.append(Visitor(name, await stack.enter_async_context(client)))
        gate = asyncio.Semaphore(LOGINS_AT_ONCE)

        async def log_in(visitor: Visitor) -> None:
            async with gate:
                await visitor.log_in()

        await asyncio.gather(*map(log_in, visitors))
        yield visitors


async def look(
    visitors: Sequence[Visitor],
    seconds: float,
    interval_seconds: float,
    first: Callable[[Visitor], Awaitable[None]],
    again: Callable[[Visitor], Awaitable[None]],
) -> None:
    """Let everybody look for so long: `first` at a random moment of an interval, then `again`.

    The moments are given in advance, so that a slow answer does not make the next one rarer.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(visitor: Visitor) -> None:
        moment = began + random.uniform(0, interval_seconds)  # noqa: S311 - no secret
        deed = first
        while moment < began + seconds:
            await asyncio.sleep(moment - loop.time())
            await deed(visitor)
            deed = again
            moment += interval_seconds

    await asyncio.gather(*map(one, visitors))
    await asyncio.sleep(max(0.0, began + seconds - loop.time()))
