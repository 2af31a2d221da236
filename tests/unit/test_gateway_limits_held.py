"""Limits hold: whatever is asked for at once, by the gateway's own way from request to database."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dask_gateway_server.backends.base import PublicException
from dask_gateway_server.backends.db_base import Cluster, JobStatus
from dask_gateway_server.options import Options
from hypothesis import given, settings
from hypothesis import strategies as st
from traitlets.config import Config

from qhub_gateway.records import ref_of
from qhub_gateway.requests import Owner, Size
from qhub_spawner.quantities import Cpu, Memory
from tests.examples import examples
from tests.unit.scripted_door import until
from tests.unit.test_gateway_backend import ENDED, QUEUED, ScriptedTarget, SmallBackend
from tests.unit.test_gateway_slurm_script import request_of

GIB = 2**30
# what each may have at once; the independent count below knows nothing of the product's
MOST: dict[tuple[str, str], dict[str, float]] = {
    ("user", "alice"): {"clusters": 3, "workers": 7, "cores": 12},
    ("user", "bob"): {"clusters": 3, "workers": 7, "cores": 20},
    ("user", "carol"): {"clusters": 3, "workers": 7, "cores": 20},
    ("user", "dave"): {"clusters": 3, "workers": 7, "cores": 12},
    ("group", "physics"): {"memory": 40, "workers": 9},
    ("group", "lab"): {"gpus": 4},
    ("everyone", ""): {"clusters": 5, "cores": 30, "memory": 60},
}
LIMITS = {
    "user": {"clusters": 3, "workers": 7, "cores": 12},
    "members": {"lab": {"cores": 20}},
    "groups": {"physics": {"memory": "40 GiB", "workers": 9}, "lab": {"gpus": 4}},
    "everyone": {"clusters": 5, "cores": 30, "memory": "60 GiB"},
}
GROUPS = {"alice": ("physics",), "bob": ("physics", "lab"), "carol": ("lab",), "dave": ()}
# cores and GiB of memory of the scheduler; cores, GiB and GPUs of each worker
SIZES = {"alice": (1, 1, 2, 4, 0), "bob": (1, 2, 3, 2, 1), "carol": (2, 1, 1, 9, 1)}
SIZES["dave"] = (1, 1, 1, 1, 0)


def options_of(user: Any) -> Options:
    """Return what somebody asks for."""
    cores, memory, worker_cores, worker_memory, gpus = SIZES[user.name]
    request = request_of().model_copy(
        update={
            "owner": Owner(name=user.name, groups=GROUPS[user.name]),
            "scheduler": Size(cpu=Cpu(cores * 1000), memory=Memory(memory * GIB)),
            "worker": Size(
                cpu=Cpu(worker_cores * 1000), memory=Memory(worker_memory * GIB), gpus=gpus
            ),
            "walltime": None,
        }
    )
    return Options(handler=lambda _: {"request": request.to_json()})


def needs(user: str, *, clusters: int = 0, workers: int = 0) -> Counter[tuple[str, str, str]]:
    """Return what clusters and workers of somebody take, of whom."""
    cores, memory, worker_cores, worker_memory, gpus = SIZES[user]
    taken = {
        "clusters": clusters,
        "workers": workers,
        "cores": clusters * cores + workers * worker_cores,
        "memory": clusters * memory + workers * worker_memory,
        "gpus": workers * gpus,
    }
    scopes = [("user", user), ("everyone", ""), *(("group", group) for group in GROUPS[user])]
    return Counter({(*scope, name): number for scope in scopes for name, number in taken.items()})


def fits(taken: Counter[tuple[str, str, str]]) -> bool:
    """Whether no limit is passed."""
    return all(
        taken[(*scope, name)] <= most for scope, each in MOST.items() for name, most in each.items()
    )


class Played:
    """A gateway and what people do with it; each thing that is written is counted."""

    def __init__(self, backend: SmallBackend, target: ScriptedTarget) -> None:
        self.backend = backend
        self.target = target
        self.wanted: dict[str, int] = {}
        self.refused = 0
        make, create = backend.db.create_cluster, backend.records.create_workers

        def created(*asked: Any) -> Cluster:
            cluster = make(*asked)
            assert fits(self.taken())
            return cluster

        def made(cluster: Cluster, count: int) -> list[Any]:
            workers = create(cluster, count)
            assert fits(self.taken())
            return workers

        backend.db.create_cluster = created
        backend.records.create_workers = made  # type: ignore[method-assign]

    @property
    def clusters(self) -> list[Cluster]:
        """Those that have not ended."""
        every = self.backend.db.name_to_cluster.values()
        return [cluster for cluster in every if cluster.status < JobStatus.STOPPED]

    def taken(self) -> Counter[tuple[str, str, str]]:
        """Return what the database has, added up."""
        found: Counter[tuple[str, str, str]] = Counter()
        for cluster in self.clusters:
            workers = sum(each.status < JobStatus.STOPPED for each in cluster.workers.values())
            found += needs(cluster.username, clusters=1, workers=workers)
        return found

    async def start(self, names: list[str]) -> None:
        """Have people ask for clusters at the same moment: none is refused without need."""
        asked = (self.backend.start_cluster(SimpleNamespace(name=name), {}) for name in names)
        for name, answer in zip(
            names, await asyncio.gather(*asked, return_exceptions=True), strict=True
        ):
            if isinstance(answer, str):
                self.wanted[answer] = 0
                continue
            assert isinstance(answer, PublicException), answer
            assert not fits(self.taken() + needs(name, clusters=1))
            self.refused += 1
        ready = JobStatus.SUBMITTED
        await until(lambda: all(cluster.status >= ready for cluster in self.clusters))

    async def scale(self, counts: list[tuple[int, int]]) -> None:
        """Have clusters ask for workers at the same moment."""
        chosen = ((self.at(index), count) for index, count in counts)
        found = {each.name: count for each, count in chosen if each is not None}
        self.wanted |= found
        beats = [self.backend.beat(self.cluster(name), count) for name, count in found.items()]
        await asyncio.gather(*beats)
        await self.settled()

    async def lose(self, index: int) -> None:
        """Have a worker that has joined end by itself."""
        cluster = self.at(index)
        if cluster is None:
            return
        workers = cluster.active_workers()
        names = [each.name for each in workers]
        await self.backend.beat(cluster, self.wanted[cluster.name], active=names)
        if workers:
            ref = ref_of(workers[0])
            assert ref is not None
            self.target.set(ref, ENDED)
            await until(lambda: not workers[0].is_active())
        await self.settled()

    async def stop(self, index: int) -> None:
        """Have a cluster ended."""
        cluster = self.at(index)
        if cluster is not None:
            await self.backend.stop_cluster(cluster.name)
            await until(cluster.shutdown.is_set)
        await self.settled()

    def at(self, index: int) -> Cluster | None:
        """Return one of the clusters, if there are any."""
        return self.clusters[index % len(self.clusters)] if self.clusters else None

    def cluster(self, name: str) -> Cluster:
        """Return a cluster."""
        return self.backend.db.get_cluster(name)

    async def settled(self) -> None:
        """Wait until each cluster has what it wants, or nobody's limit allows one worker more."""
        await until(self._no_leaving)
        await self.backend._check_timeouts()
        await until(lambda: all(map(self._has_all, self.clusters)))
        assert fits(self.taken())

    def _no_leaving(self) -> bool:
        workers = (each for cluster in self.clusters for each in cluster.workers.values())
        return all(each.is_active() or each.status >= JobStatus.STOPPED for each in workers)

    def _has_all(self, cluster: Cluster) -> bool:
        has = len(cluster.active_workers())
        more = needs(cluster.username, workers=1)
        if any(each.status < JobStatus.SUBMITTED for each in cluster.active_workers()):
            return False
        return has >= self.wanted[cluster.name] or not fits(self.taken() + more)


