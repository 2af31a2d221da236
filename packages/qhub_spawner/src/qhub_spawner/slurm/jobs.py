"""Jobs and their states, as Slurm 22.05 names them (man squeue, "JOB STATE CODES")."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from qhub_spawner.errors import SlurmUnavailableError, shown


class GarbledAnswerError(SlurmUnavailableError):
    """Slurm's answer cannot be read, wholly or in part: nothing may be concluded from it."""

    def __init__(self, source: str, text: str) -> None:
        """Name the command or route, and show the beginning of what cannot be read."""
        super().__init__(f"the answer of {source} cannot be read: {shown(text, 100)}")


class JobState(Enum):
    """A job's state. `UNKNOWN` is what a missing or garbled answer becomes: never an end."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    COMPLETING = "COMPLETING"
    STAGE_OUT = "STAGE_OUT"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    DEADLINE = "DEADLINE"
    PREEMPTED = "PREEMPTED"
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REVOKED = "REVOKED"
    UNKNOWN = "UNKNOWN"

    @property
    def waiting(self) -> bool:
        """Whether the job has no process yet, or will get one again."""
        return self in _WAITING

    @property
    def over(self) -> bool:
        """Whether Slurm says that the job has ended and will not run again."""
        return self in _OVER

    @classmethod
    def parse(cls, text: str) -> JobState:
        """Read a state as squeue, sacct or slurmrestd writes it.

        >>> JobState.parse("CANCELLED by 1000").value
        'CANCELLED'
        >>> JobState.parse("OUT_OF_ME+").value
        'OUT_OF_MEMORY'
        """
        word = text.split(maxsplit=1)[0].upper() if text.split() else ""
        if word.endswith("+"):
            stem = word[:-1]
            return next((state for state in cls if state.value.startswith(stem)), cls.UNKNOWN)
        try:
            return cls(word)
        except ValueError:
            return cls.UNKNOWN


_WAITING = frozenset(
    {
        JobState.PENDING,
        JobState.CONFIGURING,
        JobState.REQUEUED,
        JobState.REQUEUE_HOLD,
        JobState.REQUEUE_FED,
        JobState.RESV_DEL_HOLD,
        JobState.SPECIAL_EXIT,
    }
)
_OVER = frozenset(
    {
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.DEADLINE,
        JobState.PREEMPTED,
        JobState.NODE_FAIL,
        JobState.BOOT_FAIL,
        JobState.OUT_OF_MEMORY,
        JobState.REVOKED,
    }
)


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the queue: only what Slurm itself writes, but for `name`.

    Times are aware UTC; ``None`` where Slurm has none. `priority` is Slurm's integer
    priority, `walltime_seconds` the limit, `cpus` the total over all nodes. Of a job array,
    `job_id` is the array's, and `tasks` those that the line stands for: one that has been
    started, or all that wait.
    """

    job_id: int
    state: JobState
    name: str
    user: str
    reason: str = ""
    partition: str = ""
    nodes: int = 0
    cpus: int = 0
    priority: int = 0
    gres: str = ""
    submitted: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    walltime_seconds: int | None = None
    node_list: str = ""
    batch_host: str = ""
    cluster: str | None = None
    tasks: tuple[range, ...] = ()


@dataclass(frozen=True, slots=True)
class JobEnding:
    """What accounting (or the queue, for the jobs it still remembers) says of a job's end.

    `exit_status` and `exit_signal` are the two halves of Slurm's ``ExitCode``;
    `cancelled_by` is a numeric uid.
    """

    job_id: int
    state: JobState
    exit_status: int = 0
    exit_signal: int = 0
    cancelled_by: int | None = None
    ended: datetime | None = None
    node_list: str = ""


