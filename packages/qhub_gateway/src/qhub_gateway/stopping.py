"""Ends schedulers and workers, in bulk, until their target says for each that it has ended."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress

from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from qhub_gateway.errors import StopUnconfirmedError, TargetSilentError
from qhub_gateway.records import Records, ref_of, things_of
from qhub_gateway.searching import Searching, numbered, unnumbered
from qhub_gateway.targets.target import JobRef, Phase, Target

_GATHER_SECONDS = 0.02
_STOP_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 10.0


class Stopping:
    """Asks targets for ends, and asks again.

    Args:
        records: What there is.
        starting: Whether workers of a cluster are being submitted: of those, a job's number is not
            known yet.
    """

    def __init__(self, records: Records, starting: Callable[[Cluster], bool]) -> None:
        """See the class."""
        self.records = records
        self.log = records.log
        self.searching = Searching(records)
        self._starting = starting
        self._wanted: dict[str, set[Worker]] = defaultdict(set)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End background work; another gateway asks again."""
        await self.searching.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- whole clusters ----

    async def cluster(self, cluster: Cluster) -> None:
        """End every job of a cluster, of which none is being submitted.

        Raises:
            StopUnconfirmedError: The target has not agreed yet; to be called again.
            TargetSilentError: It does not answer; to be called again.
        """
        if not self.records.refs(cluster):
            return
        target = self.records.target_of(cluster)
        searches = self.searching.begin(target, things_of(cluster))
        refs = numbered(target, self.records.refs(cluster))
        failed = cluster.target == JobStatus.FAILED
        await target.keep_logs(refs if failed else refs[:1])
        over = await self._ended(target, refs)
        if searches:
            await asyncio.wait(searches, timeout=_STOP_SECONDS)
        if not over:
            # those whose end is sure hold nobody's limits while the last one is waited for
            workers = [each for each in things_of(cluster) if isinstance(each, Worker)]
            self._over(target, [each for each in workers if _is_gone(target, each)])
        # one that was found is ended next time
        if not over or set(self.records.refs(cluster)) - set(refs):
            msg = f"{target.name} has not confirmed yet that cluster {cluster.name} has ended"
            raise StopUnconfirmedError(msg)
        target.forget(refs)

    async def _ended(self, target: Target, refs: Collection[JobRef]) -> bool:
        """Ask for the end of jobs, and wait a while for it."""
        left = [ref for ref in refs if target.state(ref).phase is not Phase.ENDED]
        if left:
            await target.stop(left)
        deadline = time.monotonic() + _STOP_SECONDS
        while left and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await target.changed()
            except TimeoutError:
                break
            left = [ref for ref in left if target.state(ref).phase is not Phase.ENDED]
        return not left

    # ---- workers ----

    def worker_soon(self, worker: Worker) -> None:
        """End a worker together with others of its target that come in the next moment.

        Raises:
            StartRefusedError: This gateway is not configured for its target.
        """
        name = self.records.target_of(worker.cluster).name
        self._wanted[name].add(worker)
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(self._workers(name))

    async def _workers(self, name: str) -> None:
        """End workers of all clusters on a target, in bulk, until it agrees for each."""
        target, pause = self.records.targets[name], 1.0
        try:
            while self._wanted[name]:
                await asyncio.sleep(_GATHER_SECONDS)
                try:
                    progress = await self._some(target)
                    pause = 1.0 if progress else min(_LONGEST_PAUSE_SECONDS, pause * 2)
                except TargetSilentError as error:
                    self.log.warning("workers on %s are not ended yet: %s", name, error)
                    pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
                    await asyncio.sleep(pause)
                except Exception:
                    self.log.exception("ending workers on %s failed", name)
                    await asyncio.sleep(pause)
        finally:
            self._tasks.pop(name, None)

    async def _some(self, target: Target) -> bool:
        workers = {
            worker for worker in self._wanted[target.name] if worker.status < JobStatus.STOPPED
        }
        ready = {worker for worker in workers if self._ready(target, worker)}
        self.searching.begin(target, ready)
        refs = numbered(target, [ref for ref in map(ref_of, ready) if ref is not None])
        left = [ref for ref in refs if target.state(ref).phase is not Phase.ENDED]
        failed = {ref_of(worker) for worker in ready if worker.target == JobStatus.FAILED}
        await target.keep_logs([ref for ref in left if ref in failed])
        try:
            await self._ask(target, left)
        finally:
            # whatever it says of these, others may have ended
            gone = self._note(target, ready)
        return bool(gone)

    def _ready(self, target: Target, worker: Worker) -> bool:
        """Whether a worker can be ended; what is just being submitted has no outcome yet."""
        ref = ref_of(worker)
        known = ref is not None and not unnumbered(target, ref)
        return (known and worker.status > JobStatus.CREATED) or not self._starting(worker.cluster)

    @staticmethod
    async def _ask(target: Target, left: Collection[JobRef]) -> None:
        """Ask for the end of jobs, and wait a moment for it."""
        if not left:
            await asyncio.sleep(0.1)
            return
        await target.stop(left)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await target.changed()

    def _note(self, target: Target, ready: Collection[Worker]) -> list[Worker]:
        """Put on record which workers have ended, and return them."""
        gone = [worker for worker in ready if ref_of(worker) is None or _is_gone(target, worker)]
        self._over(target, gone)
        self._wanted[target.name] = {
            worker for worker in self._wanted[target.name] if worker.status < JobStatus.STOPPED
        }
        self.records.put({worker.cluster for worker in gone})
        return gone

    def _over(self, target: Target, gone: Collection[Worker]) -> None:
        now = timestamp()
        ended = [(each, max(JobStatus.STOPPED, each.target)) for each in gone]
        self.records.db.update_workers(
            [(each, {"status": how, "target": how, "stop_time": now}) for each, how in ended]
        )
        target.forget([ref for worker in gone if (ref := ref_of(worker)) is not None])


def _is_gone(target: Target, worker: Worker) -> bool:
    """Whether its target says that a worker's job has ended."""
    ref = ref_of(worker)
    return ref is not None and target.state(ref).phase is Phase.ENDED
