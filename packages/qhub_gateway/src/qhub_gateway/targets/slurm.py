"""Clusters on Slurm, by the spawner's door: a worker is one task of a job array."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import ClassVar

from qhub_gateway import slurm_script
from qhub_gateway.batching import batches
from qhub_gateway.errors import (
    HostRefusedError,
    LogElsewhereError,
    StartRefusedError,
    TargetFullError,
    TargetSilentError,
)
from qhub_gateway.targets.target import (
    UNKNOWN,
    ClusterSpec,
    JobRef,
    Phase,
    State,
    Target,
    WorkerSpec,
)
from qhub_spawner.errors import SelectionError, SlurmError, SlurmRejectedError
from qhub_spawner.launch import AddressRefusedError, StartFailedError
from qhub_spawner.slurm import script, submitting, words
from qhub_spawner.slurm.backend import SlurmBackend
from qhub_spawner.slurm.door import Cancellation, Door
from qhub_spawner.slurm.jobs import JobState, job_name, new_spawn_id
from qhub_spawner.slurm.poller import Pace, Poller, Watch
from qhub_spawner.slurm.script import Defaults, Submission

# slurm.conf's MaxArraySize is 1001 unless it says otherwise: tasks 0 to 1000. Where it is less, it
# is found out by what Slurm refuses.
MOST_TASKS = 500
_SILENT = 503
# sbatch: error: QOSMaxSubmitJobPerUserLimit
# sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit lim…
_TOO_MANY = re.compile(r"(?:Max|Grp)SubmitJob")
_MANY = re.compile(rf"{_TOO_MANY.pattern}|job submit limit")
# sbatch: error: Batch job submission failed: Invalid job array specification
_TOO_LARGE = re.compile("Invalid job array specification")
_GRANTED = words.Granted("", "")
_MOST_CANCELLATIONS = 500
# each is a process as another person: a hundred at the same moment would only delay each other
_CALLS_AT_ONCE = 8


class SlurmTarget(Target):
    """Slurm, as a `SlurmBackend` of the gateway's own is configured."""

    name: ClassVar[str] = "slurm"

    def __init__(
        self, backend: SlurmBackend, log: logging.Logger, *, defaults: Defaults | None = None
    ) -> None:
        """Take the door and the poller of `backend`, whose ``hub_id`` is the gateway's."""
        self.backend = backend
        self.log = log
        self.defaults = defaults or Defaults()
        self._watches: dict[JobRef, Watch] = {}
        self._ticked: asyncio.Event = asyncio.Event()
        self._closing = False
        self._cancelling = asyncio.Semaphore(_CALLS_AT_ONCE)
        self._most_tasks = MOST_TASKS

    @property
    def door(self) -> Door:
        """How Slurm is spoken to."""
        return self.backend.door

    @property
    def poller(self) -> Poller:
        """Who asks for the queue."""
        return self.backend.poller

    async def open(self) -> None:
        """See `Target.open`."""
        await self.backend.open()

    async def close(self) -> None:
        """See `Target.close`."""
        self._closing = True
        await self.backend.close()

    # ---- starting ----

    def plan_scheduler(self, cluster: ClusterSpec) -> JobRef:
        """See `Target.plan_scheduler`."""
        return JobRef(self._new_name(), user=_account(cluster))

    def plan_workers(
        self, cluster: ClusterSpec, names: Sequence[str]
    ) -> Sequence[Sequence[WorkerSpec]]:
        """See `Target.plan_workers`: one job array for each 500, or what Slurm takes."""
        user = _account(cluster)
        planned = []
        for part in batches(names, self._most_tasks):
            job = self._new_name()
            planned.append(
                [WorkerSpec(name, JobRef(job, task, user)) for task, name in enumerate(part)]
            )
        return planned

    def _new_name(self) -> str:
        return job_name(self.backend.hub_id, new_spawn_id())

    async def start_scheduler(self, cluster: ClusterSpec, ref: JobRef) -> JobRef:
        """See `Target.start_scheduler`."""
        request = cluster.request
        submission = Submission(
            name=ref.name,
            comment=self._comment(cluster, "scheduler"),
            options=self._options(cluster, scheduler=True),
            script=slurm_script.scheduler_script(
                request.profile, cluster.name, cluster.scheduler_argv, self.defaults
            ),
            environment=_environment(cluster),
        )
        return (await self._submit(submission, [ref]))[0]

    async def start_workers(
        self, cluster: ClusterSpec, workers: Sequence[WorkerSpec]
    ) -> Sequence[JobRef]:
        """See `Target.start_workers`: one job array."""
        names = [worker.name for worker in workers]
        submission = Submission(
            name=workers[0].ref.name,
            comment=self._comment(cluster, "workers"),
            options=self._options(cluster, scheduler=False),
            script=slurm_script.worker_script(
                cluster.request.profile, cluster.name, cluster.worker_argv, names, self.defaults
            ),
            environment=_environment(cluster),
            array_size=len(names),
        )
        return await self._submit(submission, [worker.ref for worker in workers])

    def _comment(self, cluster: ClusterSpec, role: str) -> str:
        user = cluster.request.owner.name
        return slurm_script.comment(self.backend.hub_id, user, cluster.name, role)

    def _options(self, cluster: ClusterSpec, *, scheduler: bool) -> dict[str, str | None]:
        request = cluster.request
        size = request.scheduler if scheduler else request.worker
        own = {"clusters": self.backend.cluster} if self.backend.cluster else {}
        return {**own, **slurm_script.options(request, size, self.defaults, scheduler=scheduler)}

    async def _submit(self, submission: Submission, refs: Sequence[JobRef]) -> list[JobRef]:
        watches = [self._watch(ref) for ref in refs]
        try:
            await submitting.submit(
                self.door, self.poller, watches[0], submission, self.log, lambda: self._closing
            )
        except StartFailedError as error:
            self.forget(refs)
            said = f"{error.words}\n{getattr(error.__cause__, 'stderr', '')}"
            if submission.array_size and _TOO_LARGE.search(said):
                self._most_tasks = max(1, min(self._most_tasks, submission.array_size // 2))
                self.log.warning(
                    "Slurm refused an array of %d tasks; from now on they have at most %d. "
                    "A larger MaxArraySize in slurm.conf makes fewer submissions",
                    submission.array_size,
                    self._most_tasks,
                )
                raise TargetFullError(error.words, certain=False) from error
            if _MANY.search(said):
                raise TargetFullError(error.words, certain=bool(_TOO_MANY.search(said))) from error
            kind = TargetSilentError if error.status_code == _SILENT else StartRefusedError
            raise kind(error.words) from error
        return self._found(refs, watches)

    async def find(self, refs: Sequence[JobRef]) -> Sequence[JobRef] | None:
        """See `Target.find`: by whole answers of the queue only."""
        watches = [self._watch(ref) for ref in refs]
        if not await submitting.found(self.poller, watches[0], lambda: self._closing):
            if self.poller.failures:
                raise TargetSilentError("Slurm does not answer")
            self.forget(refs)
            return None
        return self._found(refs, watches)

    def _found(self, refs: Sequence[JobRef], watches: Sequence[Watch]) -> list[JobRef]:
        number = watches[0].job_id or 0
        for watch in watches:
            if watch.job_id is None:
                watch.exists(number)
            self.poller.hurry(watch, Pace.STARTING)
        return [ref.numbered(number) for ref in refs]

    # ---- following ----

    def follow(self, ref: JobRef) -> None:
        """See `Target.follow`."""
        self._watch(ref)

    def _watch(self, ref: JobRef) -> Watch:
        watch = self._watches.get(ref)
        if watch is None:
            watch = self._watches[ref] = self.poller.watch(ref.name, ref.user, ref.part)
            if ref.number is not None:
                watch.exists(ref.number)
        return watch

    def state(self, ref: JobRef) -> State:
        """See `Target.state`."""
        watch = self._watches.get(ref)
        if watch is None:
            return UNKNOWN
        if watch.ending is not None:
            return State(Phase.ENDED, words.ending_words(watch.ending, _GRANTED))
        job = watch.job
        if job is None or job.state is JobState.UNKNOWN or job.state.over:
            return UNKNOWN
        if job.state.waiting:
            return State(Phase.QUEUED, words.reason_words(job.reason))
        return State(Phase.RUNNING, since=job.start.timestamp() if job.start else None)

    async def changed(self) -> None:
        """See `Target.changed`: after each answer of the queue."""
        for watch in self._watches.values():
            if watch.job is None or watch.pace is Pace.STOPPING:
                continue
            if watch.job.state.waiting:
                self.poller.hurry(watch, Pace.WAITING)
            elif watch.job.state is JobState.RUNNING:
                self.poller.hurry(watch, Pace.REST)
        await self.poller.tick()

    async def check_host(self, ref: JobRef, host: str) -> None:
        """See `Target.check_host`: by what Slurm knows of the node, or ``server_networks``."""
        fresh = False
        while True:
            watch = self._watches.get(ref)
            job = watch.job if watch is not None else None
            if job is not None and not job.state.waiting and job.node_list:
                try:
                    return await self.backend.check_host(host, job)
                except AddressRefusedError as error:
                    silent = error.status_code == _SILENT
                    raise (TargetSilentError if silent else HostRefusedError)(str(error)) from error
            if fresh or not await self.poller.fresh():
                raise TargetSilentError("Slurm does not say now where the scheduler runs")
            fresh = True

    # ---- stopping ----

    async def stop(self, refs: Collection[JobRef]) -> None:
        """See `Target.stop`: one call for each person, whatever the number of jobs."""
        every: dict[str, dict[tuple[int, str], list[int] | None]] = defaultdict(dict)
        unnumbered = False
        for ref in refs:
            watch = self._watch(ref)
            watch.on_end = None
            self.poller.hurry(watch, Pace.STOPPING)
            if watch.ending is not None or _ending(watch):
                continue
            if watch.job_id is None:
                unnumbered = True
                continue
            of_user = every[ref.user]
            if ref.part is None:
                of_user[watch.job_id, ref.name] = None
            else:
                parts = of_user.setdefault((watch.job_id, ref.name), [])
                if parts is not None:
                    parts.append(ref.part)
        asked = [self._cancel(user, jobs) for user, jobs in every.items()]
        failed = [each for each in await asyncio.gather(*asked) if each is not None]
        if failed:
            raise TargetSilentError(str(failed[0])) from failed[0]
        if unnumbered:
            raise TargetSilentError("Slurm has not told the number of a job yet")

    async def _cancel(
        self, user: str, jobs: dict[tuple[int, str], list[int] | None]
    ) -> SlurmError | None:
        asked = [
            Cancellation(number, name, self._some(number, name, tasks))
            for (number, name), tasks in jobs.items()
        ]
        try:
            for part in batches(asked, _MOST_CANCELLATIONS):
                async with self._cancelling:
                    await self.door.cancel_many(user, part)
        except SlurmError as error:
            return error
        return None

    def _some(self, number: int, name: str, tasks: list[int] | None) -> tuple[int, ...] | None:
        """Return the tasks to name, or ``None`` if nothing else is left of the array."""
        if tasks is None:
            return None
        left = {
            ref.part
            for ref, watch in self._watches.items()
            if ref.name == name and watch.job_id == number and watch.ending is None
        }
        return None if left <= set(tasks) else tuple(sorted(tasks))

    async def read_log(
        self, cluster: ClusterSpec, worker: str | None, ref: JobRef, most_bytes: int
    ) -> str:
        """See `Target.read_log`: from the person's home, as that person."""
        name = worker or "scheduler"
        try:
            found = await self.door.read_log(ref.user, cluster.name, name, most_bytes)
        except SlurmRejectedError as error:
            place = f"~/{script.LOG_FOLDER}/dask/{cluster.name}/{name}.log"
            msg = f"The gateway cannot read this log; it is {place}, in the home of {ref.user}."
            raise LogElsewhereError(msg) from error
        except SlurmError as error:
            raise TargetSilentError(str(error)) from error
        return found or ""

    def forget(self, refs: Collection[JobRef]) -> None:
        """See `Target.forget`."""
        for ref in refs:
            self.poller.forget(self._watches.pop(ref, None))


def _ending(watch: Watch) -> bool:
    """Whether Slurm is at it already: to cancel again would change nothing."""
    return watch.job is not None and watch.job.state is JobState.COMPLETING


def _account(cluster: ClusterSpec) -> str:
    try:
        return script.account_name(cluster.request.owner.name)
    except SelectionError as error:
        raise StartRefusedError(str(error)) from error


def _environment(cluster: ClusterSpec) -> dict[str, str]:
    return {
        **cluster.environment,
        slurm_script.TLS_CERT: cluster.tls_cert.decode(),
        slurm_script.TLS_KEY: cluster.tls_key.decode(),
    }
