"""Takes what a scheduler says of its workers, and how many it wants.

The scheduler knows who has joined, and retires those that are idle; which of the others are given
up is decided here, exactly as many as are too many.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp

from qhub_gateway.batching import Pending, Standing, surplus
from qhub_gateway.metrics import GatewayMetrics
from qhub_gateway.records import Records
from qhub_gateway.targets.target import Phase


class Heartbeats:
    """What follows from a scheduler's report.

    Args:
        records: What there is.
        metrics: Where starts are measured.
    """

    def __init__(self, records: Records, metrics: GatewayMetrics) -> None:
        """See the class."""
        self.records = records
        self.metrics = metrics

    def take(self, cluster: Cluster, msg: Mapping[str, Any]) -> None:
        """Take one report."""
        db = self.records.db
        cluster.last_heartbeat = timestamp()
        active, closing, closed = (
            set(msg[f"{kind}_workers"]) for kind in ("active", "closing", "closed")
        )
        count = _allowed_count(cluster, int(msg["count"]))
        update = self._update(cluster, msg)
        if count != cluster.count:
            update["count"] = count
        joined, leaving, gone = [], [], []
        for worker in cluster.workers.values():
            if worker.status >= JobStatus.STOPPED:
                continue
            if worker.name in active | closing and worker.status < JobStatus.RUNNING:
                joined.append(worker)
            if worker.name in closing and not worker.close_expected:
                leaving.append(worker)
            elif worker.name in closed - active and worker.target == JobStatus.RUNNING:
                gone.append(worker)
        if joined:
            cluster.worker_start_failure_count = 0
            self.records.words.pop(cluster.name, None)
            db.update_workers([(each, {"status": JobStatus.RUNNING}) for each in joined])
            self._measure("worker", cluster, joined)
        db.update_workers([(each, {"close_expected": True}) for each in leaving])
        self._lost_by_scheduler(gone)
        if update:
            db.update_cluster(cluster, **update)
            self.records.put([cluster])
        successors = sum(1 for worker in self.records.leaving(cluster) if worker.name in active)
        self._give_up(cluster, joined=len(active), wanted=count + successors)

    def _update(self, cluster: Cluster, msg: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a first report brings."""
        if cluster.status >= JobStatus.RUNNING:
            return {}
        names = ("api_address", "scheduler_address", "dashboard_address")
        update: dict[str, Any] = {name: msg[name] for name in names}
        # its hours count from here, and not from when it was asked for
        update["state"] = {"began": time.time(), **cluster.state}
        if "began" not in cluster.state:
            self._measure("scheduler", cluster, [cluster])
        return update

    def _measure(self, kind: str, cluster: Cluster, things: Iterable[Cluster | Worker]) -> None:
        """Tell how long those that are ready now were in the queue, and how long they started."""
        now, request = time.time(), self.records.request_of(cluster)
        for thing in things:
            made, runs = thing.start_time / 1000, self.records.state_of(thing).since
            self.metrics.started(
                kind,
                profile=request.slug,
                backend=request.backend,
                queue_seconds=(now if runs is None else runs) - made,
                start_seconds=0.0 if runs is None else now - runs,
            )

    def _lost_by_scheduler(self, workers: Sequence[Worker]) -> None:
        for expected, target in ((True, JobStatus.STOPPED), (False, JobStatus.FAILED)):
            these = [worker for worker in workers if bool(worker.close_expected) is expected]
            self.records.db.update_workers([(worker, {"target": target}) for worker in these])
            self.records.put(these)

    def _give_up(self, cluster: Cluster, *, joined: int, wanted: int) -> None:
        pending = [
            worker
            for worker in cluster.workers.values()
            if worker.status < JobStatus.RUNNING and worker.target == JobStatus.RUNNING
        ]
        names = surplus(
            [Pending(each.name, each.id, self._standing(each)) for each in pending],
            joined=joined,
            wanted=wanted,
        )
        these = [cluster.workers[name] for name in names]
        stopped = {"target": JobStatus.STOPPED}
        self.records.db.update_workers([(worker, stopped) for worker in these])
        self.records.put(these)

    def _standing(self, worker: Worker) -> Standing:
        if worker.status == JobStatus.CREATED:
            return Standing.CREATED
        runs = self.records.state_of(worker).phase is Phase.RUNNING
        return Standing.STARTING if runs else Standing.QUEUED


def _allowed_count(cluster: Cluster, count: int) -> int:
    most = cluster.config.get("cluster_max_workers")
    return count if most is None else min(count, most)