@dataclass(frozen=True)
class Queue:
    """One whole answer of the queue, taken at `taken` (UTC)."""

    taken: datetime
    jobs: tuple[Job, ...]
    by_name: Mapping[str, Job] = field(init=False, repr=False)
    _of_arrays: Mapping[int, _Array] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Index by name; where a name stands twice, the job that is not over counts."""
        index: dict[str, Job] = {}
        for job in self.jobs:
            if job.name.startswith(NAME_PREFIX):
                other = index.get(job.name)
                if other is None or (other.state.over and not job.state.over):
                    index[job.name] = job
        object.__setattr__(self, "by_name", MappingProxyType(index))
        object.__setattr__(self, "_of_arrays", _arrays(self.jobs))

    def task_of(self, array_id: int, name: str, task: int) -> Job | None:
        """Return the line that task `task` of the array stands in, if the array has that name.

        Tasks that wait share one line. Of an array that was cancelled while it waited, Slurm shows
        one line without tasks; it stands for those that have none of their own.
        """
        array = self._of_arrays.get(array_id)
        if array is None:
            return None
        found = array.started.get(task)
        if found is None:
            waits = (job for job in array.waiting if any(task in each for each in job.tasks))
            found = next(waits, array.cancelled)
        return found if found is not None and found.name == name else None

    def job_of(self, name: str, user: str, job_id: int | None = None) -> Job | None:
        """Return the job of that id and name, or of that user and name while the id is unknown.

        Anybody may give a job of theirs the name of another's.
        """
        found = self.by_name.get(name)
        if found is None or _is(found, user, job_id):
            return found
        same = (job for job in self.jobs if job.name == name and _is(job, user, job_id))
        return next(same, None)


@dataclass(slots=True)
class _Array:
    started: dict[int, Job] = field(default_factory=dict)
    waiting: list[Job] = field(default_factory=list)
    cancelled: Job | None = None


def _arrays(jobs: Iterable[Job]) -> dict[int, _Array]:
    """Sort the lines of qhub's arrays; a line of many tasks stays one."""
    found: dict[int, _Array] = defaultdict(_Array)
    for job in jobs:
        if not job.name.startswith(NAME_PREFIX):
            continue
        if not job.tasks:
            if job.state.over:
                found[job.job_id].cancelled = job
        elif len(job.tasks) == 1 and len(job.tasks[0]) == 1:
            found[job.job_id].started[job.tasks[0][0]] = job
        else:
            found[job.job_id].waiting.append(job)
    return dict(found)


def _is(job: Job, user: str, job_id: int | None) -> bool:
    return job.user == user if job_id is None else job.job_id == job_id


# ---- tasks of an array ----------------------------------------------------

_TASKS = re.compile(
    r"(?P<first>[0-9]{1,7})(?:-(?P<last>[0-9]{1,7})(?::(?P<step>[1-9][0-9]{0,6}))?)?"
)


def read_tasks(text: str) -> tuple[range, ...]:
    """Read the tasks of an array as Slurm prints them (man sbatch, ``--array``).

    >>> read_tasks("4,6-9%2")
    (range(4, 5), range(6, 10))

    Raises:
        ValueError: They are not of that form, or cut.
    """
    ranges = []
    for part in text.partition("%")[0].split(","):
        match = _TASKS.fullmatch(part)
        if match is None:
            msg = f"tasks {shown(text)}: expected tasks of a job array, as 0-3,7"
            raise ValueError(msg)
        last = int(match["last"] or match["first"])
        ranges.append(range(int(match["first"]), last + 1, int(match["step"] or 1)))
    return tuple(ranges)


def write_tasks(tasks: Collection[int]) -> str:
    """Write tasks as Slurm reads them.

    >>> write_tasks({4, 7, 8, 6})
    '4,6-8'
    """
    runs: list[list[int]] = []
    for task in sorted(set(tasks)):
        if runs and task == runs[-1][1] + 1:
            runs[-1][1] = task
        else:
            runs.append([task, task])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# ---- names ----------------------------------------------------------------

NAME_PREFIX = "qhub-"
_JOB_NAME = re.compile(r"qhub-(?P<hub>[a-z0-9]{1,16})-(?P<spawn>[0-9a-f]{16})")
_HUB_ID = re.compile(r"[a-z0-9]{1,16}")


def new_spawn_id() -> str:
    """Return a fresh spawn id: 64 random bits in hexadecimal."""
    return secrets.token_hex(8)


def job_name(hub_id: str, spawn_id: str) -> str:
    """Return the name of a server's job, unique over all hubs and starts.

    >>> job_name("a1", "00112233445566ff")
    'qhub-a1-00112233445566ff'
    """
    name = f"{NAME_PREFIX}{hub_id}-{spawn_id}"
    if _JOB_NAME.fullmatch(name) is None:
        msg = (
            f"hub id {hub_id!r}: expected 1 to 16 lower-case letters and digits, such as 'prod'"
            if _HUB_ID.fullmatch(hub_id) is None
            else f"spawn id {spawn_id!r}: expected 16 hexadecimal digits"
        )
        raise ValueError(msg)
    return name


def spawn_ids(names: Iterable[str], hub_id: str) -> dict[str, str]:
    """Return ``{job name: spawn id}`` for those names that belong to `hub_id`."""
    found = {}
    for name in names:
        match = _JOB_NAME.fullmatch(name)
        if match is not None and match["hub"] == hub_id:
            found[name] = match["spawn"]
    return found
