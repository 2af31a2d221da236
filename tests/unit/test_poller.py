"""The poller in rare interleavings: what is unknown is never an end, and an end is Slurm's word."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from qhub_spawner.slurm import poller as module
from qhub_spawner.slurm.door import AccountingSilentError
from qhub_spawner.slurm.jobs import GarbledAnswerError, Job, JobEnding, JobState
from qhub_spawner.slurm.poller import Intervals, Pace, Poller, Watch
from tests.unit.scripted_door import NAME, SILENCE, ScriptedDoor, job, poller_of, until

CANCELLED = JobEnding(7, JobState.CANCELLED, cancelled_by=1000)
STILL = JobEnding(7, JobState.RUNNING)


def watched(poller: Poller, job_id: int | None = 7) -> Watch:
    """A watch on NAME, whose job exists if it has an id."""
    watch = poller.watch(NAME, "alice")
    if job_id is not None:
        watch.exists(job_id)
    return watch


@pytest.mark.parametrize(
    "failure", [SILENCE, GarbledAnswerError("squeue", "half a li"), ValueError("ours"), KeyError(1)]
)
async def test_no_failure_ends_a_watch(failure: Exception) -> None:
    """A failed, garbled or misread answer changes nothing of what is known."""
    door = ScriptedDoor([job()], failure)
    poller = poller_of(door)
    watch = watched(poller)
    assert await poller.fresh()
    for _ in range(5):
        assert not await poller.fresh()
    assert watch.ending is None
    assert watch.job is not None
    assert watch.job.state is JobState.RUNNING
    assert poller.failures == 5
    assert "endings" not in door.asked


async def test_failures_are_forgotten_after_an_answer() -> None:
    """One good answer ends the back-off and the problem."""
    poller = poller_of(ScriptedDoor(SILENCE, SILENCE, []))
    assert [await poller.fresh() for _ in range(3)] == [False, False, True]
    assert (poller.failures, poller.problem) == (0, None)


async def test_end_by_the_queue_has_accountings_words() -> None:
    """A job that the queue says is over ends as accounting knows it; the watcher hears it once."""
    door = ScriptedDoor([job(JobState.CANCELLED)])
    door.accounting = {7: CANCELLED}
    poller, heard = poller_of(door), []
    watch = watched(poller)
    watch.on_end = lambda: heard.append(watch.ending)
    await poller.fresh()
    await poller.fresh()
    assert heard == [CANCELLED]


async def test_end_waits_for_late_accounting() -> None:
    """Accounting learns of an end a moment later: it has that moment, as it knows by whom."""
    door = ScriptedDoor([job(JobState.CANCELLED)])
    door.accounting = {7: STILL}
    poller = poller_of(door)
    watch = watched(poller)
    watch.pace = Pace.REST
    await poller.fresh()
    assert watch.ending is None
    assert watch.pace is Pace.STARTING
    door.accounting = {7: CANCELLED}
    await poller.fresh()
    assert watch.ending == CANCELLED


@pytest.mark.parametrize(
    "reason", ["too late", "somebody waits", "accounting is away", "none kept"]
)
async def test_end_does_not_wait_for_ever(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue's word stands when accounting stays behind, is away or absent, or time presses."""
    door = ScriptedDoor([job(JobState.CANCELLED)])
    door.accounting = {7: STILL}
    poller = poller_of(door)
    watch = watched(poller)
    if reason == "too late":
        monkeypatch.setattr(module, "_ACCOUNTING_LAG_SECONDS", -1.0)
    elif reason == "somebody waits":
        watch.pace = Pace.STOPPING
    elif reason == "accounting is away":
        door.accounting = SILENCE
    else:
        door.accounting = AccountingSilentError()
    await poller.fresh()
    assert watch.ending is not None
    assert watch.ending.state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("accounting", "lost", "ends"),
    [
        ({7: CANCELLED}, False, JobState.CANCELLED),
        ({7: STILL}, False, None),
        ({7: STILL}, True, JobState.UNKNOWN),
        ({}, False, None),
        ({}, True, JobState.UNKNOWN),
        ({}, SILENCE, None),
        (SILENCE, True, None),
        (AccountingSilentError(), False, None),
        (AccountingSilentError(), True, JobState.UNKNOWN),
    ],
)
async def test_job_missing_from_the_queue(
    accounting: Any, lost: Any, ends: JobState | None
) -> None:
    """A missing job is over when accounting says so, or knows nothing and slurmctld says so."""
    door = ScriptedDoor([])
    door.accounting, door.lost = accounting, lost
    poller = poller_of(door)
    watch = watched(poller)
    await poller.fresh()
    assert (watch.ending.state if watch.ending else None) is ends


async def test_silent_accounting_is_not_passed_over() -> None:
    """While accounting is away, slurmctld alone does not end a job: accounting comes first."""
    door = ScriptedDoor([])
    door.accounting, door.lost = SILENCE, True
    poller = poller_of(door)
    watch = watched(poller)
    await poller.fresh()
    assert "gone" not in door.asked
    door.accounting = {7: CANCELLED}
    await poller.fresh()
    assert watch.ending == CANCELLED


async def test_question_from_before_cannot_miss_a_job() -> None:
    """A queue asked for before a job existed proves nothing about it."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> list[Job]:
        asked.set()
        await answer.wait()
        return []

    door = ScriptedDoor(slow, [])
    door.accounting, door.lost = {}, True
    poller = poller_of(door)
    watch = watched(poller, None)
    refresh = asyncio.ensure_future(poller.fresh())
    await asked.wait()
    watch.exists(7)
    answer.set()
    assert await refresh
    assert watch.ending is None
    assert "endings" not in door.asked
    await poller.fresh()
    assert watch.ending is not None


async def test_wall_clock_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the wall clock says, a missing job is found missing and the queue's age is right."""
    door = ScriptedDoor([job()], [])
    door.accounting = {7: CANCELLED}
    poller = poller_of(door)
    watch = watched(poller)
    await poller.fresh()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert poller.age_seconds is not None
    assert 0 <= poller.age_seconds < 5
    await poller.fresh()
    assert watch.ending == CANCELLED


