"""The one poller: a single query for all servers of the hub, at a pace that fits what happens.

It holds the last whole answer of the queue. From it every server is judged, every progress line
written and every page filled; nothing else asks Slurm about jobs. An answer that failed, is cut
or cannot be read changes nothing: what was known stays known, and nobody is declared stopped.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from qhub_spawner.errors import SlurmUnavailableError
from qhub_spawner.slurm.door import AccountingSilentError, Door
from qhub_spawner.slurm.jobs import Job, JobEnding, JobState, Queue

# Accounting learns of an end a moment after the queue; it alone knows who cancelled a job.
_ACCOUNTING_LAG_SECONDS = 3.0
# While somebody waits, a Slurm that answers again is noticed within this.
_LONGEST_HURRIED = 10.0


class Pace(IntEnum):
    """How soon somebody needs the next answer."""

    REST = 0
    WAITING = 1
    STARTING = 2
    STOPPING = 3


@dataclass(frozen=True)
class Intervals:
    """Seconds between two queries.

    `idle` applies when no server runs, short enough to find a job that turns up late; `rest` when
    all servers run, `waiting` while jobs wait in the queue, `starting` while a job is being
    submitted or its server comes up, `stopping` while somebody waits for a job's end; `longest`
    bounds the back-off after failures.
    """

    idle: float = 15.0
    rest: float = 10.0
    waiting: float = 5.0
    starting: float = 2.0
    stopping: float = 0.5
    longest: float = 60.0

    def at(self, pace: Pace | None) -> float:
        """Return the seconds for `pace`; ``None`` means that nothing is watched."""
        if pace is None:
            return self.idle
        return (self.rest, self.waiting, self.starting, self.stopping)[pace]


@dataclass(eq=False)
class Watch:
    """One server's job, from the moment it is to be submitted until nobody needs it.

    `job` is the job as last seen, and stays while answers fail; `ending` is set once, by Slurm's
    own word. `since` is when the job was known to exist, by the monotonic clock: only a queue
    asked for later can miss it. `over_since` is when the queue first said that it is over.
    With `task` it is that task of a job array, and `job_id` the array's.
    """

    name: str
    user: str
    task: int | None = None
    job_id: int | None = None
    since: float | None = None
    over_since: float | None = None
    pace: Pace = Pace.STARTING
    job: Job | None = None
    ending: JobEnding | None = None
    on_end: Callable[[], None] | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """What makes it one among others."""
        return self.name, self.task

    def seen_in(self, queue: Queue) -> Job | None:
        """Return the line of `queue` that tells of it."""
        if self.task is None:
            return queue.job_of(self.name, self.user, self.job_id)
        if self.job_id is None:
            # the reply to the submission was lost: any line of the array tells its id
            line = queue.job_of(self.name, self.user)
            if line is None:
                return None
            self.exists(line.job_id)
        return queue.task_of(self.job_id or 0, self.name, self.task)

    def exists(self, job_id: int) -> None:
        """Note that Slurm has taken the job."""
        self.job_id = job_id
        self.since = time.monotonic()


class Poller:
    """Asks the door for the queue, and tells every watch what it says."""

    def __init__(self, door: Door, intervals: Intervals, log: logging.Logger) -> None:
        """Nothing is asked before `run` or `fresh`."""
        self.door = door
        self.intervals = intervals
        self.log = log
        self.queue: Queue | None = None
        self.failures = 0
        self.problem: str | None = None
        self.queries = 0
        self._asked_at = 0.0
        self._not_before = 0.0
        self._accounting_failures = 0
        self._watches: dict[tuple[str, int | None], Watch] = {}
        self._names: Counter[str] = Counter()
        self._ticked = asyncio.Event()
        self._wake = asyncio.Event()
        self._refreshing: asyncio.Task[bool] | None = None

    # ---- who is watched ----

    def watch(self, name: str, user: str, task: int | None = None) -> Watch:
        """Watch the job `name` of `user`, or one task of it, from now on."""
        watch = self._watches.get((name, task))
        if watch is None:
            watch = self._watches[name, task] = Watch(name, user, task)
            self._names[name] += 1
        self._wake.set()
        return watch

    def forget(self, watch: Watch | None) -> None:
        """Watch no longer."""
        if watch is not None and self._watches.pop(watch.key, None) is not None:
            self._names[watch.name] -= 1
            if not self._names[watch.name]:
                del self._names[watch.name]

    def watches(self, name: str) -> bool:
        """Whether some server of this hub owns the job `name`."""
        return name in self._names

    def hurry(self, watch: Watch, pace: Pace) -> None:
        """Set how soon `watch` needs answers."""
        watch.pace = pace
        if pace >= Pace.STARTING:
            self._wake.set()

    def postpone(self, seconds: float) -> None:
        """Let the next query at rest wait for so long: who calls this asks meanwhile.

        Nothing is postponed while a server starts, waits or stops.
        """
        self._not_before = asyncio.get_running_loop().time() + seconds

    @property
    def age_seconds(self) -> float | None:
        """How old the last whole answer is; ``None`` before the first."""
        if self.queue is None:
            return None
        return time.monotonic() - self._asked_at

    # ---- answers ----

    def tick(self) -> Coroutine[Any, Any, object]:
        """Wait until the next answer after this call, good or bad, has been dealt with."""
        return self._ticked.wait()

    async def fresh(self) -> bool:
        """Get an answer that was asked for after this call; whether it was a good one.

        Calls made while a query waits to start share it.
        """
        if self._refreshing is not None and not self._refreshing.done():
            await asyncio.wait([self._refreshing])
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._refresh())
        return await asyncio.shield(self._refreshing)

    async def run(self) -> None:
        """Ask for ever; cancel to end."""
        while True:
            await self.fresh()
            await self._pause()

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            self._wake.clear()
            due = started + self._interval()
            if self._pace() in {None, Pace.REST}:
                due = max(due, self._not_before)
            left = due - loop.time()
            if left <= 0:
                return
            with suppress(TimeoutError):
                # a watch in a hurry shortens the pause, but never below its own interval
                await asyncio.wait_for(self._wake.wait(), left)

    def _pace(self) -> Pace | None:
        return max((watch.pace for watch in self._watches.values()), default=None)

    def _interval(self) -> float:
        pace = self._pace()
        seconds = self.intervals.at(pace)
        if self.failures:
            hurried = pace is not None and pace >= Pace.STARTING
            longest = _LONGEST_HURRIED if hurried else self.intervals.longest
            seconds = min(longest, max(seconds, 1.0) * 2 ** min(self.failures, 8))
        return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    async def _refresh(self) -> bool:
        try:
            self.queries += 1
            asked_at = time.monotonic()
            queue = await self.door.queue()
            self._asked_at = asked_at
            await self._judge(queue, asked_at)
        except SlurmUnavailableError as error:
            self._failed(str(error))
            return False
        except Exception as error:
            # a fault of ours must not end the poller; it is loud, and changes nothing
            self.log.exception("reading the queue of Slurm failed")
            self._failed(str(error))
            return False
        else:
            if self.failures:
                self.log.warning("Slurm answers again after %d failures", self.failures)
            self.failures, self.problem = 0, None
            return True
        finally:
            ticked, self._ticked = self._ticked, asyncio.Event()
            ticked.set()

    def _failed(self, problem: str) -> None:
        self.failures += 1
        self.problem = problem
        if self.failures in {1, 10, 100}:
            self.log.warning(
                "Slurm's queue is unknown (failure %d), no server is judged by it: %s",
                self.failures,
                problem,
            )

    # ---- judging ----

    async def _judge(self, queue: Queue, asked_at: float) -> None:
        self.queue = queue
        over, missing = [], []
        for watch in list(self._watches.values()):
            job = watch.seen_in(queue)
            if job is not None:
                watch.job = job
                if watch.job_id is None:
                    watch.exists(job.job_id)
                if not job.state.over:
                    watch.over_since = None
                elif watch.ending is None:
                    watch.over_since = watch.over_since or time.monotonic()
                    over.append(watch)
            elif watch.ending is None and watch.since is not None and asked_at > watch.since:
                missing.append(watch)
        if over or missing:
            await self._confirm(over, missing)

    async def _confirm(self, over: list[Watch], missing: list[Watch]) -> None:
        """Ask accounting about jobs that are over (for details) or missing (whether they are)."""
        every = [watch for watch in (*over, *missing) if watch.job_id is not None]
        endings: dict[tuple[int, int | None], JobEnding] = {}
        answered, kept = True, True
        try:
            endings = await self._endings(every)
            self._accounting_failures = 0
        except AccountingSilentError:
            kept = False
        except SlurmUnavailableError as error:
            answered = False
            self._accounting_failures += 1
            if self._accounting_failures in {1, 10, 100}:
                self.log.warning("Slurm's accounting gives no answer: %s", error)
        for watch in over:
            ending = endings.get((watch.job_id or 0, watch.task))
            self._over(watch, ending, awaited=answered and kept)
        arrays: dict[int, Queue | None] = {}
        for watch in missing:
            ending = endings.get((watch.job_id or 0, watch.task))
            if ending is not None and ending.state.over:
                self._end(watch, ending)
            elif answered and watch.task is not None:
                await self._task_gone(watch, arrays)
            elif answered and await self._gone(watch):
                self._end(watch, JobEnding(watch.job_id or 0, JobState.UNKNOWN, exit_status=1))

    async def _endings(self, watches: Iterable[Watch]) -> dict[tuple[int, int | None], JobEnding]:
        """Return what accounting says: one question for jobs, one for job arrays."""
        jobs = {watch.job_id for watch in watches if watch.job_id and watch.task is None}
        arrays = {watch.job_id for watch in watches if watch.job_id and watch.task is not None}
        found: dict[tuple[int, int | None], JobEnding] = {}
        if jobs:
            self.queries += 1
            endings = await self.door.endings(jobs)
            found |= {(job_id, None): ending for job_id, ending in endings.items()}
        if arrays:
            self.queries += 1
            for array_id, tasks in (await self.door.task_endings(arrays)).items():
                found |= {(array_id, task): ending for task, ending in tasks.items()}
        return found

    async def _task_gone(self, watch: Watch, arrays: dict[int, Queue | None]) -> None:
        """End a task that the controller, asked once for its whole array, does not have either.

        A task that was cancelled while it waited leaves no trace, not even in accounting.
        """
        array_id = watch.job_id or 0
        if array_id not in arrays:
            try:
                self.queries += 1
                lines = tuple(await self.door.array(array_id))
                arrays[array_id] = Queue(datetime.now(UTC), lines)
            except SlurmUnavailableError:
                arrays[array_id] = None
        lines_of_array = arrays[array_id]
        if lines_of_array is not None and watch.seen_in(lines_of_array) is None:
            self._end(watch, JobEnding(array_id, JobState.CANCELLED))

    def _over(self, watch: Watch, ending: JobEnding | None, *, awaited: bool) -> None:
        """Take the end that the queue tells of, in accounting's words where it has them."""
        job = watch.job
        if ending is not None and ending.state.over:
            self._end(watch, ending)
        elif job is not None:
            late = time.monotonic() - (watch.over_since or 0.0) > _ACCOUNTING_LAG_SECONDS
            if awaited and not late and watch.pace is not Pace.STOPPING:
                self.hurry(watch, Pace.STARTING)
                return
            ended = JobEnding(job.job_id, job.state, ended=job.end, node_list=job.node_list)
            self._end(watch, ended)

    async def _gone(self, watch: Watch) -> bool:
        """Whether the controller says so, of a job that accounting does not hold for over."""
        job = watch.job or Job(watch.job_id or 0, JobState.UNKNOWN, watch.name, watch.user)
        try:
            self.queries += 1
            return await self.door.gone(job)
        except SlurmUnavailableError:
            return False

    def _end(self, watch: Watch, ending: JobEnding) -> None:
        watch.ending = ending
        watch.pace = Pace.REST
        if watch.on_end is not None:
            watch.on_end()
