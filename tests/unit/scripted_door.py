"""A door that answers what a test says, and notes what was asked of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from qhub_spawner.access import Limits
from qhub_spawner.errors import SlurmUnavailableError
from qhub_spawner.slurm.door import Cancellation, Door, Machines
from qhub_spawner.slurm.jobs import Job, JobEnding, JobState, Queue
from qhub_spawner.slurm.poller import Intervals, Poller
from qhub_spawner.slurm.script import Submission

NAME = "qhub-hub1-00112233445566ff"
FAST = Intervals(idle=0.02, rest=0.02, waiting=0.02, starting=0.02, stopping=0.02, longest=0.05)
SILENCE = SlurmUnavailableError("Slurm is silent")
LOG = logging.getLogger("drill")

Answer = list[Job] | BaseException | Callable[[], Awaitable[list[Job]]]


def job(state: JobState = JobState.RUNNING, **more: Any) -> Job:
    """A job of alice's, named NAME, on cn01."""
    plain = Job(7, state, NAME, "alice", partition="general", node_list="cn01", reason="None")
    return replace(plain, **more)


class ScriptedDoor(Door):
    """Answers from attributes; an exception in place of an answer is raised.

    Attributes:
        answers: What `queue` says, one after the other; the last one for ever.
        accounting: What `endings` says.
        task_accounting: What `task_endings` says.
        arrays: What `array` says.
        lost: What `gone` says.
        submitted: What `submit` says: a job id, an error, or a coroutine function.
        cancelling: What `cancel` says.
        asked: The names of all calls, in order; cancellations with user, id, name and signal.
    """

    def __init__(self, *answers: Answer) -> None:
        """Take the answers of `queue`."""
        super().__init__()
        self.answers: list[Answer] = list(answers) or [[]]
        self.accounting: dict[int, JobEnding] | BaseException = {}
        self.task_accounting: dict[int, dict[int, JobEnding]] = {}
        self.arrays: dict[int, list[Job]] = {}
        self.lost: bool | BaseException = False
        self.submitted: Any = 7
        self.cancelling: Any = None
        self.asked: list[Any] = []

    async def queue(self) -> Queue:
        """Say the next answer."""
        self.asked.append("queue")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        jobs = await answer() if callable(answer) else answer
        return Queue(datetime.now(UTC), tuple(jobs))

    async def machines(self) -> Machines:
        """Know of no node."""
        return Machines(datetime.now(UTC), (), None)

    async def endings(self, job_ids: Collection[int]) -> Mapping[int, JobEnding]:
        """Say what accounting says."""
        self.asked.append("endings")
        if isinstance(self.accounting, BaseException):
            raise self.accounting
        return {key: ending for key, ending in self.accounting.items() if key in job_ids}

    async def gone(self, job: Job) -> bool:
        """Say what slurmctld says of one job."""
        self.asked.append("gone")
        if isinstance(self.lost, BaseException):
            raise self.lost
        return self.lost

    async def limits(self) -> Mapping[str, Limits]:
        """Know of none."""
        return {}

    async def submit(self, user: str, submission: Submission) -> int:
        """Take a job."""
        self.asked.append("submit")
        if isinstance(self.submitted, BaseException):
            raise self.submitted
        return await self.submitted() if callable(self.submitted) else self.submitted

    async def cancel(
        self, user: str, job_id: int, name: str, *, signal: Literal["TERM"] | None = None
    ) -> None:
        """Note it."""
        self.asked.append(("cancel", user, job_id, name, signal))
        if isinstance(self.cancelling, BaseException):
            raise self.cancelling
        if self.cancelling is not None:
            self.cancelling(signal)

    async def task_endings(
        self, array_ids: Collection[int]
    ) -> Mapping[int, Mapping[int, JobEnding]]:
        """Say what accounting says of arrays."""
        self.asked.append("task_endings")
        if isinstance(self.accounting, BaseException):
            raise self.accounting
        return {key: self.task_accounting.get(key, {}) for key in array_ids}

    async def array(self, array_id: int) -> Sequence[Job]:
        """Say what slurmctld has of an array."""
        self.asked.append("array")
        if isinstance(self.lost, BaseException):
            raise self.lost
        return self.arrays.get(array_id, [])

    async def cancel_many(self, user: str, jobs: Sequence[Cancellation]) -> None:
        """Note it."""
        self.asked.append(("cancel_many", user, tuple(jobs)))
        if isinstance(self.cancelling, BaseException):
            raise self.cancelling
        if self.cancelling is not None:
            self.cancelling(jobs)

    async def estimate(self, user: str, submission: Submission) -> datetime | None:
        """Know of none."""
        return None

    @property
    def cancels(self) -> list[Any]:
        """The signals of all cancellations, in order."""
        return [each[4] for each in self.asked if isinstance(each, tuple) and each[0] == "cancel"]


def poller_of(door: Door, intervals: Intervals = FAST) -> Poller:
    """A poller that hurries."""
    return Poller(door, intervals, LOG)


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for a condition that some other task brings about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
