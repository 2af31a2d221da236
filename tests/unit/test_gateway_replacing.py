"""Workers whose walltime ends are replaced before: one more in time, and the right one leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dask_gateway_server.backends.db_base import JobStatus
from distributed.preloading import _import_module

from qhub_gateway import leaving_first
from qhub_gateway.deciding import build
from qhub_gateway.leaving_first import SECONDS, LeavingFirst, dask_setup
from qhub_gateway.records import ref_of
from qhub_gateway.requests import ClusterRequest, ClusterRules, Owner, Site
from qhub_gateway.targets.target import Phase, State
from qhub_spawner.catalogue import load
from qhub_spawner.quantities import Duration
from tests.unit import test_gateway_backend
from tests.unit.scripted_door import until
from tests.unit.test_gateway_backend import ScriptedTarget, SmallBackend, alive
from tests.unit.test_gateway_slurm_script import request_of

backend = test_gateway_backend.backend
target = test_gateway_backend.target

WALLTIME, BEFORE = 7200, 600


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> ClusterRequest:
    """What every cluster then is: workers of two hours, replaced ten minutes before."""
    changes = {"replace_before": Duration(BEFORE), "walltime": Duration(WALLTIME)}
    request = ClusterRequest.from_json({**request_of().to_json(), **_json(changes)})
    monkeypatch.setattr(test_gateway_backend, "request_of", lambda: request)
    return request


def _json(changes: dict[str, Duration]) -> dict[str, str]:
    return {name: str(value) for name, value in changes.items()}


def since(seconds: float) -> State:
    """A job that has run for so long."""
    return State(Phase.RUNNING, since=time.time() - seconds)


async def test_another_in_time(
    backend: SmallBackend, target: ScriptedTarget, lasting: ClusterRequest
) -> None:
    """A successor for the one that ends soon, once, and not before; it is not given up as too many."""
    target.begin = since(0)
    cluster = await backend.running(2)
    old, young = (worker.name for worker in cluster.workers.values())
    await backend.beat(cluster, 2, active={old, young})
    target.set(ref_of(cluster.workers[old]), since(WALLTIME - BEFORE - 60))  # type: ignore[arg-type]
    await backend._check_timeouts()
    await backend.beat(cluster, 2, active={old, young})
    assert len(cluster.workers) == 2
    target.set(ref_of(cluster.workers[old]), since(WALLTIME - BEFORE + 60))  # type: ignore[arg-type]
    for _ in range(3):
        await backend._check_timeouts()
        await backend.beat(cluster, 2, active={old, young})
    submitted = JobStatus.SUBMITTED
    await until(lambda: sum(w.status == submitted for w in cluster.workers.values()) == 1)
    new = next(name for name in cluster.workers if name not in {old, young})
    # it joins, and its scheduler retires the old one
    await backend.beat(cluster, 2, active={young, new}, closing={old})
    await backend._check_timeouts()
    await backend.beat(cluster, 2, active={young, new}, closed={old})
    await until(lambda: cluster.workers[old].status == JobStatus.STOPPED)
    await backend._check_timeouts()
    assert {worker.name for worker in alive(cluster)} == {young, new}
    assert [each for each in target.asked if each[0] == "workers"] == [
        ("workers", 2),
        ("workers", 1),
    ]


async def test_smaller_meanwhile(
    backend: SmallBackend, target: ScriptedTarget, lasting: ClusterRequest
) -> None:
    """Who wants fewer has fewer: what only waits to take a place goes with the place."""
    target.begin = since(WALLTIME - BEFORE + 60)
    cluster = await backend.running(2)
    names = set(cluster.workers)
    await backend.beat(cluster, 2, active=names)
    await backend._check_timeouts()
    await until(lambda: len(alive(cluster)) == 4)
    one, two = names
    await backend.beat(cluster, 1, active={one}, closing={two})
    await until(lambda: sum(worker.name not in names for worker in alive(cluster)) == 1)
    await backend.beat(cluster, 0, active=set(), closing=names)
    await until(lambda: not {worker.name for worker in alive(cluster)} - names)


async def test_not_asked_for(backend: SmallBackend, target: ScriptedTarget) -> None:
    """Without the setting workers end when they end."""
    target.begin = since(10**6)
    cluster = await backend.running(2)
    await backend.beat(cluster, 2, active=set(cluster.workers))
    await backend._check_timeouts()
    assert len(alive(cluster)) == 2
    assert "--preload" in backend.get_scheduler_command(cluster)
    assert "LeavingFirst" not in " ".join(backend.get_scheduler_command(cluster))
    assert SECONDS not in backend.spec_of(cluster).environment


async def test_the_scheduler_knows(backend: SmallBackend, lasting: ClusterRequest) -> None:
    """It runs the text, as Dask reads it, before dask-gateway's own part, and knows from when on."""
    cluster = backend.new()
    command = backend.get_scheduler_command(cluster)
    own, stock = (place for place, word in enumerate(command) if word == "--preload")
    assert command[stock + 1] == "dask_gateway.scheduler_preload"
    module = _import_module(command[own + 1])
    assert module.SECONDS == SECONDS
    assert module.dask_setup
    assert float(backend.spec_of(cluster).environment[SECONDS]) == WALLTIME - 1.5 * BEFORE


