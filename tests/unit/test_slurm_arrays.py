"""Job arrays: how Slurm writes their tasks, which line a task stands in, and when one is over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_spawner.slurm import poller as module
from qhub_spawner.slurm.jobs import (
    GarbledAnswerError,
    Job,
    JobEnding,
    JobState,
    Queue,
    read_tasks,
    write_tasks,
)
from qhub_spawner.slurm.parsing import parse_queue, parse_task_endings
from qhub_spawner.slurm.poller import Watch
from qhub_spawner.slurm.rest_documents import job_description, job_of, task_endings_of
from qhub_spawner.slurm.script import Submission
from tests.unit import recorded
from tests.unit.scripted_door import NAME, SILENCE, ScriptedDoor, job, poller_of

CANCELLED = JobEnding(7, JobState.CANCELLED, cancelled_by=1000)


def tasks(state: JobState, *ranges: range, **more: object) -> Job:
    """A line of the array 7."""
    return job(state, tasks=ranges, **more)


RUNNING_0 = tasks(JobState.RUNNING, range(1))
WAITING_1_3 = tasks(JobState.PENDING, range(1, 4))


class TestTasks:
    """How tasks are written."""

    @given(st.sets(st.integers(0, 5000), min_size=1))
    def test_round_trip(self, numbers: set[int]) -> None:
        """What is written is read as the same tasks."""
        text = write_tasks(numbers)
        assert {task for each in read_tasks(text) for task in each} == numbers
        assert {task for each in read_tasks(f"{text}%3") for task in each} == numbers

    @pytest.mark.parametrize(
        ("text", "found"),
        [("3", [3]), ("0-6:3", [0, 3, 6]), ("1,5-6%1", [1, 5, 6]), ("7-7", [7])],
    )
    def test_slurms_own(self, text: str, found: list[int]) -> None:
        """Steps and throttles too (man sbatch, --array)."""
        assert [task for each in read_tasks(text) for task in each] == found

    @pytest.mark.parametrize("text", ["", "a", "1,", "1-", "-1", "0-3...", "1;2", "1-2:0", "٣"])
    def test_refused(self, text: str) -> None:
        """Anything else, and a list that was cut, is no list of tasks."""
        with pytest.raises(ValueError, match="expected tasks"):
            read_tasks(text)


class TestLines:
    """squeue, slurmrestd and sacct."""

    def test_recorded(self) -> None:
        """An array that waits has one line, with its tasks."""
        queue = parse_queue(recorded.text("queue.txt"), recorded.MARK)
        found = {each.job_id: each for each in queue}[recorded.jobs()["array"]]
        assert found.tasks == (range(1, 6),)

    def test_rest(self) -> None:
        """A task that was started, and those that wait, both under the array's id."""
        common = {"job_state": "RUNNING", "name": NAME, "array_job_id": 7}
        started = job_of({**common, "job_id": 9, "array_task_id": 0, "array_task_string": ""})
        assert (started.job_id, started.tasks) == (7, (range(1),))
        waiting = job_of({**common, "job_id": 7, "array_task_id": None, "array_task_string": "1-3"})
        assert (waiting.job_id, waiting.tasks) == (7, (range(1, 4),))

    def test_accounting(self) -> None:
        """A line for each task that was started, one for those that wait."""
        text = "7_0|COMPLETED|0:0|1763700000|cn01\n7_[4-5,8]|CANCELLED by 1000|0:0|1763700000|\n"
        endings = parse_task_endings(text)[7]
        assert set(endings) == {0, 4, 5, 8}
        assert endings[8].cancelled_by == 1000
        with pytest.raises(GarbledAnswerError):
            parse_task_endings("7_[4-|CANCELLED|0:0|1|\n")

    def test_accounting_by_rest(self) -> None:
        """Those that wait are the bits of a number."""
        row = {
            "job_id": 7,
            "state": {"current": "PENDING"},
            "array": {"job_id": 7, "task": "0x3F0"},
        }
        array_id, numbers, ending, _ = task_endings_of(row)
        assert (array_id, numbers, ending.state) == (7, (4, 5, 6, 7, 8, 9), JobState.PENDING)

    def test_submission(self) -> None:
        """The size reaches both transports, and is no option that somebody could write."""
        submission = Submission(NAME, "", {}, "#!/bin/sh\n", {}, array_size=5)
        assert job_description(submission)["array"] == "0-4"
        assert not any("array" in word for word in submission.arguments)


