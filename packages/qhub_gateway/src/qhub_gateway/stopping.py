"""Ends schedulers and workers, in bulk, until their target says for each that it has ended."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection

from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from qhub_gateway.errors import StopUnconfirmedError, TargetSilentError
from qhub_gateway.records import Records, ref_of
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
        self._starting = starting
        self._wanted: dict[str, set[Worker]] = defaultdict(set)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End background work; another gateway asks again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- whole clusters ----

    async def cluster(self, cluster: Cluster) -> None:
        """End every job of a cluster.

        Raises:
            StopUnconfirmedError: The target has not agreed yet; to be called again.
            TargetSilentError: It does not answer; to be called again.
        """
        refs = self.records.refs(cluster)
        if not refs:
            return
        target = self.records.target_of(cluster)
        if not await self._ended(target, refs):
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
        # of one that is just being submitted, the number is not known yet
        ready = {
            worker
            for worker in workers
            if worker.status > JobStatus.CREATED or not self._starting(worker.cluster)
        }
        refs = {ref: worker for worker in ready if (ref := ref_of(worker)) is not None}
        left = [ref for ref in refs if target.state(ref).phase is not Phase.ENDED]
        if left:
            await target.stop(left)
            try:
                async with asyncio.timeout(1.0):
                    await target.changed()
            except TimeoutError:
                pass
        elif not ready:
            await asyncio.sleep(0.1)
        gone = [
            worker
            for worker in ready
            if (ref := ref_of(worker)) is None or target.state(ref).phase is Phase.ENDED
        ]
        now = timestamp()
        self.records.db.update_workers(
            [(worker, {"status": worker.target, "stop_time": now}) for worker in gone]
        )
        target.forget([ref for worker in gone if (ref := ref_of(worker)) is not None])
        self._wanted[target.name] = {
            worker for worker in self._wanted[target.name] if worker.status < JobStatus.STOPPED
        }
        self.records.put({worker.cluster for worker in gone})
        return bool(gone)