class TestLeavingFirst:
    """What runs in the scheduler."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """A clock that a test moves."""
        clock = SimpleNamespace(now=1000.0)
        monkeypatch.setattr(leaving_first.time, "monotonic", lambda: clock.now)
        return clock

    @staticmethod
    def scheduler(count: int, *names: str) -> Any:
        """A scheduler that has so many workers, and wants `count`."""
        workers = {name: SimpleNamespace(address=name) for name in names}
        service = SimpleNamespace(count=count)
        return SimpleNamespace(workers=workers, services={"gateway": service}, plugins=[])

    @staticmethod
    def choice(plugin: LeavingFirst, scheduler: Any) -> list[str]:
        """Return who may be retired."""
        found = plugin.valid_workers_downscaling(scheduler, list(scheduler.workers.values()))
        return [each.address for each in found]

    def test_old_ones_first(self, clock: Any) -> None:
        """Where they are enough; else Dask chooses among all, as ever."""
        plugin = LeavingFirst(100)
        for name in ("a", "b", "c"):
            plugin.add_worker(None, name)
            clock.now += 60
        assert self.choice(plugin, self.scheduler(2, "a", "b", "c")) == ["a", "b"]
        assert self.choice(plugin, self.scheduler(0, "a", "b", "c")) == ["a", "b", "c"]
        plugin.remove_worker(None, "a")
        plugin.remove_worker(None, "b", stimulus_id="more")
        plugin.add_worker(None, "a")
        assert self.choice(plugin, self.scheduler(1, "a", "c", "unknown")) == ["a", "c", "unknown"]

    def test_without_a_gateway(self, clock: Any) -> None:
        """Also before dask-gateway's own part has begun."""
        plugin = LeavingFirst(100)
        plugin.add_worker(None, "a")
        clock.now += 200
        scheduler = self.scheduler(0, "a", "b")
        scheduler.services = {}
        assert self.choice(plugin, scheduler) == ["a"]

    def test_setup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only where the gateway says from when on."""
        added: list[Any] = []
        scheduler = SimpleNamespace(add_plugin=added.append)
        monkeypatch.delenv(SECONDS, raising=False)
        dask_setup(scheduler)
        assert not added
        monkeypatch.setenv(SECONDS, "90.5")
        dask_setup(scheduler)
        assert added[0].seconds == 90.5


def test_travels_alone() -> None:
    """The text has nothing of qhub, is no file's name, and is short enough for an argument."""
    text = Path(leaving_first.__file__).read_text()
    assert "qhub_" not in text.replace("qhub_gateway", "")
    assert "import qhub" not in text
    assert "from qhub" not in text
    assert " " in text
    assert not text.endswith(".py")
    assert len(text) < 16_384


def test_what_a_site_says() -> None:
    """Half of the walltime at most; a scheduler that would end first is as its workers."""
    profile = {"slug": "p", "display_name": "P", "cpu": 1, "walltime": "8h", "slurm": {}}
    catalogue = load([profile, {**profile, "slug": "endless", "walltime": None}])

    def decided(**rules: object) -> ClusterRequest:
        site = Site(rules=ClusterRules.model_validate({"replace_before": "1h", **rules}))
        return build(catalogue, Owner(name="alice"), {"profile": "p", **asked}, site=site)

    asked: dict[str, str] = {}
    assert str(decided().replace_before) == "1 h"
    assert str(decided().cluster_walltime) == "8 h"
    assert str(decided(scheduler_walltime="3d").cluster_walltime) == "3 d"
    assert decided(scheduler_walltime="2h").scheduler_walltime is None
    asked["walltime"] = "30 min"
    assert str(decided().replace_before) == "15 min"
    again = ClusterRequest.from_json(decided(scheduler_slurm={"partition": "service"}).to_json())
    assert again.scheduler_slurm is not None
    assert again.scheduler_slurm.partition == "service"
    asked = {"profile": "endless"}
    assert decided().replace_before is None
    assert decided(scheduler_walltime="3d").cluster_walltime is None
