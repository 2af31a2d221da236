"""The backend on a scripted target: in bulk, nothing twice, nothing lost, no end without a word."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from cryptography.fernet import Fernet
from dask_gateway_server.backends.db_base import Cluster, DataManager, JobStatus
from dask_gateway_server.options import Options
from dask_gateway_server.utils import TaskPool
from dask_gateway_server.workqueue import Backoff, WorkQueue
from sqlalchemy.exc import OperationalError
from traitlets.config import Config

from qhub_gateway.backend import QHubGatewayBackend
from qhub_gateway.errors import (
    HostRefusedError,
    StartRefusedError,
    TargetFullError,
    TargetSilentError,
)
from qhub_gateway.limiting import DatabaseLimiter
from qhub_gateway.records import is_over, ref_of
from qhub_gateway.targets.target import (
    UNKNOWN,
    ClusterSpec,
    JobRef,
    Phase,
    State,
    Target,
    WorkerSpec,
)
from tests.unit.scripted_door import until
from tests.unit.test_gateway_slurm_script import request_of

KEY = Fernet.generate_key().decode()
RUNNING = State(Phase.RUNNING, since=1.0)
QUEUED = State(Phase.QUEUED, "Resources")
ENDED = State(Phase.ENDED, "it was cancelled")


class ScriptedTarget(Target):
    """Does what a test says, and notes what was asked of it."""

    name: ClassVar[str] = "slurm"

    def __init__(self) -> None:
        """Everything starts at once, and ends when it is asked to."""
        self.states: dict[JobRef, State] = {}
        self.asked: list[tuple[str, int]] = []
        self.silent = False
        self.refuses = ""
        self.room, self.certain, self.some = 10**6, True, False
        self.deaf = False
        self.stuck: set[JobRef] = set()
        self.begin = RUNNING
        self.lost: set[str] = set()
        self.followed: set[JobRef] = set()
        self.hosts: set[str] = set()
        self.tidied: list[str] = []
        self.kept: list[JobRef] = []
        self._numbers = iter(range(1, 1000))
        self._changed = asyncio.Event()

    def set(self, ref: JobRef, state: State) -> None:
        """Change a job's state, as the target would tell."""
        self.states[ref] = state
        self._changed.set()

    async def open(self) -> None:
        """See `Target.open`."""

    async def close(self) -> None:
        """See `Target.close`."""

    def plan_scheduler(self, cluster: ClusterSpec) -> JobRef:
        """See `Target.plan_scheduler`."""
        return JobRef(f"job-{next(self._numbers)}", user="alice")

    def plan_workers(
        self, cluster: ClusterSpec, names: Sequence[str]
    ) -> Sequence[Sequence[WorkerSpec]]:
        """See `Target.plan_workers`."""
        job = f"job-{next(self._numbers)}"
        refs = [JobRef(f"{job}-{part}" if self.some else job, part) for part in range(len(names))]
        return [[WorkerSpec(name, ref) for name, ref in zip(names, refs, strict=True)]]

    async def start_scheduler(self, cluster: ClusterSpec, ref: JobRef) -> JobRef:
        """See `Target.start_scheduler`."""
        return (await self._start("scheduler", [ref]))[0]

    async def start_workers(
        self, cluster: ClusterSpec, workers: Sequence[WorkerSpec]
    ) -> Sequence[JobRef]:
        """See `Target.start_workers`."""
        return await self._start("workers", [worker.ref for worker in workers])

    async def _start(self, what: str, refs: Sequence[JobRef]) -> list[JobRef]:
        self.asked.append((what, len(refs)))
        if self.silent:
            raise TargetSilentError("silence")
        if self.refuses:
            raise StartRefusedError(self.refuses)
        if what == "workers":
            taken = sum(state.phase is not Phase.ENDED for state in self.states.values()) - 1
            if taken + len(refs) > self.room and self.some:
                there = refs[: max(0, self.room - taken)]
                self.states.update(dict.fromkeys(there, self.begin))
                raise TargetSilentError("no room", started=[ref.name for ref in there])
            if taken + len(refs) > self.room:
                raise TargetFullError("no more jobs of yours", certain=self.certain)
        for ref in refs:
            self.states[ref] = self.begin
        return [ref.numbered(7) for ref in refs]

    async def find(self, refs: Sequence[JobRef]) -> Sequence[JobRef] | None:
        """See `Target.find`."""
        self.asked.append(("find", len(refs)))
        if self.silent:
            raise TargetSilentError("silence")
        return None if refs[0].name in self.lost else [ref.numbered(7) for ref in refs]

    def follow(self, ref: JobRef) -> None:
        """See `Target.follow`."""
        self.followed.add(ref)

    def state(self, ref: JobRef) -> State:
        """See `Target.state`."""
        return self.states.get(ref, UNKNOWN)

    async def changed(self) -> None:
        """See `Target.changed`."""
        await self._changed.wait()
        self._changed.clear()

    async def stop(self, refs: Collection[JobRef]) -> None:
        """See `Target.stop`."""
        self.asked.append(("stop", len(refs)))
        if self.silent:
            raise TargetSilentError("silence")
        if not self.deaf:
            for ref in set(refs) - self.stuck:
                self.set(ref, ENDED)

    async def check_host(self, ref: JobRef, host: str) -> None:
        """See `Target.check_host`: one of those that a test says, if it says any."""
        if self.silent:
            raise TargetSilentError("silence")
        if self.hosts and host not in self.hosts:
            raise HostRefusedError(f"{host} is not where {ref.name} runs")

    async def read_log(
        self, cluster: ClusterSpec, worker: str | None, ref: JobRef, most_bytes: int
    ) -> str:
        """See `Target.read_log`."""
        return f"{worker or 'scheduler'} of {cluster.name}, {most_bytes}"

    async def keep_logs(self, refs: Sequence[JobRef]) -> None:
        """See `Target.keep_logs`."""
        self.kept += refs

    async def tidy(self, cluster: str) -> None:
        """See `Target.tidy`."""
        self.tidied.append(cluster)

    def forget(self, refs: Collection[JobRef]) -> None:
        """See `Target.forget`."""


