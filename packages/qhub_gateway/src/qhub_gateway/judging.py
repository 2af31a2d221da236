"""Acts on what happens by itself: ends, silence, what comes up too late, and limits.

Time in a queue counts for nothing: start timeouts count from when a job runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from qhub_gateway.limiting import Limiter
from qhub_gateway.metrics import GatewayMetrics, reason_of
from qhub_gateway.records import Records
from qhub_gateway.targets.target import Phase, Target


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds.

    Attributes:
        scheduler_start: From when a scheduler's job runs until it reports.
        worker_start: From when a worker's job runs until it has joined.
        heartbeat: Between two reports of a scheduler.
        look: Until everything is looked at again although no target tells of a change.
    """

    scheduler_start: float
    worker_start: float
    heartbeat: float
    look: float


class Judging:
    """Looks at everything, and says what has failed.

    Args:
        records: What there is.
        metrics: Where failures are counted.
        patience: How long things may take.
        limiter: Who says how much there may be, if anybody.
    """

    def __init__(
        self,
        records: Records,
        metrics: GatewayMetrics,
        patience: Patience,
        limiter: Callable[[], Limiter | None],
    ) -> None:
        """See the class."""
        self.records = records
        self.metrics = metrics
        self.patience = patience
        self.limiter = limiter
        self.log = records.log

    async def watch(self, target: Target) -> None:
        """Look at a target's clusters whenever it tells of a change; cancel to end."""
        while True:
            try:
                async with asyncio.timeout(self.patience.look):
                    await target.changed()
            except TimeoutError:
                pass
            try:
                self.judge(target)
            except Exception:
                self.log.exception("judging the clusters on %s failed", target.name)

    def judge(self, target: Target) -> None:
        """Act on what has ended without being asked to."""
        for cluster in list(self.records.db.active_clusters()):
            if self.records.request_of(cluster).backend != target.name:
                continue
            state = self.records.state_of(cluster)
            if state.phase is Phase.ENDED and cluster.status >= JobStatus.SUBMITTED:
                self.fail(cluster, f"its scheduler ended: {state.words}")
                continue
            ended = [
                worker
                for worker in cluster.workers.values()
                if JobStatus.SUBMITTED <= worker.status <= JobStatus.RUNNING
                and worker.target == JobStatus.RUNNING
                and self.records.state_of(worker).phase is Phase.ENDED
            ]
            self._lost(cluster, ended)

    def _lost(self, cluster: Cluster, workers: Sequence[Worker], late: str = "") -> None:
        """Replace workers that ended by themselves; many that never came up count once.

        Args:
            cluster: Whose they are.
            workers: Those that ended, or came up too late.
            late: Why they are given up although they run.
        """
        if not workers:
            return
        never = [worker for worker in workers if worker.status < JobStatus.RUNNING]
        if never:
            cluster.worker_start_failure_count += 1
            self.records.words[cluster.name] = late or self.records.state_of(never[0]).words
        backend = self.records.request_of(cluster).backend
        for worker in workers:
            words = late or self.records.state_of(worker).words
            self.log.info("worker %s ended: %s", worker.name, words)
            self.metrics.failed("worker", backend=backend, reason=reason_of(words))
        closing = JobStatus.STOPPED
        self.records.db.update_workers(
            [
                (worker, {"target": closing if worker.close_expected else JobStatus.FAILED})
                for worker in workers
            ]
        )
        self.records.put(workers)

    def fail(self, cluster: Cluster, words: str) -> None:
        """Have a cluster ended, and say why."""
        self.log.warning("cluster %s has failed: %s", cluster.name, words)
        backend = self.records.request_of(cluster).backend
        self.metrics.failed("scheduler", backend=backend, reason=reason_of(words))
        state = {**cluster.state, "words": words}
        self.records.db.update_cluster(cluster, target=JobStatus.FAILED, state=state)
        self.records.put([cluster])

    # ---- from time to time ----

    def check_timeouts(self) -> None:
        """Give up what runs and does not come up; what waits in a queue has all the time."""
        now = time.time()
        self._hold_to_limits()
        silent = timestamp() - self.patience.heartbeat * 1000
        for cluster in list(self.records.db.active_clusters()):
            if cluster.status == JobStatus.SUBMITTED:
                if self._late(cluster, now, self.patience.scheduler_start):
                    self.fail(cluster, "its scheduler ran, but did not report to the gateway")
            elif cluster.status == JobStatus.RUNNING:
                if cluster.last_heartbeat < silent:
                    self.fail(cluster, "its scheduler reports no more")
                    continue
                late = [
                    worker
                    for worker in cluster.workers.values()
                    if worker.status == JobStatus.SUBMITTED
                    and worker.target == JobStatus.RUNNING
                    and self._late(worker, now, self.patience.worker_start)
                ]
                patience = f"{self.patience.worker_start:g} s"
                words = f"it ran for {patience} and did not join its scheduler; see its log"
                self._lost(cluster, late, words)

    def _hold_to_limits(self) -> None:
        """End clusters whose hours are used up, and let others have what has become free."""
        for cluster in list(self.records.db.active_clusters()):
            missing = self.records.wanted(cluster) > len(cluster.active_workers())
            if cluster.status == JobStatus.RUNNING and missing:
                self.records.put([cluster])
        limiter = self.limiter()
        for name, words in (limiter.exhausted() if limiter else {}).items():
            cluster = self.records.db.get_cluster(name)
            if cluster is not None and cluster.target <= JobStatus.RUNNING:
                self.fail(cluster, words)

    def _late(self, thing: Cluster | Worker, now: float, seconds: float) -> bool:
        state = self.records.state_of(thing)
        return (
            state.phase is Phase.RUNNING and state.since is not None and now - state.since > seconds
        )
