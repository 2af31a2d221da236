"""Jobs of this hub that no server owns: found in the shared answer, and ended.

They come from a reply that was lost, a start that was cancelled at the worst moment, or a hub that
was killed. A job is only ended when its name carries this hub's id, no server watches it, the hub's
database knows nothing of it, and it stood so in answers at least `patience_seconds` apart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from qhub_spawner.errors import SlurmError
from qhub_spawner.slurm.door import Door
from qhub_spawner.slurm.jobs import Job, JobState, Queue, spawn_ids
from qhub_spawner.slurm.poller import Poller


class Reaper:
    """Compares the queue with what the hub owns."""

    def __init__(
        self,
        poller: Poller,
        door: Door,
        hub_id: str,
        log: logging.Logger,
        *,
        patience_seconds: float = 20.0,
        end_orphans: bool = True,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            poller: Where the answers come from.
            door: How orphans are ended.
            hub_id: Whose jobs are meant.
            log: Where each orphan is named.
            patience_seconds: How long a job must stand without an owner.
            end_orphans: Whether to cancel, or only to log.
        """
        self.poller = poller
        self.door = door
        self.hub_id = hub_id
        self.log = log
        self.patience_seconds = patience_seconds
        self.end_orphans = end_orphans
        self.recorded: Callable[[], Collection[str]] = frozenset
        self.ended = 0
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Look at every answer; cancel to end."""
        while True:
            await self._next_answer()
            if self.poller.queue is not None and not self.poller.failures:
                try:
                    await self.look(self.poller.queue)
                except Exception:
                    self.log.exception("looking for jobs without an owner failed")
            await asyncio.sleep(0)

    async def _next_answer(self) -> None:
        """Wait for the poller's next answer, or ask for one when a job's time has come."""
        due = self._due_in()
        if due is None:
            await self.poller.tick()
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self.poller.tick(), due)
            return
        await self.poller.fresh()

    def _due_in(self) -> float | None:
        if not self._seen:
            return None
        left = min(self._seen.values()) + self.patience_seconds - time.monotonic()
        # what should have ended by now is tried again, at the poller's pace but for the first time
        return left if left > 0 else self.poller.intervals.rest

    async def look(self, queue: Queue) -> None:
        """End what has stood without an owner for long enough."""
        now = time.monotonic()
        orphans = self.orphans(queue)
        self._seen = {job.name: self._seen.get(job.name, now) for job in orphans}
        due = [job for job in orphans if now - self._seen[job.name] >= self.patience_seconds]
        if not due:
            return
        recorded = self.recorded()
        for job in due:
            if job.name in recorded or self.poller.watches(job.name):
                continue
            if not self.end_orphans:
                self.log.warning("job %d (%s) of %s has no server", job.job_id, job.name, job.user)
                continue
            self.log.warning(
                "ending job %d (%s) of %s: no server owns it", job.job_id, job.name, job.user
            )
            try:
                await self.door.cancel(job.user, job.job_id, job.name)
                self.ended += 1
            except SlurmError as error:
                self.log.warning("job %d is not ended yet: %s", job.job_id, error)

    def orphans(self, queue: Queue) -> list[Job]:
        """Return this hub's live jobs that nobody watches; those on their way out are not live."""
        mine = (queue.by_name[name] for name in spawn_ids(queue.by_name, self.hub_id))
        return [
            job
            for job in mine
            if not job.state.over
            and job.state is not JobState.COMPLETING
            and not self.poller.watches(job.name)
        ]
