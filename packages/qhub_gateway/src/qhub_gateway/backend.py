"""Dask-Gateway's backend: one for every target, on its database.

What dask-gateway keeps (clusters, workers, their state and what they shall become) stays as it is;
how they come to be and how they end is done here in bulk. A job's name is in the database before
its target hears of it, so that a gateway that was killed finds each of its jobs again. Time in a
queue counts for nothing: a job that waits keeps its place, and start timeouts count from when it
runs.

This module is what dask-gateway sees of it: settings, and its own methods that are handed on to
`starting`, `stopping`, `heartbeats` and `judging`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from aiohttp.web import Application
from dask_gateway_server.backends import db_base
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, DBBackendBase, JobStatus, Worker
from traitlets import Dict, Float, List, Unicode, default

from qhub_gateway.api import Api
from qhub_gateway.certificates import new_keypair
from qhub_gateway.cluster_config import QHubClusterConfig
from qhub_gateway.errors import (
    LimitReachedError,
    QHubGatewayError,
    RequestRefusedError,
    StartRefusedError,
    StopUnconfirmedError,
    TargetSilentError,
)
from qhub_gateway.heartbeats import Heartbeats
from qhub_gateway.judging import Judging, Patience
from qhub_gateway.limiting import DatabaseLimiter, Limiter
from qhub_gateway.options import ProfileOptions
from qhub_gateway.people import NO_RIGHT, People
from qhub_gateway.records import Records, is_over, patiently, ref_of
from qhub_gateway.requests import ClusterRequest
from qhub_gateway.starting import Starting
from qhub_gateway.stopping import Stopping
from qhub_gateway.targets.target import WORKER_NAME, ClusterSpec, State, Target
from qhub_spawner.launch import default_hub_id

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
_MOST_LOG_BYTES = 2**20
_PROXY_SECONDS = 2.0
_LEAVING_AFTER = "QHUB_GATEWAY_LEAVING_AFTER"

# its database makes one for each new cluster, while everybody else waits
db_base.new_keypair = new_keypair


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
        Where clusters may run: "slurm", "kubernetes", "local". Default: "slurm".

        Example: ``c.QHubGatewayBackend.backends = ["slurm", "kubernetes"]``
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

    db_cluster_max_age: float
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
        # one that waits for the end of a cluster keeps no other waiting
        return 200

    @default("backoff_max_delay")
    def _default_backoff_max_delay(self) -> float:
        return _LONGEST_PAUSE_SECONDS

    @default("local_folder")
    def _default_local_folder(self) -> str:
        return str(Path.home() / ".local/state/qhub/gateway")

    def __init__(self, **kwargs: Any) -> None:
        """Nothing is asked of a target before `setup`."""
        super().__init__(**kwargs)
        # while it is away nobody reaches a scheduler
        self.config.Proxy.setdefault("proxy_status_period", _PROXY_SECONDS)
        self.people = People(parent=self)
        self._workers_age = age = self.db_cluster_max_age
        if self.people.most.counts_hours:
            # the records of clusters that ended are what their hours are added up from
            within = self.people.most.hours_within.seconds
            self.db_cluster_max_age = max(age, within)
        self.people.backends = frozenset(self.backends)
        self.api = Api(self)
        self.targets: dict[str, Target] = {}
        self._opened = asyncio.Event()
        self._pauses: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    records: Records
    starting: Starting
    stopping: Stopping
    heartbeats: Heartbeats
    judging: Judging

    # ---- opening and closing ----

    def make_targets(self) -> Mapping[str, Target]:
        """Return the targets that are configured, by name."""
        made: dict[str, Target] = {}
        if "slurm" in self.backends:
            from qhub_gateway.targets.slurm import SlurmTarget  # noqa: PLC0415 - as configured
            from qhub_spawner.slurm.backend import SlurmBackend  # noqa: PLC0415

            door = SlurmBackend(parent=self, hub_id=self.gateway_id)
            door.reaper.recorded = self._names_on_record
            made["slurm"] = SlurmTarget(door, self.log)
            self.people.account_limits = door.limits
        if "kubernetes" in self.backends:
            from qhub_gateway.targets.kubernetes import KubernetesTarget  # noqa: PLC0415

            made["kubernetes"] = KubernetesTarget(
                parent=self, gateway_id=self.gateway_id, recorded=self._names_on_record
            )
        if "local" in self.backends:
            from qhub_gateway.targets.local import LocalTarget  # noqa: PLC0415

            made["local"] = LocalTarget(Path(self.local_folder), self.gateway_id, self.log)
        return made

    def _names_on_record(self) -> set[str]:
        """Return the name of every job that may not have ended."""
        clusters = self.db.name_to_cluster.values()
        return {ref.name for cluster in clusters for ref in self.records.refs(cluster)}

    async def setup(self, app: Application) -> None:
        """Begin, with our routes beside dask-gateway's own."""
        self.api.add_to(app)
        await super().setup(app)

    async def do_setup(self) -> None:
        """Take up what an earlier gateway left, then let everything begin."""
        self.targets = dict(self.make_targets())
        self._assemble()
        for cluster in self.db.name_to_cluster.values():
            if cluster.status < JobStatus.STOPPED:
                self._take_up(cluster)
        for target in self.targets.values():
            await target.open()
        self._tasks = [
            asyncio.ensure_future(self.judging.watch(target)) for target in self.targets.values()
        ]
        self._opened.set()

    def _take_up(self, cluster: Cluster) -> None:
        try:
            target = self.records.target_of(cluster)
        except StartRefusedError as error:
            # it computes on, and all others are looked after
            self.log.warning(
                "cluster %s can be neither followed nor ended: %s", cluster.name, error
            )
            return
        for ref in self.records.refs(cluster):
            target.follow(ref)

    def _assemble(self) -> None:
        """Make what does the work; each part knows only what it is given."""
        metrics = self.api.metrics
        self.records = Records(self.db, self.queue, self.targets, self.log)
        if self.limiter is None:
            clusters = self.db.name_to_cluster.values
            self.limiter = DatabaseLimiter(self.people.most, clusters, is_over)
        self.starting = Starting(self.records, metrics, self.spec_of)
        self.stopping = Stopping(self.records, self.starting.busy)
        self.heartbeats = Heartbeats(self.records, metrics)
        patience = Patience(
            scheduler_start=self.cluster_start_timeout,
            worker_start=self.worker_start_timeout,
            heartbeat=self.cluster_heartbeat_timeout,
            look=self.state_period,
        )
        self.judging = Judging(self.records, metrics, patience, lambda: self.limiter)

    async def do_cleanup(self) -> None:
        """End background work; what runs goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._opened.is_set():
            await self.starting.close()
            await self.stopping.close()
        for target in self.targets.values():
            await target.close()

    def request_of(self, cluster: Cluster) -> ClusterRequest:
        """Return what was decided about a cluster."""
        return self.records.request_of(cluster)

    def state_of(self, thing: Cluster | Worker) -> State:
        """Return what its target says of a cluster's scheduler, or of a worker."""
        return self.records.state_of(thing)

    def spec_of(self, cluster: Cluster) -> ClusterSpec:
        """Return a cluster as its target starts it."""
        request = self.request_of(cluster)
        environment = {**self.worker_variables, **self.get_env(cluster)}
        if request.replace_before is not None and request.walltime is not None:
            # a new worker may join a little earlier than the old one did
            after = request.walltime.seconds - 1.5 * request.replace_before.seconds
            environment[_LEAVING_AFTER] = max(0.0, after)
        return ClusterSpec(
            name=cluster.name,
            request=request,
            scheduler_argv=tuple(self.get_scheduler_command(cluster)),
            worker_argv=tuple(self.get_worker_command(cluster, WORKER_NAME)),
            environment={name: str(value) for name, value in environment.items()},
            tls_cert=cluster.tls_cert,
            tls_key=cluster.tls_key,
        )

    def get_scheduler_command(self, cluster: Cluster) -> list[str]:
        """Return a scheduler's command, with what it takes to replace workers in time."""
        command: list[str] = super().get_scheduler_command(cluster)
        if self.request_of(cluster).replace_before is None:
            return command
        place = command.index("--preload")
        text = (files("qhub_gateway") / "leaving_first.py").read_text(encoding="utf-8")
        return [*command[:place], "--preload", text, *command[place:]]

    async def log_of(
        self, cluster: Cluster, worker: str | None = None, most_bytes: int = 65536
    ) -> str:
        """Return the end of what a cluster's scheduler, or one of its workers, has written.

        Args:
            cluster: The cluster; may have ended.
            worker: The worker's name; ``None`` for the scheduler.
            most_bytes: How much of it, at most 1 MiB.

        Raises:
            KeyError: The cluster has no such worker.
            LogElsewhereError: It cannot be read from here; says where its owner finds it.
            TargetSilentError: The target does not answer.
        """
        ref = ref_of(cluster if worker is None else cluster.workers[worker])
        if ref is None:
            return ""
        target, most = self.records.target_of(cluster), min(most_bytes, _MOST_LOG_BYTES)
        return await target.read_log(self.spec_of(cluster), worker, ref, most)

    # ---- clusters ----

    async def start_cluster(self, user: Any, cluster_options: object) -> str:
        """Make a cluster for `user`; see `limiter`."""
        try:
            options, config = await self.process_cluster_options(user, cluster_options)
        except PublicException as refusal:
            self.api.metrics.refused("rights" if str(refusal) == NO_RIGHT else "options")
            raise

        async def made() -> Cluster:
            if self.limiter is not None:
                try:
                    await self.limiter.admit(user, config)
                except (LimitReachedError, RequestRefusedError) as refusal:
                    self.api.metrics.refused("limit")
                    raise PublicException(str(refusal)) from refusal
            # nothing may be awaited between the two
            return self.db.create_cluster(user.name, options, config.to_dict())

        cluster = await patiently(made)
        self.log.info("created cluster %s for %s", cluster.name, user.name)
        self.queue.put(cluster)
        return str(cluster.name)

    async def stop_cluster(self, cluster_name: str, failed: bool = False) -> None:
        """End a cluster; returns when that is on record."""
        stop = super().stop_cluster
        await patiently(lambda: stop(cluster_name, failed=failed))

    async def reconcile_cluster(self, cluster: Cluster) -> None:
        """Bring a cluster nearer to what it shall be."""
        await self._opened.wait()
        try:
            await super().reconcile_cluster(cluster)
        except (StopUnconfirmedError, TargetSilentError) as error:
            # asked again, after a pause that grows: its target is silent, or has no room now
            pause = self._pauses.get(cluster.name, _FIRST_PAUSE_SECONDS)
            self._pauses[cluster.name] = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
            self.log.warning("cluster %s waits: %s", cluster.name, error)
            self.queue.put_after(cluster, pause)
        else:
            self._pauses.pop(cluster.name, None)

    async def _cluster_to_submitted(self, cluster: Cluster) -> None:
        try:
            await self.starting.scheduler(cluster)
        except TargetSilentError:
            raise  # asked again, after a pause that grows
        except QHubGatewayError as error:
            self.db.update_cluster(cluster, status=JobStatus.SUBMITTED)
            self.judging.fail(cluster, str(error))
            cluster.ready.set()

    def is_cluster_ready_to_close(self, cluster: Cluster) -> bool:
        """Whether a cluster is at its end.

        Dask-Gateway waits for each worker. Here all are ended together, and one whose end its
        target cannot confirm, as on a node that is dead, keeps nothing else running.
        """
        return bool(cluster.status == JobStatus.CLOSING)

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
        await self.starting.settled(cluster)
        await self.stopping.cluster(cluster)
        await super()._cluster_to_stopped(cluster)
        target = self.targets.get(self.request_of(cluster).backend)
        if target is not None:
            await target.tidy(cluster.name)
        self.records.forget(cluster)

    async def do_stop_cluster(self, cluster: Cluster) -> None:
        """Do nothing: `_cluster_to_stopped` has ended it."""

    async def _check_cluster_proxied(self, cluster: Cluster) -> None:
        """Let clients reach a scheduler, which asks them for the cluster's own certificate.

        Its dashboard asks nobody for anything, so there is no way to it but past a log-in: `Api`.
        """
        if not cluster.added_to_proxies:
            await self.proxy.add_route(
                kind="SNI", sni=cluster.name, target=cluster.scheduler_address
            )
            cluster.added_to_proxies = True

    # ---- workers ----

    async def reconcile_worker(self, worker: Worker) -> None:
        """Hand a worker to those that start and stop many at once."""
        await self._opened.wait()
        if worker.status >= JobStatus.STOPPED:
            return
        if worker.target in {JobStatus.STOPPED, JobStatus.FAILED}:
            self.stopping.worker_soon(worker)
        elif worker.status == JobStatus.CREATED:
            self.starting.workers_soon(worker.cluster, [worker])

    async def _check_cluster_scale(self, cluster: Cluster) -> None:
        """Make the workers that are missing, in one transaction and few submissions."""
        if cluster.worker_start_failure_count >= self.worker_start_failure_limit:
            count = cluster.worker_start_failure_count
            why = self.records.words.get(cluster.name)
            words = f"its workers failed to start {count} times in a row"
            self.judging.fail(cluster, f"{words}: {why}" if why else words)
            return
        count = self.records.wanted(cluster)
        if self.limiter is not None:
            count = min(count, self.limiter.granted(cluster, count))
        missing = count - len(cluster.active_workers())
        if missing > 0:
            self.starting.workers_soon(cluster, self.records.create_workers(cluster, missing))

    async def on_cluster_heartbeat(self, cluster_name: str, msg: Mapping[str, Any]) -> None:
        """Take what a scheduler says of its workers, and how many it wants."""
        cluster = self.db.get_cluster(cluster_name)
        if cluster is not None and cluster.target <= JobStatus.RUNNING:
            self.heartbeats.take(cluster, msg)

    # ---- from time to time ----

    async def _check_timeouts(self) -> None:
        if self._opened.is_set():
            self.judging.check_timeouts()
            self.records.thin(self._workers_age)

    async def do_check_clusters(self, clusters: Sequence[Cluster]) -> list[bool]:
        """Return for each cluster whether it may still come up; `Judging` does the rest."""
        del clusters
        return []

    async def do_check_workers(self, workers: Sequence[Worker]) -> list[bool]:
        """Return for each worker whether it may still come up; `Judging` does the rest."""
        del workers
        return []
