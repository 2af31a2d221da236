"""Dask-Gateway's backend: one for every target, on its database.

What dask-gateway keeps (clusters, workers, their state and what they shall become) stays as it is;
how they come to be and how they end is done here in bulk. A job's name is in the database before
its target hears of it, so that a gateway that was killed finds each of its jobs again. Time in a
queue counts for nothing: a job that waits keeps its place, and start timeouts count from when it
runs.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from aiohttp.web import Application
from dask_gateway_server.backends import db_base
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, DBBackendBase, JobStatus, Worker
from dask_gateway_server.utils import timestamp
from sqlalchemy.exc import OperationalError
from traitlets import Dict, Float, List, Unicode, default

from qhub_gateway.api import Api
from qhub_gateway.batching import Pending, Standing, surplus
from qhub_gateway.cluster_config import QHubClusterConfig
from qhub_gateway.errors import (
    LimitReachedError,
    QHubGatewayError,
    RequestRefusedError,
    StartRefusedError,
    StopUnconfirmedError,
    TargetSilentError,
)
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.metrics import reason_of
from qhub_gateway.options import ProfileOptions
from qhub_gateway.people import People
from qhub_gateway.requests import ClusterRequest
from qhub_gateway.targets.target import (
    UNKNOWN,
    WORKER_NAME,
    ClusterSpec,
    JobRef,
    Phase,
    State,
    Target,
    WorkerSpec,
)
from qhub_spawner.launch import default_hub_id

T = TypeVar("T")

_LOCKED_SECONDS = 20.0
_GATHER_SECONDS = 0.02
_STOP_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 10.0


class Limiter(Protocol):
    """Who says how much there may be."""

    async def admit(self, user: object, config: QHubClusterConfig) -> None:
        """Let a new cluster be made.

        Raises:
            LimitReachedError: It may not; names the limit and what is in use.
        """

    def granted(self, cluster: Cluster, count: int) -> int:
        """Return how many workers the cluster may have of the `count` that it wants."""

    def exhausted(self) -> Mapping[str, str]:
        """Return the names of clusters whose hours are used up, each with why."""


class QHubGatewayBackend(DBBackendBase):  # type: ignore[misc]  # dask-gateway has no types
    """Clusters on Slurm, on Kubernetes and beside the gateway, each where its profile says."""

    # a whole cluster is ended at once, not worker by worker
    supports_bulk_shutdown = True

    gateway_id = Unicode(
        config=True,
        help="""
        This gateway's name on its targets: 1 to 16 lower-case letters and digits, another than the
        hub's.

        Each job carries it; jobs of this gateway that it does not know are ended. Must stay the
        same as long as the database does. Default: derived from `db_encrypt_keys`, and so
        different for each gateway; without keys, another at each start.

        Example: ``c.QHubGatewayBackend.gateway_id = "proddask"``
        """,
    )
    backends = List(
        Unicode(),
        default_value=["slurm"],
        config=True,
        help="""
        Where clusters may run: "slurm", "local". Default: "slurm".

        Example: ``c.QHubGatewayBackend.backends = ["local"]``
        """,
    )
    local_folder = Unicode(
        config=True,
        help="""
        Where clusters beside the gateway keep their keys and logs. Default: a folder of the
        account's state, ``~/.local/state/qhub/gateway``.
        """,
    )
    worker_variables = Dict(
        config=True,
        help="""
        Environment variables of every scheduler and worker. Default: none.

        Example: ``c.QHubGatewayBackend.worker_variables = {"OMP_NUM_THREADS": "1"}``
        """,
    )
    state_period = Float(
        30.0,
        min=1.0,
        config=True,
        help="""
        Seconds until everything is looked at again although no target tells of a change.
        Default: 30.
        """,
    )

    limiter: Limiter | None = None

    @default("gateway_id")
    def _default_gateway_id(self) -> str:
        # without a database that lasts, there is nothing to last for
        return default_hub_id(self.db_encrypt_keys[-1] if self.db_encrypt_keys else os.urandom(16))

    @default("stop_clusters_on_shutdown")
    def _default_stop_clusters_on_shutdown(self) -> bool:
        # with a database the next gateway takes them up
        return self.db_url in {"sqlite://", "sqlite:///:memory:"}

    @default("cluster_config_class")
    def _default_cluster_config_class(self) -> type[QHubClusterConfig]:
        return QHubClusterConfig

    @default("cluster_options")
    def _default_cluster_options(self) -> Callable[[Any], Awaitable[ProfileOptions]]:
        return self.people.options

    @default("parallelism")
    def _default_parallelism(self) -> int:
        return 50

    @default("backoff_max_delay")
    def _default_backoff_max_delay(self) -> float:
        return _LONGEST_PAUSE_SECONDS

    @default("local_folder")
    def _default_local_folder(self) -> str:
        return str(Path.home() / ".local/state/qhub/gateway")

    def __init__(self, **kwargs: Any) -> None:
        """Nothing is asked of a target before `setup`."""
        super().__init__(**kwargs)
        self.people = People(parent=self)
        self.api = Api(self)
        self.targets: dict[str, Target] = {}
        self._opened = asyncio.Event()
        self._requests: dict[str, ClusterRequest] = {}
        self._to_start: dict[str, dict[str, Worker]] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._to_stop: dict[str, set[Worker]] = defaultdict(set)
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # ---- opening and closing ----

    def make_targets(self) -> Mapping[str, Target]:
        """Return the targets that are configured, by name."""
        made: dict[str, Target] = {}
        if "slurm" in self.backends:
            from qhub_gateway.targets.slurm import SlurmTarget  # noqa: PLC0415 - as configured
            from qhub_spawner.slurm.backend import SlurmBackend  # noqa: PLC0415

            door = SlurmBackend(parent=self, hub_id=self.gateway_id)
            made["slurm"] = SlurmTarget(door, self.log)
            self.people.account_limits = door.limits
        if "local" in self.backends:
            from qhub_gateway.targets.local import LocalTarget  # noqa: PLC0415

            made["local"] = LocalTarget(Path(self.local_folder))
        return made

    async def setup(self, app: Application) -> None:
        """Begin, with our routes beside dask-gateway's own."""
        self.api.add_to(app)
        await super().setup(app)

    async def do_setup(self) -> None:
        """Take up what an earlier gateway left, then let everything begin."""
        self.targets = dict(self.make_targets())
        if self.limiter is None:
            self.limiter = DatabaseLimiter(
                self.people.most, self.db.name_to_cluster.values, _is_over
            )
        for cluster in self.db.name_to_cluster.values():
            if cluster.status < JobStatus.STOPPED:
                for ref in self._refs(cluster):
                    self._target(cluster).follow(ref)
        for target in self.targets.values():
            await target.open()
        self._tasks = [
            asyncio.ensure_future(self._watch(target)) for target in self.targets.values()
        ]
        self._opened.set()

    async def do_cleanup(self) -> None:
        """End background work; what runs goes on."""
        tasks = [*self._tasks, *self._starting.values(), *self._stopping.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for target in self.targets.values():
            await target.close()

    def _target(self, cluster: Cluster) -> Target:
        name = self.request_of(cluster).backend
        if name not in self.targets:
            msg = f"this gateway has no {name!r}; QHubGatewayBackend.backends is {self.backends}"
            raise StartRefusedError(msg)
        return self.targets[name]

    def request_of(self, cluster: Cluster) -> ClusterRequest:
        """Return what was decided about a cluster."""
        found = self._requests.get(cluster.name)
        if found is None:
            found = self._requests[cluster.name] = ClusterRequest.from_json(
                cluster.config["request"]
            )
        return found

    def spec_of(self, cluster: Cluster) -> ClusterSpec:
        """Return a cluster as its target starts it."""
        environment = {**self.worker_variables, **self.get_env(cluster)}
        return ClusterSpec(
            name=cluster.name,
            request=self.request_of(cluster),
            scheduler_argv=tuple(self.get_scheduler_command(cluster)),
            worker_argv=tuple(self.get_worker_command(cluster, WORKER_NAME)),
            environment={name: str(value) for name, value in environment.items()},
            tls_cert=cluster.tls_cert,
            tls_key=cluster.tls_key,
        )

    # ---- what is known ----

    def state_of(self, thing: Cluster | Worker) -> State:
        """Return what its target says of a cluster's scheduler, or of a worker."""
        ref = ref_of(thing)
        cluster = thing if isinstance(thing, Cluster) else thing.cluster
        target = self.targets.get(self.request_of(cluster).backend)
        return UNKNOWN if ref is None or target is None else target.state(ref)

    def _refs(self, cluster: Cluster) -> list[JobRef]:
        things = (cluster, *(w for w in cluster.workers.values() if w.status < JobStatus.STOPPED))
        return [ref for ref in map(ref_of, things) if ref is not None]

    async def _watch(self, target: Target) -> None:
        while True:
            try:
                async with asyncio.timeout(self.state_period):
                    await target.changed()
            except TimeoutError:
                pass
            try:
                self._judge(target)
            except Exception:
                self.log.exception("judging the clusters on %s failed", target.name)

    def _judge(self, target: Target) -> None:
        """Act on what has ended without being asked to."""
        for cluster in list(self.db.active_clusters()):
            if self.request_of(cluster).backend != target.name:
                continue
            state = self.state_of(cluster)
            if state.phase is Phase.ENDED and cluster.status >= JobStatus.SUBMITTED:
                self._fail(cluster, f"its scheduler ended: {state.words}")
                continue
            ended = [
                worker
                for worker in cluster.workers.values()
                if JobStatus.SUBMITTED <= worker.status <= JobStatus.RUNNING
                and worker.target == JobStatus.RUNNING
                and self.state_of(worker).phase is Phase.ENDED
            ]
            self._lost(cluster, ended)

    def _lost(self, cluster: Cluster, workers: Sequence[Worker]) -> None:
        """Replace workers that ended by themselves; many that never came up count once."""
        if not workers:
            return
        if any(worker.status < JobStatus.RUNNING for worker in workers):
            cluster.worker_start_failure_count += 1
        backend = self.request_of(cluster).backend
        for worker in workers:
            words = self.state_of(worker).words
            self.log.info("worker %s ended: %s", worker.name, words)
            self.api.metrics.failed("worker", backend=backend, reason=reason_of(words))
        closing = JobStatus.STOPPED
        self.db.update_workers(
            [
                (worker, {"target": closing if worker.close_expected else JobStatus.FAILED})
                for worker in workers
            ]
        )
        self._put(workers)

    def _fail(self, cluster: Cluster, words: str) -> None:
        self.log.warning("cluster %s has failed: %s", cluster.name, words)
        backend = self.request_of(cluster).backend
        self.api.metrics.failed("scheduler", backend=backend, reason=reason_of(words))
        state = {**cluster.state, "words": words}
        self.db.update_cluster(cluster, target=JobStatus.FAILED, state=state)
        self.queue.put(cluster)

    def _put(self, things: Iterable[Cluster | Worker]) -> None:
        for thing in things:
            self.queue.put(thing)

    # ---- clusters ----

    async def start_cluster(self, user: Any, cluster_options: object) -> str:
        """Make a cluster for `user`; see `limiter`."""
        options, config = await self.process_cluster_options(user, cluster_options)

        async def made() -> Cluster:
            if self.limiter is not None:
                try:
                    await self.limiter.admit(user, config)
                except (LimitReachedError, RequestRefusedError) as refusal:
                    self.api.metrics.refused("limit")
                    raise PublicException(str(refusal)) from refusal
            # nothing may be awaited between the two
            return self.db.create_cluster(user.name, options, config.to_dict())

        cluster = await _patiently(made)
        self.log.info("created cluster %s for %s", cluster.name, user.name)
        self.queue.put(cluster)
        return str(cluster.name)

    async def stop_cluster(self, cluster_name: str, failed: bool = False) -> None:
        """End a cluster; returns when that is on record."""
        stop = super().stop_cluster
        await _patiently(lambda: stop(cluster_name, failed=failed))

    async def reconcile_cluster(self, cluster: Cluster) -> None:
        """Bring a cluster nearer to what it shall be."""
        await self._opened.wait()
        await super().reconcile_cluster(cluster)

    async def _cluster_to_submitted(self, cluster: Cluster) -> None:
        try:
            await self._start_scheduler(cluster)
        except TargetSilentError:
            raise  # asked again, after a pause that grows
        except QHubGatewayError as error:
            self.db.update_cluster(cluster, status=JobStatus.SUBMITTED)
            self._fail(cluster, str(error))
            cluster.ready.set()

    async def _start_scheduler(self, cluster: Cluster) -> None:
        target, spec = self._target(cluster), self.spec_of(cluster)
        ref = ref_of(cluster)
        if ref is None:
            ref, found = target.plan_scheduler(spec), None
            self._keep(cluster, ref)
        else:
            # on record, but not its outcome: an earlier gateway, or a target that fell silent
            found = await target.find([ref])
        if cluster.target != JobStatus.RUNNING and found is None:
            self.db.update_cluster(cluster, state={})
            return
        ref = found[0] if found else await target.start_scheduler(spec, ref)
        state = {**cluster.state, "job": ref.to_json()}
        self.db.update_cluster(cluster, state=state, status=JobStatus.SUBMITTED)
        self.log.info("cluster %s is job %s", cluster.name, ref.number)
        self.api.metrics.submitted("scheduler", backend=target.name)
        if cluster.scheduler_address:
            self.queue.put(cluster)  # it was faster than its target's reply

    def _keep(self, cluster: Cluster, ref: JobRef) -> None:
        self.db.update_cluster(cluster, state={**cluster.state, "job": ref.to_json()})

    async def _cluster_to_closing(self, cluster: Cluster) -> None:
        """Close all workers in one transaction; they are ended with their scheduler."""
        closing = {"status": JobStatus.CLOSING, "target": JobStatus.CLOSING}
        workers = [each for each in cluster.workers.values() if each.target < JobStatus.CLOSING]
        self.db.update_workers([(worker, closing) for worker in workers])
        self.db.update_cluster(cluster, status=JobStatus.CLOSING)
        self.queue.put(cluster)
        cluster.ready.set()

    async def _cluster_to_stopped(self, cluster: Cluster) -> None:
        """End everything of a cluster; raises until its target agrees, and is called again."""
        starting = self._starting.get(cluster.name)
        if starting is not None:
            await asyncio.wait([starting])
        refs = self._refs(cluster)
        if refs:
            target = self._target(cluster)
            if not await self._ended(target, refs):
                msg = f"{target.name} has not confirmed yet that cluster {cluster.name} has ended"
                raise StopUnconfirmedError(msg)
            target.forget(refs)
        await super()._cluster_to_stopped(cluster)
        self._requests.pop(cluster.name, None)

    async def do_stop_cluster(self, cluster: Cluster) -> None:
        """Do nothing: `_cluster_to_stopped` has ended it."""

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

    async def reconcile_worker(self, worker: Worker) -> None:
        """Hand a worker to those that start and stop many at once."""
        await self._opened.wait()
        if worker.status >= JobStatus.STOPPED:
            return
        if worker.target in {JobStatus.STOPPED, JobStatus.FAILED}:
            name = self.request_of(worker.cluster).backend
            self._to_stop[name].add(worker)
            if name not in self._stopping:
                self._stopping[name] = asyncio.ensure_future(self._stop_workers(name))
        elif worker.status == JobStatus.CREATED:
            self._start_soon(worker.cluster, [worker])

    async def _check_cluster_proxied(self, cluster: Cluster) -> None:
        """Let clients reach a scheduler, which asks them for the cluster's own certificate.

        Its dashboard asks nobody for anything, so there is no way to it but past a log-in: `Api`.
        """
        if not cluster.added_to_proxies:
            await self.proxy.add_route(
                kind="SNI", sni=cluster.name, target=cluster.scheduler_address
            )
            cluster.added_to_proxies = True

    async def _check_cluster_scale(self, cluster: Cluster) -> None:
        """Make the workers that are missing, in one transaction and few submissions."""
        if cluster.worker_start_failure_count >= self.worker_start_failure_limit:
            count = cluster.worker_start_failure_count
            self._fail(cluster, f"its workers failed to start {count} times in a row")
            return
        count = cluster.count
        if self.limiter is not None:
            count = min(count, self.limiter.granted(cluster, count))
        missing = count - len(cluster.active_workers())
        if missing > 0:
            self._start_soon(cluster, self._create_workers(cluster, missing))

    def _create_workers(self, cluster: Cluster, count: int) -> list[Worker]:
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

    def _start_soon(self, cluster: Cluster, workers: Iterable[Worker]) -> None:
        waiting = self._to_start.setdefault(cluster.name, {})
        waiting.update((worker.name, worker) for worker in workers)
        if waiting and cluster.name not in self._starting:
            task = asyncio.ensure_future(self._start_workers(cluster))
            self._starting[cluster.name] = task

    async def _start_workers(self, cluster: Cluster) -> None:
        pause = 1.0
        try:
            while True:
                await asyncio.sleep(_GATHER_SECONDS)
                waiting = self._to_start.pop(cluster.name, {})
                workers = [
                    worker
                    for worker in waiting.values()
                    if worker.status == JobStatus.CREATED and worker.target == JobStatus.RUNNING
                ]
                if not workers or cluster.target != JobStatus.RUNNING:
                    return
                try:
                    await self._submit_workers(cluster, workers)
                    pause = 1.0
                except TargetSilentError as error:
                    self.log.warning("workers of cluster %s wait: %s", cluster.name, error)
                except Exception:
                    self.log.exception("starting workers of cluster %s failed", cluster.name)
                left = [worker for worker in workers if worker.status == JobStatus.CREATED]
                if left:
                    self._to_start.setdefault(cluster.name, {}).update(
                        (worker.name, worker) for worker in left
                    )
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
        finally:
            self._starting.pop(cluster.name, None)
            if cluster.target != JobStatus.RUNNING:
                self.queue.put(cluster)

    async def _submit_workers(self, cluster: Cluster, workers: Sequence[Worker]) -> None:
        target, spec = self._target(cluster), self.spec_of(cluster)
        by_name = {worker.name: worker for worker in workers}
        for known in self._on_record(workers):
            # their outcome is not on record
            refs = await target.find([each.ref for each in known])
            if refs is None:
                self._unplan([by_name[each.name] for each in known])
            else:
                self._submitted([by_name[each.name] for each in known], refs)
        new = [worker.name for worker in workers if ref_of(worker) is None]
        groups = target.plan_workers(spec, new) if new else []
        self.db.update_workers(
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
                self.log.warning("workers of cluster %s: %s", cluster.name, error)
                cluster.worker_start_failure_count += 1
                self._unplan(members)
                failed = {"status": JobStatus.SUBMITTED, "target": JobStatus.FAILED}
                self.db.update_workers([(member, failed) for member in members])
                self._put(members)

    def _unplan(self, workers: Sequence[Worker]) -> None:
        self.db.update_workers([(worker, {"state": {}}) for worker in workers])

    @staticmethod
    def _on_record(workers: Sequence[Worker]) -> list[list[WorkerSpec]]:
        groups: dict[str, list[WorkerSpec]] = defaultdict(list)
        for worker in workers:
            ref = ref_of(worker)
            if ref is not None:
                groups[ref.name].append(WorkerSpec(worker.name, ref))
        return list(groups.values())

    def _submitted(self, workers: Sequence[Worker], refs: Sequence[JobRef]) -> None:
        self.db.update_workers(
            [
                (worker, {"state": {"job": ref.to_json()}})
                for worker, ref in zip(workers, refs, strict=True)
            ]
        )
        # one may have joined its scheduler already
        early = [worker for worker in workers if worker.status == JobStatus.CREATED]
        self.db.update_workers([(worker, {"status": JobStatus.SUBMITTED}) for worker in early])
        self.log.info("submitted %d workers, job %s", len(workers), refs[0].number)
        backend = self.request_of(workers[0].cluster).backend
        self.api.metrics.submitted("workers", backend=backend)

    async def _stop_workers(self, name: str) -> None:
        """End workers of all clusters on a target, in bulk, until it agrees for each."""
        target, pause = self.targets[name], 1.0
        try:
            while self._to_stop[name]:
                await asyncio.sleep(_GATHER_SECONDS)
                try:
                    progress = await self._stop_some(target)
                    pause = 1.0 if progress else min(_LONGEST_PAUSE_SECONDS, pause * 2)
                except TargetSilentError as error:
                    self.log.warning("workers on %s are not ended yet: %s", name, error)
                    pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
                    await asyncio.sleep(pause)
                except Exception:
                    self.log.exception("ending workers on %s failed", name)
                    await asyncio.sleep(pause)
        finally:
            self._stopping.pop(name, None)

    async def _stop_some(self, target: Target) -> bool:
        workers = {
            worker for worker in self._to_stop[target.name] if worker.status < JobStatus.STOPPED
        }
        # of one that is just being submitted, the number is not known yet
        ready = {
            worker
            for worker in workers
            if worker.status > JobStatus.CREATED or worker.cluster.name not in self._starting
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
        self.db.update_workers(
            [(worker, {"status": worker.target, "stop_time": now}) for worker in gone]
        )
        target.forget([ref for worker in gone if (ref := ref_of(worker)) is not None])
        self._to_stop[target.name] = {
            worker for worker in self._to_stop[target.name] if worker.status < JobStatus.STOPPED
        }
        self._put({worker.cluster for worker in gone})
        return bool(gone)

    # ---- heartbeats ----

    async def on_cluster_heartbeat(self, cluster_name: str, msg: Mapping[str, Any]) -> None:
        """Take what a scheduler says of its workers, and how many it wants."""
        cluster = self.db.get_cluster(cluster_name)
        if cluster is None or cluster.target > JobStatus.RUNNING:
            return
        cluster.last_heartbeat = timestamp()
        active, closing, closed = (
            set(msg[f"{kind}_workers"]) for kind in ("active", "closing", "closed")
        )
        count = self._allowed_count(cluster, int(msg["count"]))
        update: dict[str, Any] = {}
        if cluster.status < JobStatus.RUNNING:
            names = ("api_address", "scheduler_address", "dashboard_address")
            update = {name: msg[name] for name in names}
            # its hours count from here, and not from when it was asked for
            update["state"] = {"began": time.time(), **cluster.state}
            if "began" not in cluster.state:
                self._measure("scheduler", cluster, [cluster])
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
            self.db.update_workers([(each, {"status": JobStatus.RUNNING}) for each in joined])
            self._measure("worker", cluster, joined)
        self.db.update_workers([(each, {"close_expected": True}) for each in leaving])
        self._lost_by_scheduler(gone)
        if update:
            self.db.update_cluster(cluster, **update)
            self.queue.put(cluster)
        self._give_up(cluster, joined=len(active), wanted=count)

    def _measure(self, kind: str, cluster: Cluster, things: Iterable[Cluster | Worker]) -> None:
        """Tell how long those that are ready now were in the queue, and how long they started."""
        now, request = time.time(), self.request_of(cluster)
        for thing in things:
            made, runs = thing.start_time / 1000, self.state_of(thing).since
            self.api.metrics.started(
                kind,
                profile=request.slug,
                backend=request.backend,
                queue_seconds=(now if runs is None else runs) - made,
                start_seconds=0.0 if runs is None else now - runs,
            )

    @staticmethod
    def _allowed_count(cluster: Cluster, count: int) -> int:
        most = cluster.config.get("cluster_max_workers")
        return count if most is None else min(count, most)

    def _lost_by_scheduler(self, workers: Sequence[Worker]) -> None:
        for expected, target in ((True, JobStatus.STOPPED), (False, JobStatus.FAILED)):
            these = [worker for worker in workers if bool(worker.close_expected) is expected]
            self.db.update_workers([(worker, {"target": target}) for worker in these])
            self._put(these)

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
        self.db.update_workers([(worker, {"target": JobStatus.STOPPED}) for worker in these])
        self._put(these)

    def _standing(self, worker: Worker) -> Standing:
        if worker.status == JobStatus.CREATED:
            return Standing.CREATED
        runs = self.state_of(worker).phase is Phase.RUNNING
        return Standing.STARTING if runs else Standing.QUEUED

    # ---- timeouts and checks ----

    async def _check_timeouts(self) -> None:
        """Give up what runs and does not come up; what waits in a queue has all the time."""
        now = time.time()
        self._hold_to_limits()
        silent = timestamp() - self.cluster_heartbeat_timeout * 1000
        for cluster in list(self.db.active_clusters()):
            if cluster.status == JobStatus.SUBMITTED:
                if self._late(cluster, now, self.cluster_start_timeout):
                    self._fail(cluster, "its scheduler ran, but did not report to the gateway")
            elif cluster.status == JobStatus.RUNNING:
                if cluster.last_heartbeat < silent:
                    self._fail(cluster, "its scheduler reports no more")
                    continue
                late = [
                    worker
                    for worker in cluster.workers.values()
                    if worker.status == JobStatus.SUBMITTED
                    and worker.target == JobStatus.RUNNING
                    and self._late(worker, now, self.worker_start_timeout)
                ]
                self._lost(cluster, late)

    def _hold_to_limits(self) -> None:
        """End clusters whose hours are used up, and let others have what has become free."""
        for cluster in list(self.db.active_clusters()):
            missing = cluster.count > len(cluster.active_workers())
            if cluster.status == JobStatus.RUNNING and missing:
                self.queue.put(cluster)
        for name, words in (self.limiter.exhausted() if self.limiter else {}).items():
            cluster = self.db.get_cluster(name)
            if cluster is not None and cluster.target <= JobStatus.RUNNING:
                self._fail(cluster, words)

    def _late(self, thing: Cluster | Worker, now: float, seconds: float) -> bool:
        state = self.state_of(thing)
        return (
            state.phase is Phase.RUNNING and state.since is not None and now - state.since > seconds
        )

    async def do_check_clusters(self, clusters: Sequence[Cluster]) -> list[bool]:
        """Return for each cluster whether it may still come up; `_judge` does the rest."""
        return [self.state_of(cluster).phase is not Phase.ENDED for cluster in clusters]

    async def do_check_workers(self, workers: Sequence[Worker]) -> list[bool]:
        """Return for each worker whether it may still come up; `_judge` does the rest."""
        del workers
        return []


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` does, tried again while the database is locked, for 20 s."""
    deadline = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            return await attempt()
        except OperationalError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(0.2)


def _is_over(thing: Cluster | Worker) -> bool:
    return bool(thing.status >= JobStatus.STOPPED)


def ref_of(thing: Cluster | Worker) -> JobRef | None:
    """Return the job of a cluster's scheduler or of a worker, if one was planned."""
    data = (thing.state or {}).get("job")
    return None if data is None else JobRef.from_json(data)
