"""Tells the hub whose clusters are at work, so that the servers they were made from are not idle.

A notebook that waits for its cluster does nothing itself. Each scheduler is asked, about once a
minute, whether it has tasks in work: by Dask's own ``/json/counts.json`` beside its dashboard,
which is there without bokeh, too. A scheduler says itself where that is, and it is its owner's
program: only where its job runs (see `whereabouts`), a host's number and a port of programs are
gone to, no redirect is followed, and nobody is shown the answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from dask_gateway_server.backends.db_base import JobStatus
from traitlets import Float
from traitlets.config import LoggingConfigurable

from qhub_gateway.bodies import BodyTooLargeError, whole
from qhub_gateway.errors import HubUnavailableError, PersonUnclearError, TargetSilentError
from qhub_gateway.requests import ClusterRequest

__all__ = ["BusyWatch", "at_work", "counts_url"]

WAITS = "a Dask cluster waits for its start"
WORKS = "a Dask cluster works"
MAY_WORK = "a Dask cluster may work"

_LEAST_PORT = 1024
_LARGEST_ANSWER_BYTES = 2**16
# One that was silent before is not waited for as long: a round has to be over well before what the
# hub was told last counts no more.
_ANSWER_SECONDS, _AGAIN_SECONDS = 10.0, 1.0
_AT_ONCE = 50
_UNKNOWN_SECONDS = 3600.0


def counts_url(dashboard: str) -> str | None:
    """Return where a scheduler says how many tasks it has; ``None`` if its address is none.

    Args:
        dashboard: As the scheduler says it, e.g. ``http://10.1.2.3:8787``.
    """
    try:
        parts = urlsplit(dashboard)
        host, port = ipaddress.ip_address(parts.hostname or ""), parts.port or 0
    except ValueError:
        return None
    if parts.scheme != "http" or port < _LEAST_PORT or host.is_link_local:
        return None
    shown = f"[{host}]" if host.version == 6 else str(host)  # noqa: PLR2004 - IPv6
    return f"http://{shown}:{port}/json/counts.json"


def at_work(counts: object) -> bool | None:
    """Return whether a scheduler has tasks in work; ``None`` if its answer makes no sense.

    Args:
        counts: Of ``/json/counts.json`` (distributed 2026.8): ``{"processing": 3, "waiting": 0,
            "unrunnable": 0, "workers": 2, "desired_workers": 2, …}``. Tasks that no worker can take
            are unrunnable, or in a queue that is not counted: while there is no worker, one is
            desired only for those.
    """
    if not isinstance(counts, dict):
        return None
    names = ("processing", "waiting", "unrunnable", "workers", "desired_workers")
    found = [counts.get(name) for name in names]
    if not all(isinstance(count, int) for count in found):
        return None
    processing, waiting, unrunnable, workers, desired = found
    return bool(processing or waiting or unrunnable or (desired and not workers))


class BusyWatch(LoggingConfigurable):
    """Asks the schedulers, and tells the hub."""

    period = Float(
        60.0,
        min=0.0,
        config=True,
        help="""
        How often schedulers are asked whether they have tasks in work, in seconds; the hub then
        does not end the servers that those clusters were made from. 0 asks none. What the hub was
        told counts for 150 seconds, so leave it below. Default: 60.
        """,
    )

    def __init__(
        self,
        clusters: Callable[[], Iterable[Any]],
        request_of: Callable[[Any], ClusterRequest],
        where: Callable[[Any], Awaitable[str | None]],
        tell: Callable[[str, str | None, str], Awaitable[None]],
        **kwargs: Any,  # noqa: ANN401 - traitlets
    ) -> None:
        """Nothing is asked before `run`.

        Args:
            clusters: Says which clusters of dask-gateway there are.
            request_of: Says what was decided about one.
            where: Says where the dashboard of one is, if it is its own; raises TargetSilentError.
            tell: Tells the hub whose server (``None``: all of theirs) is busy with what; raises
                HubUnavailableError.
            **kwargs: Of traitlets.
        """
        super().__init__(**kwargs)
        self._clusters = clusters
        self._request_of = request_of
        self._where = where
        self._tell = tell
        self._answered: dict[str, float] = {}
        self._silent: set[str] = set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while self.period:
            await asyncio.sleep(self.period)
            try:
                await self.look()
            except Exception:
                self.log.exception("looking for clusters at work failed")

    async def look(self) -> None:
        """Make one round; it is broken off where the hub does not take what it is told."""
        clusters = [(each, self._request_of(each)) for each in self._clusters()]
        names = {cluster.name for cluster, _ in clusters}
        self._answered = {name: at for name, at in self._answered.items() if name in names}
        self._silent &= names
        turn = asyncio.Semaphore(_AT_ONCE)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            found = await asyncio.gather(
                *(self._busy_with(session, turn, *cluster) for cluster in clusters)
            )
        said: dict[tuple[str, str | None], str] = {}
        for (_, request), what in zip(clusters, found, strict=True):
            if what:
                said.setdefault((request.owner.name, request.owner.server), what)
        for (owner, server), what in said.items():
            try:
                await self._tell(owner, server, what)
            except PersonUnclearError as error:
                self.log.warning("%s; servers of %s may end though a cluster works", error, owner)
            except HubUnavailableError as error:
                self.log.warning("%s; servers of people whose clusters work may end", error)
                return

    async def _busy_with(
        self,
        session: aiohttp.ClientSession,
        turn: asyncio.Semaphore,
        cluster: Any,  # noqa: ANN401 - dask-gateway's
        request: ClusterRequest,
    ) -> str:
        """Say what a cluster does; empty if nothing."""
        if cluster.status < JobStatus.RUNNING:
            return WAITS
        name, now = cluster.name, time.monotonic()
        limit = _AGAIN_SECONDS if name in self._silent else _ANSWER_SECONDS
        works = None
        with suppress(TargetSilentError, TimeoutError):
            async with turn, asyncio.timeout(limit):
                works = await _asked(session, counts_url(await self._where(cluster) or ""))
        if works is not None:
            self._answered[name] = now
            self._silent.discard(name)
            return WORKS if works else ""
        if name not in self._silent:
            self._silent.add(name)
            self.log.warning("the scheduler of cluster %s does not say whether it works", name)
        # one with an idle timeout ends itself; another may stand there for ever
        patient = now - self._answered.setdefault(name, now) < _UNKNOWN_SECONDS
        return MAY_WORK if patient or request.idle_timeout is not None else ""


async def _asked(session: aiohttp.ClientSession, url: str | None) -> bool | None:
    """Return whether a scheduler has tasks in work; ``None`` if it does not say."""
    if url is None:
        return None
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await whole(response.content.iter_any(), _LARGEST_ANSWER_BYTES)
            return at_work(json.loads(body))
    except (aiohttp.ClientError, OSError, ValueError, RecursionError, BodyTooLargeError):
        return None
