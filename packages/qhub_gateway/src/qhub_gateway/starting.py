"""Starts schedulers and workers: a job's name is on record before its target hears of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from dask_gateway_server.backends.db_base import Cluster, JobStatus, Worker

from qhub_gateway.errors import (
    QHubGatewayError,
    StartRefusedError,
    TargetFullError,
    TargetSilentError,
)
from qhub_gateway.metrics import GatewayMetrics, reason_of
from qhub_gateway.records import Records, ref_of
from qhub_gateway.targets.target import ClusterSpec, JobRef, WorkerSpec

_GATHER_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 10.0
_MOST = 100_000


class Starting:
    """Submits, each thing once; workers of a cluster together.

    Args:
        records: What there is.
        metrics: Where submissions are counted.
        spec_of: Says how a cluster is started.
    """

    def __init__(
        self, records: Records, metrics: GatewayMetrics, spec_of: Callable[[Cluster], ClusterSpec]
    ) -> None:
        """See the class."""
        self.records = records
        self.metrics = metrics
        self.spec_of = spec_of
        self.log = records.log
        self._waiting: dict[str, dict[str, Worker]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._over: dict[str, asyncio.Event] = {}
        self._submitting: set[str] = set()

    async def close(self) -> None:
        """End background work; what was submitted goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def busy(self, cluster: Cluster) -> bool:
        """Whether workers of a cluster are being submitted now, not waiting for room."""
        return cluster.name in self._submitting

    async def settled(self, cluster: Cluster) -> None:
        """Wait until no worker of a cluster that is to end is being submitted."""
        task = self._tasks.get(cluster.name)
        if task is not None:
            self._over[cluster.name].set()
            await asyncio.wait([task])

    # ---- schedulers ----

    async def scheduler(self, cluster: Cluster) -> None:
        """Start a cluster's scheduler, or find out that it was started already.

        Raises:
            TargetSilentError: The target does not answer; to be called again.
            StartRefusedError: The target says no.
        """
        db = self.records.db
        target, spec = self.records.target_of(cluster), self.spec_of(cluster)
        ref = ref_of(cluster)
        if ref is None:
            ref, found = target.plan_scheduler(spec), None
            db.update_cluster(cluster, state={**cluster.state, "job": ref.to_json()})
        elif target.repeatable and cluster.target == JobStatus.RUNNING:
            found = None  # asked again, it is the same job
        else:
            # on record, but not its outcome: an earlier gateway, or a target that fell silent
            found = await target.find([ref])
        if cluster.target != JobStatus.RUNNING and found is None:
            self.records.unplan_scheduler(cluster)
            return
        ref = found[0] if found else await target.start_scheduler(spec, ref)
        state = {**cluster.state, "job": ref.to_json()}
        db.update_cluster(cluster, state=state, status=JobStatus.SUBMITTED)
        self.log.info("cluster %s is job %s", cluster.name, ref.number or ref.name)
        self.metrics.submitted("scheduler", backend=target.name)
        if cluster.scheduler_address:
            self.records.put([cluster])  # it was faster than its target's reply

    # ---- workers ----

    def workers_soon(self, cluster: Cluster, workers: Iterable[Worker]) -> None:
        """Submit workers together with others of the cluster that come in the next moment."""
        waiting = self._waiting.setdefault(cluster.name, {})
        waiting.update((worker.name, worker) for worker in workers)
        if waiting and cluster.name not in self._tasks:
            self._over[cluster.name] = asyncio.Event()
            self._tasks[cluster.name] = asyncio.ensure_future(self._workers(cluster))

    async def _workers(self, cluster: Cluster) -> None:
        pause, most = 1.0, _MOST
        try:
            while True:
                await asyncio.sleep(_GATHER_SECONDS)
                workers = self._due(self._waiting.pop(cluster.name, {}).values())
                if not workers or cluster.target != JobStatus.RUNNING:
                    return
                some, smaller = workers[:most], False
                self._submitting.add(cluster.name)
                try:
                    await self._submit(cluster, some)
                    most = min(_MOST, 2 * most)
                except TargetFullError as error:
                    # there may be room for some of them
                    smaller, most = len(some) > 1, max(1, len(some) // 2)
                    if not smaller:
                        self._full(cluster, some, error)
                except TargetSilentError as error:
                    self.log.warning("workers of cluster %s wait: %s", cluster.name, error)
                except Exception:
                    self.log.exception("starting workers of cluster %s failed", cluster.name)
                finally:
                    self._submitting.discard(cluster.name)
                left = self._due(workers)
                self._waiting.setdefault(cluster.name, {}).update(
                    (worker.name, worker) for worker in left
                )
                if smaller or not self._due(some):
                    pause = 1.0
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._over[cluster.name].wait(), pause)
                    pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        finally:
            self._tasks.pop(cluster.name, None)
            self._over.pop(cluster.name, None)
            if cluster.target != JobStatus.RUNNING:
                self.records.put([cluster])

    @staticmethod
    def _due(workers: Iterable[Worker]) -> list[Worker]:
        return [
            worker
            for worker in workers
            if worker.status == JobStatus.CREATED and worker.target == JobStatus.RUNNING
        ]

    def _full(self, cluster: Cluster, workers: Sequence[Worker], error: TargetFullError) -> None:
        """Let a worker wait for which there is no room, unless there may never be any."""
        others = (JobStatus.SUBMITTED <= each.status <= JobStatus.RUNNING for each in _of(cluster))
        if error.certain or any(others):
            self.log.warning("workers of cluster %s wait: %s", cluster.name, error)
            self.records.words[cluster.name] = str(error)
        else:
            self._refused(cluster, workers, error)

    def _refused(
        self, cluster: Cluster, workers: Sequence[Worker], error: QHubGatewayError
    ) -> None:
        self.log.warning("workers of cluster %s: %s", cluster.name, error)
        self.records.words[cluster.name] = str(error)
        cluster.worker_start_failure_count += 1
        self.records.unplan_workers(workers)
        backend, reason = self.records.request_of(cluster).backend, reason_of(str(error))
        for _ in workers:
            self.metrics.failed("worker", backend=backend, reason=reason)
        failed = {"status": JobStatus.SUBMITTED, "target": JobStatus.FAILED}
        self.records.db.update_workers([(worker, failed) for worker in workers])
        self.records.put(workers)

    async def _submit(self, cluster: Cluster, workers: Sequence[Worker]) -> None:
        target, spec = self.records.target_of(cluster), self.spec_of(cluster)
        by_name = {worker.name: worker for worker in workers}
        again: list[WorkerSpec] = []
        for known in _on_record(workers):
            # their outcome is not on record
            if target.repeatable:
                again += known
                continue
            refs = await target.find([each.ref for each in known])
            if refs is None:
                self.records.unplan_workers([by_name[each.name] for each in known])
            else:
                self._submitted([by_name[each.name] for each in known], refs)
        new = [worker.name for worker in workers if ref_of(worker) is None]
        groups: list[Sequence[WorkerSpec]] = [again] if again else []
        groups += target.plan_workers(spec, new) if new else []
        self.records.db.update_workers(
            [
                (by_name[each.name], {"state": {"job": each.ref.to_json()}})
                for group in groups
                for each in group
            ]
        )
        for group in groups:
            members = [by_name[each.name] for each in group]
            try:
                self._submitted(members, await target.start_workers(spec, group))
            except StartRefusedError as error:
                self._refused(cluster, members, error)
            except TargetSilentError as error:
                # those that were started are judged, whatever the others wait for
                there = [
                    (member, each.ref)
                    for member, each in zip(members, group, strict=True)
                    if each.ref.name in error.started
                ]
                if there:
                    started, refs = zip(*there, strict=True)
                    self._submitted(started, refs)
                raise
            except TargetFullError:
                # names are for one submission of so many
                self.records.unplan_workers(
                    [member for other in groups for member in _not_yet(by_name, other)]
                )
                raise

    def _submitted(self, workers: Sequence[Worker], refs: Sequence[JobRef]) -> None:
        db = self.records.db
        db.update_workers(
            [
                (worker, {"state": {"job": ref.to_json()}})
                for worker, ref in zip(workers, refs, strict=True)
            ]
        )
        # one may have joined its scheduler already
        early = [worker for worker in workers if worker.status == JobStatus.CREATED]
        db.update_workers([(worker, {"status": JobStatus.SUBMITTED}) for worker in early])
        self.records.words.pop(workers[0].cluster.name, None)
        self.log.info("submitted %d workers, job %s", len(workers), refs[0].number or refs[0].name)
        backend = self.records.request_of(workers[0].cluster).backend
        self.metrics.submitted("workers", backend=backend)


def _of(cluster: Cluster) -> list[Worker]:
    return list(cluster.workers.values())


def _not_yet(by_name: Mapping[str, Worker], group: Sequence[WorkerSpec]) -> list[Worker]:
    members = (by_name[each.name] for each in group)
    return [member for member in members if member.status == JobStatus.CREATED]


def _on_record(workers: Sequence[Worker]) -> list[list[WorkerSpec]]:
    groups: dict[str, list[WorkerSpec]] = defaultdict(list)
    for worker in workers:
        ref = ref_of(worker)
        if ref is not None:
            groups[ref.name].append(WorkerSpec(worker.name, ref))
    return list(groups.values())