@asynccontextmanager
async def played() -> Any:
    """A gateway with these limits, in a folder of its own."""
    target = ScriptedTarget()
    target.begin = QUEUED
    with tempfile.TemporaryDirectory() as folder:
        config = Config({"People": {"limits": LIMITS}})
        backend = SmallBackend(target, Path(folder), config=config)
        await backend.open()
        backend.judging.patience = replace(backend.judging.patience, heartbeat=1e6)
        backend.cluster_options = options_of
        try:
            yield Played(backend, target)
        finally:
            await backend.shut()


PEOPLE = st.sampled_from(sorted(GROUPS))
INDEX = st.integers(0, 5)
DEEDS = st.one_of(
    st.tuples(st.just("start"), st.lists(PEOPLE, min_size=1, max_size=8)),
    st.tuples(
        st.just("scale"), st.lists(st.tuples(INDEX, st.integers(0, 12)), min_size=1, max_size=5)
    ),
    st.tuples(st.just("lose"), INDEX),
    st.tuples(st.just("stop"), INDEX),
)


@settings(max_examples=examples(12), deadline=None)
@given(deeds=st.lists(DEEDS, min_size=3, max_size=12))
def test_anything_people_do(deeds: list[tuple[str, Any]]) -> None:
    """In any order, several at once: no limit is passed, and nothing is held back without need."""

    async def play() -> None:
        async with played() as site:
            await site.start(["alice", "bob"])
            for what, how in deeds:
                await getattr(site, what)(how)
            while site.clusters:
                await site.stop(0)
            assert site.backend.limiter.uses() != []
            assert {use.used for use in site.backend.limiter.uses()} == {0.0}

    asyncio.run(play())


@pytest.mark.parametrize("crowd", [40])
async def test_many_at_once(crowd: int) -> None:
    """A crowd takes exactly what there is, of clusters and then of workers."""
    async with played() as site:
        await site.start(sorted(GROUPS) * (crowd // 4))
        assert (len(site.clusters), site.refused) == (5, crowd - 5)
        await site.scale([(index, 50) for index in range(5)])
        for cluster in site.clusters:
            assert not fits(site.taken() + needs(cluster.username, workers=1))