async def test_job_is_adopted_by_name() -> None:
    """A watch without an id takes the job of its name, whatever state it is in."""
    for state in (JobState.PENDING, JobState.RUNNING):
        poller = poller_of(ScriptedDoor([], [job(state)]))
        watch = watched(poller, None)
        await poller.fresh()
        assert watch.job_id is None
        await poller.fresh()
        assert watch.job_id == 7


async def test_copied_name_fools_nobody() -> None:
    """Another person's job of the same name is neither adopted nor taken for the server's own."""
    copy = job(job_id=3, user="bob", node_list="evil01")
    poller = poller_of(ScriptedDoor([copy], [copy, job()], [copy, job(JobState.CANCELLED)]))
    watch = watched(poller, None)
    await poller.fresh()
    assert watch.job_id is None
    await poller.fresh()
    assert watch.job_id == 7
    assert watch.job is not None
    assert watch.job.node_list == "cn01"
    watch.pace = Pace.STOPPING
    await poller.fresh()
    assert watch.ending is not None


async def test_requeue_is_no_end() -> None:
    """A job that waits again and then runs elsewhere has not ended in between."""
    states = (JobState.RUNNING, JobState.REQUEUED, JobState.PENDING)
    poller = poller_of(ScriptedDoor(*([job(state)] for state in states), [job(node_list="cn02")]))
    watch = watched(poller)
    for _ in range(4):
        await poller.fresh()
    assert watch.ending is None
    assert watch.job is not None
    assert watch.job.node_list == "cn02"


async def test_one_faulty_listener_does_not_deafen_the_others() -> None:
    """A watcher that fails on hearing of its end costs the others one answer at most."""
    other = "qhub-hub1-aaaaaaaaaaaaaaaa"
    over = job(JobState.COMPLETED)
    door = ScriptedDoor([over, job(JobState.COMPLETED, job_id=8, name=other)])
    door.accounting = AccountingSilentError()
    poller = poller_of(door)
    first, second = watched(poller), poller.watch(other, "alice")
    second.exists(8)

    def faulty() -> None:
        msg = "a listener's own fault"
        raise RuntimeError(msg)

    first.on_end = faulty
    await poller.fresh()
    await poller.fresh()
    assert first.ending is not None
    assert second.ending is not None


async def test_questions_are_shared() -> None:
    """Many who want an answer at once cost one query, or two if one was under way."""
    door = ScriptedDoor([job()])
    poller = poller_of(door)
    await asyncio.gather(*(poller.fresh() for _ in range(50)))
    assert 1 <= door.asked.count("queue") <= 2


async def test_giving_up_on_an_answer_does_not_end_it() -> None:
    """Who stops waiting does not take the answer from the others."""
    gate = asyncio.Event()

    async def slow() -> list[Job]:
        await gate.wait()
        return [job()]

    poller = poller_of(ScriptedDoor(slow, [job()]))
    watch = watched(poller)
    impatient = asyncio.ensure_future(poller.fresh())
    await asyncio.sleep(0)
    patient = asyncio.ensure_future(poller.fresh())
    await asyncio.sleep(0)
    impatient.cancel()
    gate.set()
    assert await patient
    assert watch.job is not None


async def test_tick_is_bound_when_it_is_called() -> None:
    """An answer that comes between the call of `tick` and its await is not missed."""
    poller = poller_of(ScriptedDoor([]))
    tick = poller.tick()
    await poller.fresh()
    async with asyncio.timeout(1):
        await tick


async def test_pace_and_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace is that of whoever hurries most; failures stretch it, within bounds."""
    monkeypatch.setattr(module.random, "uniform", lambda *_: 1.0)
    poller = poller_of(ScriptedDoor([]), Intervals())
    assert poller._interval() == 15.0
    watch = watched(poller)
    paces = {Pace.REST: 10.0, Pace.WAITING: 5.0, Pace.STARTING: 2.0, Pace.STOPPING: 0.5}
    for pace, seconds in paces.items():
        poller.hurry(watch, pace)
        assert poller._interval() == seconds
    poller.failures = 50
    assert poller._interval() == 10.0  # who waits hears of Slurm's return soon
    poller.hurry(watch, Pace.REST)
    assert poller._interval() == 60.0
    poller.forget(watch)
    assert not poller.watches(NAME)


async def test_runs_on_through_everything() -> None:
    """The poller outlives whatever the door does."""
    door = ScriptedDoor(SILENCE, RuntimeError("ours"), [job()])
    poller = poller_of(door)
    running = asyncio.ensure_future(poller.run())
    try:
        await until(lambda: poller.queue is not None)
    finally:
        running.cancel()


async def test_hurry_cuts_a_pause_short() -> None:
    """Who waits for an end does not wait for the end of a pause."""
    door = ScriptedDoor([job()])
    poller = poller_of(door, Intervals(idle=60, rest=60, waiting=60, starting=60, stopping=0.01))
    running = asyncio.ensure_future(poller.run())
    try:
        await until(lambda: poller.queue is not None)
        watch = watched(poller)
        poller.hurry(watch, Pace.STOPPING)
        await until(lambda: door.asked.count("queue") > 1)
    finally:
        running.cancel()
