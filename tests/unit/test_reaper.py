"""The reaper: it ends this hub's jobs that nobody owns, after a while, and no others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from qhub_spawner.slurm import reaper as module
from qhub_spawner.slurm.jobs import Job, JobState, Queue
from qhub_spawner.slurm.poller import Intervals
from qhub_spawner.slurm.reaper import Reaper
from tests.unit.scripted_door import LOG, NAME, SILENCE, ScriptedDoor, job, poller_of, until


def queue(*jobs: Job) -> Queue:
    """An answer of the queue."""
    return Queue(datetime.now(UTC), jobs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A monotonic clock that the test sets."""

    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def reaper_of(door: ScriptedDoor, **more: Any) -> Reaper:
    """A reaper of the hub "hub1"."""
    return Reaper(poller_of(door), door, "hub1", LOG, **more)


async def test_ends_after_patience(clock: Any) -> None:
    """A job is ended when it has stood without an owner for 20 s, in its person's name."""
    door = ScriptedDoor()
    reaper = reaper_of(door)
    for later in (0, 10, 9):
        clock.now += later
        await reaper.look(queue(job()))
    assert door.asked == []
    clock.now += 2
    await reaper.look(queue(job()))
    assert door.asked == [("cancel", "alice", 7, NAME, None)]


async def test_patience_begins_anew(clock: Any) -> None:
    """A job that had an owner meanwhile, or was not in an answer, has its time again."""
    door = ScriptedDoor()
    reaper = reaper_of(door)
    await reaper.look(queue(job()))
    clock.now += 19
    watch = reaper.poller.watch(NAME, "alice")
    await reaper.look(queue(job()))
    reaper.poller.forget(watch)
    clock.now += 10
    await reaper.look(queue(job()))
    clock.now += 10
    await reaper.look(queue())
    clock.now += 10
    await reaper.look(queue(job()))
    assert door.asked == []


@pytest.mark.parametrize(
    "other",
    [
        job(name="qhub-hub2-00112233445566ff"),
        job(name="qhub-hub1-00112233445566ff\nx"),
        job(name="qhub-hub1-0011"),
        job(name="xqhub-hub1-00112233445566ff"),
        job(JobState.CANCELLED),
        job(JobState.COMPLETING),
    ],
)
async def test_leaves_others_alone(clock: Any, other: Job) -> None:
    """Jobs of other hubs, of no hub, and those that are over or about to be are not touched."""
    door = ScriptedDoor()
    reaper = reaper_of(door)
    for _ in range(5):
        await reaper.look(queue(other))
        clock.now += 100
    assert door.asked == []


async def test_leaves_alone_what_the_database_holds(clock: Any) -> None:
    """A server on record is owned, though its hub has not taken it up yet."""
    door = ScriptedDoor()
    reaper = reaper_of(door)
    reaper.recorded = lambda: {NAME}
    for _ in range(3):
        await reaper.look(queue(job()))
        clock.now += 100
    assert door.asked == []


async def test_only_says_so_if_told(clock: Any) -> None:
    """With end_orphans off nothing is cancelled."""
    door = ScriptedDoor()
    reaper = reaper_of(door, end_orphans=False)
    for _ in range(3):
        await reaper.look(queue(job()))
        clock.now += 100
    assert door.asked == []


async def test_tries_again(clock: Any) -> None:
    """One that cannot be cancelled is tried again, and does not keep the others alive."""
    door = ScriptedDoor()
    door.cancelling = SILENCE
    reaper = reaper_of(door)
    both = queue(job(), job(job_id=8, name="qhub-hub1-aaaaaaaaaaaaaaaa"))
    await reaper.look(both)
    clock.now += 21
    await reaper.look(both)
    assert len(door.cancels) == 2
    assert reaper.ended == 0
    door.cancelling = None
    await reaper.look(both)
    assert len(door.cancels) == 4
    assert reaper.ended == 2


async def test_asks_when_the_time_has_come() -> None:
    """It does not wait for an idle poller's next question, and outlives its own faults."""
    door = ScriptedDoor([job()])
    poller = poller_of(door, Intervals(idle=60))
    reaper = Reaper(poller, door, "hub1", LOG, patience_seconds=0.05)
    faults = iter([ValueError("the database is away")])

    def recorded() -> set[str]:
        for fault in faults:
            raise fault
        return set()

    reaper.recorded = recorded
    poller.intervals = Intervals(idle=60, rest=0.05)
    running = asyncio.ensure_future(reaper.run())
    try:
        await asyncio.sleep(0)
        await poller.fresh()
        await until(lambda: door.cancels)
    finally:
        running.cancel()


async def test_unknown_is_no_reason() -> None:
    """After a failed answer nothing is looked at, however old the last good one."""
    door = ScriptedDoor([job()], SILENCE)
    poller = poller_of(door)
    reaper = Reaper(poller, door, "hub1", LOG, patience_seconds=0.0)
    looked: list[Queue] = []

    async def look(queue: Queue) -> None:
        looked.append(queue)

    reaper.look = look  # type: ignore[method-assign]
    running = asyncio.ensure_future(reaper.run())
    try:
        await asyncio.sleep(0)
        await poller.fresh()
        await until(lambda: len(looked) == 1)
        for _ in range(3):
            await poller.fresh()
            await asyncio.sleep(0)
    finally:
        running.cancel()
    assert len(looked) == 1