class TestWhichLine:
    """Where a task stands."""

    def queue(self, *jobs: Job) -> Queue:
        """An answer."""
        return Queue(datetime.now(UTC), jobs)

    def test_own_line_first(self) -> None:
        """Of a task that was started and again waits with others, its own line counts."""
        queue = self.queue(WAITING_1_3, tasks(JobState.RUNNING, range(2, 3)), RUNNING_0)
        found = [queue.task_of(7, NAME, task) for task in range(5)]
        states = [each.state if each else None for each in found]
        waits, runs = JobState.PENDING, JobState.RUNNING
        assert states == [runs, waits, runs, waits, None]

    def test_cancelled_while_it_waited(self) -> None:
        """One line without tasks stands for those without a line of their own."""
        queue = self.queue(RUNNING_0, tasks(JobState.CANCELLED))
        assert queue.task_of(7, NAME, 0) is RUNNING_0
        found = queue.task_of(7, NAME, 3)
        assert found is not None
        assert found.state is JobState.CANCELLED

    def test_another_name(self) -> None:
        """An id that belongs to something else by now is not the array."""
        queue = self.queue(RUNNING_0)
        assert queue.task_of(7, "qhub-hub1-ffffffffffffffff", 0) is None
        assert queue.task_of(8, NAME, 0) is None

    def test_a_giant_array_costs_nothing(self) -> None:
        """Somebody's array of a million tasks stays one line."""
        queue = self.queue(tasks(JobState.PENDING, range(10_000_000)))
        found = queue.task_of(7, NAME, 9_999_999)
        assert found is not None


def watches(poller: module.Poller, numbers: range) -> list[Watch]:
    """Watches of tasks whose array is known."""
    found = [poller.watch(NAME, "alice", task) for task in numbers]
    for watch in found:
        watch.exists(7)
    return found


class TestPoller:
    """One query for all, and no end that Slurm has not told."""

    async def test_each_task_has_its_own_state(self) -> None:
        """Of one answer."""
        poller = poller_of(ScriptedDoor([RUNNING_0, WAITING_1_3]))
        found = watches(poller, range(4))
        await poller.fresh()
        assert [watch.job.state for watch in found if watch.job] == [
            JobState.RUNNING,
            *[JobState.PENDING] * 3,
        ]
        assert poller.queries == 1

    async def test_cancelled_while_it_waited(self) -> None:
        """One that is nowhere has ended when the controller, asked again, has it neither."""
        door = ScriptedDoor([RUNNING_0, tasks(JobState.PENDING, range(2, 4))])
        door.arrays = {7: [RUNNING_0, tasks(JobState.PENDING, range(2, 4))]}
        poller = poller_of(door)
        found = watches(poller, range(4))
        await poller.fresh()
        assert [watch.ending is not None for watch in found] == [False, True, False, False]
        assert door.asked == ["queue", "task_endings", "array"]

    async def test_silence_ends_nothing(self) -> None:
        """Neither the controller's nor accounting's."""
        door = ScriptedDoor([RUNNING_0])
        door.lost = SILENCE
        poller = poller_of(door)
        found = watches(poller, range(4))
        await poller.fresh()
        door.lost, door.accounting = False, SILENCE
        await poller.fresh()
        assert all(watch.ending is None for watch in found)

    async def test_a_cut_answer_ends_nothing(self) -> None:
        """What one answer misses, and the controller has, goes on."""
        door = ScriptedDoor([RUNNING_0])
        door.arrays = {7: [RUNNING_0, WAITING_1_3]}
        poller = poller_of(door)
        found = watches(poller, range(4))
        await poller.fresh()
        assert all(watch.ending is None for watch in found)

    async def test_accountings_words(self) -> None:
        """A task ends as accounting knows it."""
        door = ScriptedDoor([tasks(JobState.CANCELLED, range(1)), WAITING_1_3])
        door.task_accounting = {7: {0: CANCELLED}}
        poller = poller_of(door)
        found = watches(poller, range(4))
        await poller.fresh()
        assert found[0].ending is CANCELLED
        assert found[1].ending is None

    async def test_a_lost_reply(self) -> None:
        """Any line of the array tells its id to every task; another's imitation does not."""
        imitation = tasks(JobState.PENDING, range(9), user="bob", job_id=666)
        poller = poller_of(ScriptedDoor([imitation, RUNNING_0, WAITING_1_3]))
        found = [poller.watch(NAME, "alice", task) for task in range(4)]
        await poller.fresh()
        assert [watch.job_id for watch in found] == [7] * 4
        assert all(watch.job is not None for watch in found)

    async def test_names(self) -> None:
        """A name is watched until its last task is forgotten."""
        poller = poller_of(ScriptedDoor([]))
        one, two = (poller.watch(NAME, "alice", task) for task in (0, 1))
        poller.forget(one)
        poller.forget(one)
        assert poller.watches(NAME)
        poller.forget(two)
        assert not poller.watches(NAME)