class SmallBackend(QHubGatewayBackend):
    """The backend without its proxy and its server."""

    def __init__(self, target: ScriptedTarget, path: Path, **more: Any) -> None:
        """Take a target and the folder of the database."""
        # a lock is waited for by the loop, not by the database
        url = f"sqlite:///{path}/gateway.sqlite?timeout=0.01"
        super().__init__(db_url=url, db_encrypt_keys=[KEY], api_url="http://gateway/api", **more)
        self.scripted = target

    def make_targets(self) -> Mapping[str, Target]:
        """Only the scripted one."""
        return {"slurm": self.scripted}

    async def open(self) -> None:
        """As `setup`, without what listens."""
        self.queue = WorkQueue(backoff=Backoff(base_delay=0.01, max_delay=0.05))
        self.reconcilers = [asyncio.ensure_future(self.reconciler_loop()) for _ in range(5)]
        self.proxy = Routes()
        self.db = DataManager(url=self.db_url, encrypt_keys=self.db_encrypt_keys)
        self.task_pool = TaskPool()
        for cluster in self.db.name_to_cluster.values():
            self.queue.put(cluster)
            for worker in cluster.workers.values():
                self.queue.put(worker)
        await self.do_setup()

    async def shut(self) -> None:
        """End it; everything goes on."""
        self.queue.close()
        for task in self.reconcilers:
            task.cancel()
        await asyncio.gather(*self.reconcilers, return_exceptions=True)
        await self.do_cleanup()
        self.db.db.dispose()

    def new(self) -> Cluster:
        """Make a cluster of alice's, as the API does."""
        config = {
            "request": request_of().to_json(),
            "scheduler_cmd": ["s"],
            "worker_cmd": ["w"],
            "environment": {},
            "worker_threads": 1,
            "worker_memory": 1,
            "adaptive_period": 3,
            "idle_timeout": 0,
        }
        cluster = self.db.create_cluster("alice", {}, config)
        self.queue.put(cluster)
        return cluster

    async def beat(self, cluster: Cluster, count: int, **workers: Collection[str]) -> None:
        """Say what a scheduler says."""
        await self.on_cluster_heartbeat(
            cluster.name,
            {
                "api_address": "http://node:1",
                "scheduler_address": "tls://node:2",
                "dashboard_address": "",
                "count": count,
                **{
                    f"{kind}_workers": list(workers.get(kind, ()))
                    for kind in ("active", "closing", "closed")
                },
            },
        )

    async def running(self, count: int = 0) -> Cluster:
        """A cluster that runs, and wants so many workers, which were submitted."""
        cluster = self.new()
        await until(lambda: cluster.status == JobStatus.SUBMITTED)
        await self.beat(cluster, count)
        await until(lambda: cluster.status == JobStatus.RUNNING)
        submitted = JobStatus.SUBMITTED
        await until(lambda: sum(w.status == submitted for w in cluster.workers.values()) == count)
        return cluster


