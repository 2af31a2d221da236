"""What the options page shows of the cluster: one cache for all, at most one query an interval.

A thousand people who open the page cost Slurm nothing more than one. While somebody looks, each
interval brings exactly one query: by turns the queue, and the nodes or Slurm's own estimate for one
profile that cannot start now. At rest these take the place of the poller's own queries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from qhub_spawner.availability import Availability, StartEstimate
from qhub_spawner.errors import SlurmError
from qhub_spawner.profiles import Profile
from qhub_spawner.slurm.capacity import Cluster, availability_of
from qhub_spawner.slurm.door import Door, Machines
from qhub_spawner.slurm.poller import Poller

_PATIENCE_SECONDS = 5.0  # a page that shows old figures, and says so, beats one that does not come

Estimate = Callable[[Profile], Awaitable[datetime | None]]


@dataclass
class _Asked:
    """Slurm's answer for one profile; `taken` and `looked` by the monotonic clock."""

    profile: Profile
    ask: Estimate
    looked: float
    taken: float = 0.0
    at: datetime | None = None


class Views:
    """The page's cache."""

    def __init__(
        self, door: Door, poller: Poller, log: logging.Logger, *, interval_seconds: float = 10.0
    ) -> None:
        """Nothing is asked before somebody looks."""
        self.door = door
        self.poller = poller
        self.log = log
        self.interval_seconds = interval_seconds
        self.machines: Machines | None = None
        self.queries = 0
        self._machines_at = 0.0
        self._queue_next = False
        self._looked = asyncio.Event()
        self._looked_at = 0.0
        self._estimates: dict[str, _Asked] = {}
        self._cluster: tuple[object, object, Cluster] | None = None
        self._views: dict[str, tuple[Profile, Availability]] = {}
        self._filling: asyncio.Task[None] | None = None
        self._filled_at = -math.inf

    async def look(
        self, profiles: tuple[Profile, ...], estimate: Estimate
    ) -> Mapping[str, Availability]:
        """Return what each profile meets now, by slug, from the cache.

        Only the first look after a while without any waits for Slurm, and for no longer than 5 s.
        """
        now, before = time.monotonic(), self._looked_at
        self._looked_at = now
        self._looked.set()
        if self._is_old():
            # while people look, `run` asks; what it cannot get is not asked for twice
            asleep = self.machines is None or now - before > 6 * self.interval_seconds
            filling = self._filling is not None and not self._filling.done()
            if asleep and not filling and now - self._filled_at > self.interval_seconds:
                self._filled_at = now
                self._filling = asyncio.ensure_future(self._fill())
            left = self._filled_at + _PATIENCE_SECONDS - now
            if self._filling is not None and left > 0:
                await asyncio.wait([self._filling], timeout=left)
        cluster = self._grouped()
        if cluster is None:
            problem = self.poller.problem or "no answer from Slurm yet"
            return {profile.slug: Availability(stale=True, problem=problem) for profile in profiles}
        return {profile.slug: self._view(profile, cluster, estimate) for profile in profiles}

    def _view(self, profile: Profile, cluster: Cluster, estimate: Estimate) -> Availability:
        queue, machines = self.poller.queue, self.machines
        if queue is None or machines is None:
            return Availability(stale=True)
        now = datetime.now(UTC)
        view = self._calculated(profile, cluster, min(queue.taken, machines.taken), now)
        if self._is_old():
            view = replace(view, stale=True)
        if view.start.kind == "now" or view.nodes_total is None:
            self._estimates.pop(profile.slug, None)
            return view
        asked = self._estimates.get(profile.slug)
        if asked is None or asked.profile != profile:
            asked = self._estimates[profile.slug] = _Asked(profile, estimate, self._looked_at)
        asked.looked = self._looked_at
        if asked.at is not None and asked.at > now:
            return replace(view, start=StartEstimate("at", asked.at, "slurm"))
        return view

    def _calculated(
        self, profile: Profile, cluster: Cluster, as_of: datetime, now: datetime
    ) -> Availability:
        """Work out once for each answer of Slurm what everybody then sees."""
        known = self._views.get(profile.slug)
        if known is not None and (known[0] is profile or known[0] == profile):
            return known[1]
        view = availability_of(profile, cluster, as_of=as_of, now=now, stale=False)
        self._views[profile.slug] = profile, view
        return view

    def _is_old(self) -> bool:
        """Whether the answers are missing, or older than they get while somebody looks."""
        if self.poller.queue is None or self.machines is None:
            return True
        # by a clock that nobody sets: the wall clock may step while the hub runs
        age = max(self.poller.age_seconds or 0.0, time.monotonic() - self._machines_at)
        return age > 6 * self.interval_seconds

    def _grouped(self) -> Cluster | None:
        queue, machines = self.poller.queue, self.machines
        if queue is None or machines is None:
            return None
        if (
            self._cluster is None
            or self._cluster[0] is not queue
            or self._cluster[1] is not machines
        ):
            cluster = Cluster.of(machines.nodes, queue.jobs, machines.default_partition)
            self._cluster, self._views = (queue, machines, cluster), {}
        return self._cluster[2]

    async def run(self) -> None:
        """Keep the cache fresh while somebody looks; cancel to end."""
        while True:
            if time.monotonic() - self._looked_at > 6 * self.interval_seconds:
                self._looked.clear()
            await self._looked.wait()
            await asyncio.sleep(self.interval_seconds)
            try:
                await self._one_query()
            except SlurmError as error:
                self.log.warning("the view of the cluster is not refreshed: %s", error)
            except Exception:
                # a fault of ours must not end the cache; it is loud, and what was known stays
                self.log.exception("refreshing the view of the cluster failed")

    async def _fill(self) -> None:
        with suppress(SlurmError):
            queue_age = self.poller.age_seconds
            if queue_age is None or queue_age > self.interval_seconds:
                await self.poller.fresh()
            await self.refresh_machines()

    async def refresh_machines(self) -> Machines:
        """Ask for the nodes now."""
        self.queries += 1
        asked_at = time.monotonic()
        self.machines = await self.door.machines()
        self._machines_at = asked_at
        return self.machines

    async def _one_query(self) -> None:
        """Ask one thing: the queue at every other turn, else the nodes or for an estimate.

        At rest this takes the place of the poller's own queries, so that people who look cost
        Slurm nothing more than it is asked anyway.
        """
        if self.poller.failures:
            return  # the poller finds out when Slurm answers again, with growing patience
        now, interval = time.monotonic(), self.interval_seconds
        queue_age = self.poller.age_seconds
        if self.poller.intervals.rest >= interval:
            self.poller.postpone(1.5 * interval)
        if queue_age is None or (self._queue_next and queue_age > 0.9 * interval):
            self._queue_next = False
            self.queries += 1
            await self.poller.fresh()
            return
        self._queue_next = True
        due = [
            asked
            for asked in self._estimates.values()
            if now - asked.taken > 6 * interval and now - asked.looked < 6 * interval
        ]
        if not due or now - self._machines_at > 3.5 * interval:
            await self.refresh_machines()
            return
        asked = min(due, key=lambda one: one.taken)
        asked.taken = now
        self.queries += 1
        asked.at = await asked.ask(asked.profile)
