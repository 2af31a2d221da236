"""What is on record of clusters and workers, and what their targets say of them.

The names of dask-gateway's database and queue stand in few modules: here, and in those that start,
stop and judge.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from dask_gateway_server.backends import db_base
from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker
from dask_gateway_server.utils import timestamp
from sqlalchemy.exc import OperationalError

from qhub_gateway.errors import StartRefusedError
from qhub_gateway.requests import ClusterRequest
from qhub_gateway.targets.target import UNKNOWN, JobRef, State, Target

T = TypeVar("T")

_LOCKED_SECONDS = 20.0


class Records:
    """The database, the queue of what must be looked at, and the targets.

    Args:
        db: dask-gateway's ``DataManager``.
        queue: Its ``WorkQueue``.
        targets: Where clusters may run, by name.
        log: Where what happens is told.

    Attributes:
        words: Why the last workers of a cluster did not start, until some do; for its owner.
    """

    def __init__(
        self, db: Any, queue: Any, targets: Mapping[str, Target], log: logging.Logger
    ) -> None:
        """See the class."""
        self.db = db
        self.queue = queue
        self.targets = targets
        self.log = log
        self.words: dict[str, str] = {}
        self._requests: dict[str, ClusterRequest] = {}

    def put(self, things: Iterable[Cluster | Worker]) -> None:
        """Have clusters and workers brought nearer to what they shall be."""
        for thing in things:
            self.queue.put(thing)

    def request_of(self, cluster: Cluster) -> ClusterRequest:
        """Return what was decided about a cluster."""
        found = self._requests.get(cluster.name)
        if found is None:
            found = ClusterRequest.from_json(cluster.config["request"])
            if not is_over(cluster):  # of what has ended nobody tells when it is looked at last
                self._requests[cluster.name] = found
        return found

    def thin(self, age_seconds: float) -> None:
        """Drop the workers of clusters that ended so long ago; the clusters stay."""
        before = timestamp() - age_seconds * 1000
        old = [
            cluster
            for cluster in self.db.name_to_cluster.values()
            if cluster.workers and cluster.stop_time is not None and cluster.stop_time < before
        ]
        if not old:
            return
        table = db_base.workers
        with self.db.db.begin() as connection:
            for cluster in old:
                connection.execute(table.delete().where(table.c.cluster_id == cluster.id))
        for cluster in old:
            cluster.workers.clear()

    def forget(self, cluster: Cluster) -> None:
        """Keep nothing more in memory of a cluster that has ended."""
        self._requests.pop(cluster.name, None)
        self.words.pop(cluster.name, None)

    def target_of(self, cluster: Cluster) -> Target:
        """Return where a cluster runs.

        Raises:
            StartRefusedError: This gateway is not configured for it.
        """
        name = self.request_of(cluster).backend
        if name not in self.targets:
            known = ", ".join(sorted(self.targets))
            msg = f"this gateway has no {name!r}; QHubGatewayBackend.backends has {known or 'none'}"
            raise StartRefusedError(msg)
        return self.targets[name]

    def state_of(self, thing: Cluster | Worker) -> State:
        """Return what its target says of a cluster's scheduler, or of a worker."""
        ref = ref_of(thing)
        cluster = thing if isinstance(thing, Cluster) else thing.cluster
        target = self.targets.get(self.request_of(cluster).backend)
        return UNKNOWN if ref is None or target is None else target.state(ref)

    def refs(self, cluster: Cluster) -> list[JobRef]:
        """Return every job of a cluster that may not have ended."""
        return [ref for ref in map(ref_of, things_of(cluster)) if ref is not None]

    def unplan_scheduler(self, cluster: Cluster) -> None:
        """Note that a scheduler's job does not exist; what else is on record stays."""
        state = {key: value for key, value in cluster.state.items() if key != "job"}
        self.db.update_cluster(cluster, state=state)

    def unplan_workers(self, workers: Iterable[Worker]) -> None:
        """Note that workers have no jobs."""
        self.db.update_workers([(worker, {"state": {}}) for worker in workers])

    def leaving(self, cluster: Cluster) -> list[Worker]:
        """Return workers whose walltime ends soon, so that each has a successor already."""
        request = self.request_of(cluster)
        if request.replace_before is None or request.walltime is None:
            return []
        age = request.walltime.seconds - request.replace_before.seconds
        soon = time.time() - age
        joined = (
            worker
            for worker in cluster.workers.values()
            if worker.status == worker.target == JobStatus.RUNNING and not worker.close_expected
        )
        return [
            worker
            for worker in joined
            if (since := self.state_of(worker).since) is not None and since < soon
        ]

    def wanted(self, cluster: Cluster) -> int:
        """Return how many workers a cluster is to have now, successors among them."""
        return int(cluster.count) + len(self.leaving(cluster))

    def create_workers(self, cluster: Cluster, count: int) -> list[Worker]:
        """Make workers in one transaction; nothing is started."""
        common = {
            "status": JobStatus.CREATED,
            "target": JobStatus.RUNNING,
            "state": {},
            "start_time": timestamp(),
            "close_expected": False,
        }
        made = []
        with self.db.db.begin() as connection:
            for _ in range(count):
                name = uuid.uuid4().hex
                row = db_base.workers.insert().values(cluster_id=cluster.id, name=name, **common)
                key = connection.execute(row).inserted_primary_key[0]
                made.append(Worker(id=key, name=name, cluster=cluster, **common))
        cluster.workers.update((worker.name, worker) for worker in made)
        self.log.info("created %d workers for cluster %s", count, cluster.name)
        return made


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` does, tried again while the database is locked, for 20 s."""
    deadline = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return await attempt()
        except OperationalError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(0.2)


def is_over(thing: Cluster | Worker) -> bool:
    """Whether a cluster or worker has ended."""
    return bool(thing.status >= JobStatus.STOPPED)


def things_of(cluster: Cluster) -> list[Cluster | Worker]:
    """Return a cluster, for its scheduler, and its workers that may not have ended."""
    workers = (each for each in cluster.workers.values() if each.status < JobStatus.STOPPED)
    return [cluster, *workers]


def ref_of(thing: Cluster | Worker) -> JobRef | None:
    """Return the job of a cluster's scheduler or of a worker, if one was planned."""
    data = (thing.state or {}).get("job")
    return None if data is None else JobRef.from_json(data)