class Routes:
    """A proxy that takes everything."""

    async def add_route(self, **route: Any) -> None:
        """Take it."""

    async def remove_route(self, **route: Any) -> None:
        """Take it."""


@pytest.fixture
def target() -> ScriptedTarget:
    """What a test scripts."""
    return ScriptedTarget()


@pytest.fixture
async def backend(target: ScriptedTarget, tmp_path: Path) -> AsyncIterator[SmallBackend]:
    """The backend on it."""
    made = SmallBackend(target, tmp_path)
    await made.open()
    yield made
    await made.shut()


def alive(cluster: Cluster) -> list[Any]:
    """Return the workers that shall be."""
    return [each for each in cluster.workers.values() if each.target == JobStatus.RUNNING]


async def test_one_submission(backend: SmallBackend, target: ScriptedTarget) -> None:
    """A hundred workers are one submission; ending the cluster is one request."""
    cluster = await backend.running(100)
    assert target.asked == [("scheduler", 1), ("workers", 100)]
    await backend.stop_cluster(cluster.name)
    await until(lambda: cluster.status == JobStatus.STOPPED)
    assert target.asked[2:] == [("stop", 101)]


async def test_logs(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Of the scheduler and of each worker, as long as the cluster is on record; 1 MiB at most."""
    cluster = backend.new()
    cluster_name = cluster.name
    await until(lambda: cluster.status == JobStatus.SUBMITTED)
    assert await backend.log_of(cluster) == f"scheduler of {cluster_name}, 65536"
    await backend.beat(cluster, 1)
    await until(lambda: bool(alive(cluster)) and ref_of(alive(cluster)[0]) is not None)
    worker = alive(cluster)[0].name
    with pytest.raises(KeyError):
        await backend.log_of(cluster, "other")
    await backend.stop_cluster(cluster_name)
    await until(lambda: target.tidied == [cluster_name])
    assert await backend.log_of(cluster, worker, 2**30) == f"{worker} of {cluster_name}, 1048576"


async def test_exactly_one_less(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Of ten that wait, one less is one less; asked again, nobody more is ended."""
    target.begin = QUEUED
    cluster = await backend.running(10)
    for _ in range(3):
        await backend.beat(cluster, 9)
    await until(lambda: sum(w.status == JobStatus.STOPPED for w in cluster.workers.values()) == 1)
    assert len(alive(cluster)) == 9
    assert target.asked[-1] == ("stop", 1)


async def test_those_that_wait_go_first(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Not one that works, and not one that comes up."""
    cluster = await backend.running(6)
    workers = list(cluster.workers.values())
    active = {worker.name for worker in workers[:2]}
    target.set(ref_of(workers[3]), QUEUED)  # type: ignore[arg-type]
    await backend.beat(cluster, 6, active=active)
    await backend.beat(cluster, 5, active=active)
    assert {each.name for each in workers} - {each.name for each in alive(cluster)} == {
        workers[3].name
    }
    await backend.beat(cluster, 2, active=active)
    assert {each.name for each in alive(cluster)} == active


async def test_waiting_is_no_failure(backend: SmallBackend, target: ScriptedTarget) -> None:
    """However long it takes; what runs and does not come up is replaced."""
    target.begin = QUEUED
    cluster = await backend.running(2)
    cluster.start_time = 0
    for worker in cluster.workers.values():
        worker.start_time = 0
    await backend._check_timeouts()
    assert len(alive(cluster)) == 2
    late = next(iter(cluster.workers.values()))
    target.set(ref_of(late), RUNNING)  # type: ignore[arg-type]
    await backend._check_timeouts()
    await until(lambda: len(alive(cluster)) == 2 and late.status == JobStatus.FAILED)
    assert cluster.target == JobStatus.RUNNING


async def test_unknown_is_not_ended(backend: SmallBackend, target: ScriptedTarget) -> None:
    """A target that knows nothing of a job has not said that it is over."""
    cluster = await backend.running(3)
    target.states.clear()
    backend.judging.judge(target)
    assert len(alive(cluster)) == 3
    assert cluster.target == JobStatus.RUNNING


async def test_the_scheduler_ends(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Then the cluster does, at once, and with the words of its target."""
    cluster = await backend.running(2)
    target.set(ref_of(cluster), ENDED)  # type: ignore[arg-type]
    await until(lambda: cluster.status == JobStatus.FAILED)
    assert "it was cancelled" in cluster.state["words"]
    assert all(each.status == JobStatus.STOPPED for each in cluster.workers.values())


async def test_a_worker_ends(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Another takes its place; one whose end was expected has no successor."""
    cluster = await backend.running(2)
    one, two = cluster.workers.values()
    await backend.beat(cluster, 2, active={one.name, two.name})
    target.set(ref_of(one), ENDED)  # type: ignore[arg-type]
    await until(lambda: len(cluster.workers) == 3)
    await backend.beat(cluster, 1, active=set(), closing={two.name})
    target.set(ref_of(two), ENDED)  # type: ignore[arg-type]
    await until(lambda: two.status == JobStatus.STOPPED)
    await asyncio.sleep(0.1)
    assert len(alive(cluster)) == 1


async def test_those_that_never_join(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Workers that run and do not join are given up; the third time the cluster is, with why."""
    cluster = await backend.running(1)
    seen: set[str] = set()

    def followed() -> bool:
        names = {worker.name for worker in alive(cluster)}
        return not names & seen and (bool(names) or cluster.target != JobStatus.RUNNING)

    while cluster.target == JobStatus.RUNNING:
        await until(lambda: any(w.status == JobStatus.SUBMITTED for w in alive(cluster)))
        seen |= {worker.name for worker in alive(cluster)}
        await backend._check_timeouts()
        await until(followed)
    assert len(seen) == 3
    assert cluster.state["words"] == (
        "its workers failed to start 3 times in a row: "
        "it ran for 60 s and did not join its scheduler; see its log"
    )
    failures = 'failures_total{backend="slurm",kind="%s",reason="not-started"}'
    text = backend.api.metrics.text().decode()
    assert f"qhub_gateway_{failures % 'worker'} 3.0" in text
    assert f"qhub_gateway_{failures % 'scheduler'} 1.0" in text


async def test_logs_are_kept(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Of what failed and is ended, and of the scheduler in any case, before it is."""
    one, two = await backend.running(2), await backend.running(2)
    lost, other = map(ref_of, one.workers.values())
    await backend.beat(one, 2, closed=[next(iter(one.workers))])
    await until(lambda: target.kept == [lost])
    backend.judging.fail(one, "its scheduler reports no more")
    await until(lambda: one.status == JobStatus.FAILED)
    assert target.kept[:3] == [lost, ref_of(one), other]
    target.kept.clear()
    await backend.stop_cluster(two.name)
    await until(lambda: two.status == JobStatus.STOPPED)
    assert target.kept == [ref_of(two)]


async def test_refused(backend: SmallBackend, target: ScriptedTarget) -> None:
    """A target's no fails the cluster, with its words; it is not asked again and again."""
    target.refuses = "Slurm refused it: Invalid partition"
    cluster = backend.new()
    await until(lambda: cluster.status == JobStatus.FAILED)
    assert cluster.state["words"] == "Slurm refused it: Invalid partition"
    assert target.asked.count(("scheduler", 1)) == 1


async def test_full(
    backend: SmallBackend, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there is room for, in few submissions; the others come when there is more."""
    monkeypatch.setattr("qhub_gateway.starting._LONGEST_PAUSE_SECONDS", 0.05)
    target.room = 5
    cluster = await backend.running()
    await backend.beat(cluster, 20)
    submitted = JobStatus.SUBMITTED

    def there() -> int:
        return sum(worker.status == submitted for worker in cluster.workers.values())

    await until(lambda: there() == 5)
    await until(lambda: cluster.name in backend.records.words)
    assert backend.records.words[cluster.name] == "no more jobs of yours"
    assert (cluster.target, cluster.worker_start_failure_count) == (JobStatus.RUNNING, 0)
    asked = [count for what, count in target.asked if what == "workers"]
    assert asked[:4] == [20, 10, 5, 10]
    target.room = 100
    await until(lambda: there() == 20)
    assert cluster.name not in backend.records.words
    names = {(ref.name, ref.part) for ref in map(ref_of, cluster.workers.values()) if ref}
    assert len(names) == 20


async def test_the_end_does_not_wait(backend: SmallBackend, target: ScriptedTarget) -> None:
    """A cluster whose workers wait for room is ended at once."""
    target.room = 1
    cluster = await backend.running()
    await backend.beat(cluster, 4)
    await until(lambda: cluster.name in backend.records.words)
    task = backend.starting._tasks[cluster.name]
    await backend.stop_cluster(cluster.name)
    await until(lambda: cluster.status == JobStatus.STOPPED)
    assert task.done()
    assert not backend.starting._tasks
    assert not backend.starting._over
    assert cluster.name not in backend.records.words


async def test_never_any_room(backend: SmallBackend, target: ScriptedTarget) -> None:
    """What may never be taken is tried three times, unless there are others; then why is said."""
    target.room, target.certain = 0, False
    cluster = await backend.running()
    await backend.beat(cluster, 2)
    await until(lambda: cluster.status == JobStatus.FAILED)
    words = "its workers failed to start 3 times in a row: no more jobs of yours"
    assert cluster.state["words"] == words
    counted = 'failures_total{backend="slurm",kind="worker",reason="other"} 3.0'
    assert counted in backend.api.metrics.text().decode()


async def test_room_for_some(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Those that a target starts are followed while others wait for room, and replaced if lost."""
    cluster = await backend.running()
    target.room = 3  # of which its scheduler takes none
    target.some = True
    await backend.beat(cluster, 4)
    submitted, created = JobStatus.SUBMITTED, JobStatus.CREATED
    await until(lambda: statuses(cluster) == [created, *[submitted] * 3])
    (lost, *_) = (w for w in cluster.workers.values() if w.status == submitted)
    target.set(ref_of(lost), State(Phase.ENDED, "it could not start: no such image"))  # type: ignore[arg-type]
    await until(lambda: lost.status == JobStatus.FAILED)
    assert backend.records.words[cluster.name] == "it could not start: no such image"
    target.room = 100
    await until(lambda: [w.status for w in alive(cluster)] == [submitted] * 4)


def statuses(cluster: Cluster) -> list[JobStatus]:
    """Return the states of all workers, sorted."""
    return sorted(worker.status for worker in cluster.workers.values())


async def test_silence(backend: SmallBackend, target: ScriptedTarget) -> None:
    """A silent target fails nothing: it is asked until it answers, and nothing is twice."""
    target.silent = True
    cluster = backend.new()
    await until(lambda: ("find", 1) in target.asked)
    assert cluster.status == JobStatus.CREATED
    target.lost = {ref_of(cluster).name}  # type: ignore[union-attr]
    target.silent = False
    await until(lambda: cluster.status == JobStatus.SUBMITTED)
    started = [each for each in target.asked if each[0] == "scheduler"]
    assert len(started) == 2


async def test_the_end_is_asked_for_until_it_is_so(
    backend: SmallBackend, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster is over when its target says so, and not before."""
    monkeypatch.setattr("qhub_gateway.stopping._STOP_SECONDS", 0.05)
    cluster = await backend.running(2)
    target.deaf = True
    await backend.stop_cluster(cluster.name)
    await until(lambda: target.asked.count(("stop", 3)) > 2)
    assert cluster.status == JobStatus.CLOSING
    target.deaf, target.silent = False, True
    await asyncio.sleep(0.2)
    assert cluster.status == JobStatus.CLOSING
    target.silent = False
    await until(lambda: cluster.status == JobStatus.STOPPED)


async def test_one_that_does_not_end(
    backend: SmallBackend, target: ScriptedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster that is stopped everything else ends, though one worker's end is unconfirmed."""
    monkeypatch.setattr("qhub_gateway.stopping._STOP_SECONDS", 0.05)
    cluster = await backend.running(3)
    workers = list(cluster.workers.values())
    refs = [ref for ref in map(ref_of, (cluster, *workers)) if ref is not None]
    target.stuck = {refs[1]}
    # its scheduler lost one: the node is dead, where a job stays "completing" until it is back
    names = [worker.name for worker in workers]
    await backend.beat(cluster, 3, active=names[1:], closed=names[:1])
    await until(lambda: ("stop", 1) in target.asked)
    await backend.stop_cluster(cluster.name)
    others = [ref for ref in refs if ref not in target.stuck]
    await until(lambda: sum(is_over(worker) for worker in workers) == 2)
    assert cluster.status == JobStatus.CLOSING
    assert all(target.stuck or target.state(ref) == ENDED for ref in others)
    # what has ended holds nobody's limits
    assert [is_over(worker) for worker in workers].count(False) == 1
    target.set(refs[1], ENDED)
    await until(lambda: cluster.status == JobStatus.STOPPED)


async def test_another_gateway(
    backend: SmallBackend, target: ScriptedTarget, tmp_path: Path
) -> None:
    """It follows every job, and submits none again; those it did not hear of are looked for."""
    cluster = await backend.running(3)
    workers = list(cluster.workers.values())
    backend.db.update_workers([(each, {"status": JobStatus.CREATED}) for each in workers])
    await backend.shut()
    before = len(target.asked)
    another = SmallBackend(target, tmp_path)
    await another.open()
    try:
        again = another.db.get_cluster(cluster.name)
        submitted = JobStatus.SUBMITTED
        await until(lambda: all(w.status == submitted for w in again.workers.values()))
        assert target.asked[before:] == [("find", 3)]
        assert target.followed == {ref_of(again), *map(ref_of, again.workers.values())}
        # what never came to be is submitted
        target.lost = {ref_of(workers[0]).name}  # type: ignore[union-attr]
        another.db.update_workers(
            [(each, {"status": JobStatus.CREATED}) for each in again.workers.values()]
        )
        another.records.put(again.workers.values())
        await until(lambda: target.asked[-1] == ("workers", 3))
    finally:
        await another.shut()
        # the fixture ends what is ended already
        backend.queue = WorkQueue()


async def test_a_target_is_gone(
    backend: SmallBackend, target: ScriptedTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A gateway whose administrator took a target away says what that leaves alone, and begins."""
    cluster = await backend.running(1)
    await backend.shut()
    another = SmallBackend(target, tmp_path)
    another.make_targets = dict  # type: ignore[method-assign,assignment]
    another.log.propagate = True
    try:
        await another.open()
        text = f"cluster {cluster.name} can be neither followed nor ended: this gateway has no"
        assert text in caplog.text
        assert another.db.get_cluster(cluster.name).target == JobStatus.RUNNING
        assert another.state_of(another.db.get_cluster(cluster.name)) == UNKNOWN
    finally:
        await another.shut()
        backend.queue = WorkQueue()


async def test_the_database_is_locked(
    backend: SmallBackend, target: ScriptedTarget, tmp_path: Path
) -> None:
    """Whatever happens meanwhile is on record afterwards, and happened once."""
    cluster = await backend.running(2)
    backend.cluster_options = options_of
    lock = sqlite3.connect(tmp_path / "gateway.sqlite", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OperationalError):
        # its scheduler says it again
        await backend.beat(cluster, 4)
    lost = next(iter(cluster.workers.values()))
    target.set(ref_of(lost), ENDED)  # type: ignore[arg-type]
    another = asyncio.ensure_future(backend.start_cluster(SimpleNamespace(name="alice"), {}))
    stop = asyncio.ensure_future(backend.stop_cluster(cluster.name))
    await asyncio.sleep(0.5)
    assert not another.done()
    assert not stop.done()
    lock.execute("COMMIT")
    lock.close()
    await stop
    name = await another
    await until(lambda: cluster.status == JobStatus.STOPPED)
    await until(lambda: backend.db.get_cluster(name).status == JobStatus.SUBMITTED)
    assert target.asked.count(("scheduler", 1)) == 2


def options_of(user: object) -> Options:
    """What anybody may ask for: nothing."""
    values = {"request": request_of().to_json()}
    return Options(handler=lambda options: values)


class OneWorker:
    """Lets each cluster have one worker, until it says that there are more."""

    def __init__(self) -> None:
        """As the class says."""
        self.most = 1
        self.gone: dict[str, str] = {}

    async def admit(self, user: object, config: object) -> None:
        """Let it be made."""

    def granted(self, cluster: Cluster, count: int) -> int:
        """Return how many."""
        return min(count, self.most)

    def exhausted(self) -> Mapping[str, str]:
        """Return what a test says."""
        return self.gone


async def test_limits(backend: SmallBackend) -> None:
    """What a limit holds back comes when there is room; used-up hours end a cluster, in words."""
    backend.limiter = limiter = OneWorker()
    cluster = backend.new()
    await until(lambda: cluster.status == JobStatus.SUBMITTED)
    await backend.beat(cluster, 3)
    await until(lambda: len(alive(cluster)) == 1)
    limiter.most = 3
    await backend._check_timeouts()
    await until(lambda: len(alive(cluster)) == 3)
    limiter.gone = {cluster.name: "all hours are used up"}
    await backend._check_timeouts()
    await until(lambda: cluster.status == JobStatus.FAILED)
    assert cluster.state["words"] == "all hours are used up"


async def test_hours_of_the_past(target: ScriptedTarget, tmp_path: Path) -> None:
    """Clusters stay on record as long as their hours count, and not their workers; not longer."""
    day = 86400
    made = SmallBackend(target, tmp_path)
    assert made.db_cluster_max_age == day
    limits = {"user": {"cluster_hours": 100}, "hours_within": "30d"}
    config = Config({"People": {"limits": limits}})
    made = SmallBackend(target, tmp_path, config=config)
    await made.open()
    try:
        cluster = await made.running(2)
        await made.stop_cluster(cluster.name)
        await until(lambda: cluster.status == JobStatus.STOPPED)
        now = time.time()

        def hours(days: float) -> float:
            """Return what counts of ten hours that ended so many days ago, after a cleanup."""
            ended = now - days * day
            state = {**cluster.state, "began": ended - 10 * 3600}
            made.db.update_cluster(cluster, state=state, stop_time=int(ended * 1000))
            made.records.thin(made._workers_age)
            made.db.cleanup_expired(made.db_cluster_max_age)
            assert isinstance(made.limiter, DatabaseLimiter)
            uses = made.limiter.uses()
            every = (each for each in uses if each.resource == "cluster_hours")
            return round(next(each.used for each in every if each.scope.kind == "everyone"), 1)

        assert (hours(0.5), len(cluster.workers)) == (10.0, 2)
        assert (hours(29), len(cluster.workers)) == (10.0, 0)
        await made.shut()
        made = SmallBackend(target, tmp_path, config=config)
        await made.open()
        cluster = made.db.get_cluster(cluster.name)
        assert cluster.workers == {}
        assert hours(31) == 0.0
        assert made.db.get_cluster(cluster.name) is None
    finally:
        await made.shut()


def test_defaults() -> None:
    """Each gateway has a name of its own; clusters outlive it if its database does."""
    one, again, two = (
        QHubGatewayBackend(db_url="sqlite:////tmp/x", db_encrypt_keys=[key], api_url="http://x")
        for key in (KEY, KEY, Fernet.generate_key().decode())
    )
    assert one.gateway_id == again.gateway_id != two.gateway_id
    assert re.fullmatch("[a-z0-9]{1,16}", one.gateway_id)
    assert not one.stop_clusters_on_shutdown
    forgetful = QHubGatewayBackend(api_url="http://x")
    assert forgetful.stop_clusters_on_shutdown
    assert re.fullmatch("[a-z0-9]{1,16}", forgetful.gateway_id)
