"""Slurm falls silent, and people give up: nothing hangs, nothing is lost, others go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dask_gateway_server.backends.db_base import Cluster, JobStatus

from qhub_gateway.records import ref_of
from qhub_gateway.targets.slurm import SlurmTarget
from qhub_gateway.targets.target import JobRef
from qhub_spawner.errors import SubmitUnknownError
from qhub_spawner.slurm.backend import SlurmBackend
from qhub_spawner.slurm.jobs import Job, JobState
from tests.unit.scripted_door import FAST, LOG, SILENCE, ScriptedDoor, job, until
from tests.unit.test_gateway_backend import SmallBackend


class SmallSlurm(ScriptedDoor):
    """Runs what it is given until that is cancelled; may fall silent, and may lose replies."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        super().__init__(self._queue)
        self.silent = False
        self.replies_lost = False
        self.target: SlurmTarget
        self.known: dict[int, str] = {}
        self.over: set[tuple[str, int | None]] = set()
        self.submitted = self._submit
        self.lost = True

    async def _submit(self) -> int:
        if self.silent:
            raise SILENCE
        number = 10 + len(self.known)
        # the watch that a submission is for is the newest
        self.known[number] = list(self.target._watches)[-1].name
        if self.replies_lost:
            self.silent = True
            raise SubmitUnknownError("the reply was lost")
        return number

    async def _queue(self) -> list[Job]:
        if self.silent:
            raise SILENCE
        numbers = {name: number for number, name in self.known.items()}
        return [
            job(JobState.RUNNING, job_id=numbers[ref.name], name=ref.name, tasks=tasks_of(ref))
            for ref in list(self.target._watches)
            if ref.name in numbers and (ref.name, ref.part) not in self.over
        ]

    async def cancel_many(self, user: str, jobs: Any) -> None:
        """End what is named."""
        if self.silent:
            raise SILENCE
        for each in jobs:
            self.over |= {
                (ref.name, ref.part)
                for ref in self.target._watches
                if ref.name == each.name and (each.tasks is None or ref.part in each.tasks)
            }

    async def array(self, array_id: int) -> list[Job]:
        """Say what is left of an array."""
        return [each for each in await self._queue() if each.job_id == array_id]


def tasks_of(ref: JobRef) -> tuple[range, ...]:
    """Return the tasks of the line that tells of a job."""
    return () if ref.part is None else (range(ref.part, ref.part + 1),)


class SlurmGateway(SmallBackend):
    """The backend on Slurm, whose door is scripted."""

    def __init__(self, door: SmallSlurm, path: Path) -> None:
        """Take the door."""
        slurm = SlurmBackend(hub_id="g1")
        slurm.poller.intervals = FAST
        self.slurm = door.target = SlurmTarget(slurm, LOG)
        super().__init__(self.slurm, path)  # type: ignore[arg-type]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> SmallSlurm:
    """Slurm, and everybody in a hurry."""
    made = SmallSlurm()
    monkeypatch.setattr(SlurmBackend, "_make_door", lambda self: made)
    monkeypatch.setattr("qhub_spawner.slurm.submitting._SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("qhub_spawner.slurm.submitting._CONFIRMING_SECONDS", 0.1)
    monkeypatch.setattr("qhub_spawner.slurm.submitting._PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("qhub_gateway.stopping._STOP_SECONDS", 0.5)
    for module in ("backend", "starting", "stopping"):
        monkeypatch.setattr(f"qhub_gateway.{module}._LONGEST_PAUSE_SECONDS", 0.1)
    return made


@pytest.fixture
async def gateway(door: SmallSlurm, tmp_path: Path) -> AsyncIterator[SlurmGateway]:
    """A gateway on it."""
    made = SlurmGateway(door, tmp_path)
    await made.open()
    yield made
    await made.shut()


def named(cluster: Cluster) -> bool:
    """Whether the scheduler has a name on record, and no number."""
    ref = ref_of(cluster)
    return ref is not None and ref.number is None


async def test_a_cluster_is_given_up(gateway: SlurmGateway, door: SmallSlurm) -> None:
    """Made and given up while Slurm is silent: it is over once Slurm says that there is no job."""
    door.silent = True
    cluster = gateway.new()
    await until(lambda: named(cluster))
    await gateway.stop_cluster(cluster.name)
    await until(lambda: cluster.status == JobStatus.CLOSING)
    # unknown is not ended
    await asyncio.sleep(1.0)
    assert cluster.status == JobStatus.CLOSING
    door.silent = False
    await until(lambda: cluster.status == JobStatus.STOPPED)
    assert door.known == {}


async def test_the_job_is_there_after_all(gateway: SlurmGateway, door: SmallSlurm) -> None:
    """A submission whose reply was lost, given up meanwhile: its job is found, and cancelled."""
    door.replies_lost = True
    cluster = gateway.new()
    await until(lambda: door.silent)
    await gateway.stop_cluster(cluster.name)
    await until(lambda: cluster.status == JobStatus.CLOSING)
    door.silent = False
    await until(lambda: cluster.status == JobStatus.STOPPED)
    assert door.over == {(name, None) for name in door.known.values()}
    assert len(door.over) == 1


@pytest.mark.parametrize("arrived", [True, False])
async def test_another_gateway_gives_it_up(
    gateway: SlurmGateway, door: SmallSlurm, tmp_path: Path, arrived: bool
) -> None:
    """Killed with a submission under way, a gateway is followed by one that ends its job, if any."""
    door.replies_lost = True
    cluster = gateway.new()
    await until(lambda: door.silent)
    await gateway.shut()
    if not arrived:
        door.known.clear()
    another = SlurmGateway(door, tmp_path)
    await another.open()
    try:
        again = another.db.get_cluster(cluster.name)
        assert named(again)
        await another.stop_cluster(again.name)
        door.silent = False
        await until(lambda: again.status == JobStatus.STOPPED)
        assert door.over == {(name, None) for name in door.known.values()}
        assert len(door.over) == arrived
    finally:
        await another.shut()
        await gateway.open()


async def test_workers_are_given_up(gateway: SlurmGateway, door: SmallSlurm) -> None:
    """Workers asked for and given up meanwhile are over, and those of others end as ever."""
    one, two = await gateway.running(0), await gateway.running(1)
    (lost,) = two.workers.values()
    await gateway.beat(two, 1, active=[lost.name])
    door.silent = True
    await gateway.beat(one, 2)
    await until(
        lambda: len(one.workers) == 2 and all(ref_of(each) for each in one.workers.values())
    )
    await gateway.beat(one, 0)
    await gateway.beat(two, 1, closed=[lost.name])
    door.silent = False
    await until(lambda: lost.status == JobStatus.FAILED)
    await until(lambda: all(each.status == JobStatus.STOPPED for each in one.workers.values()))
    assert len(door.known) == 4  # two schedulers, a worker, and its successor
    assert one.status == two.status == JobStatus.RUNNING


async def test_who_is_not_there_holds_up_nobody(
    gateway: SlurmGateway, door: SmallSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one worker is looked for, and while Slurm fails to cancel, other ends are on record."""
    cluster = await gateway.running(2)
    one, two = cluster.workers.values()
    await gateway.beat(cluster, 2, active=[one.name, two.name])

    async def no(*asked: object) -> None:
        raise SILENCE

    monkeypatch.setattr(door, "cancel_many", no)
    ref = ref_of(two)
    assert ref is not None
    door.over.add((ref.name, ref.part))
    await gateway.beat(cluster, 0, closed=[one.name, two.name])
    await until(lambda: two.status >= JobStatus.STOPPED)
    assert one.status < JobStatus.STOPPED
