"""The one door to Slurm: what every transport can do, and nothing of how.

Two transports stand behind it, `commandline.CommandLineDoor` and `restd.RestDoor`; the same
contract tests hold both to it, on a real Slurm. Every method may be cancelled; none retries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from qhub_spawner.access import Limits
from qhub_spawner.errors import SlurmRejectedError
from qhub_spawner.slurm.capacity import Node
from qhub_spawner.slurm.jobs import Job, JobEnding, Queue
from qhub_spawner.slurm.script import Submission


@dataclass(frozen=True)
class Cancellation:
    """One job to cancel, or some tasks of a job array.

    `name` must be the job's, or it is left alone. Without `tasks` a job array is cancelled whole.
    """

    job_id: int
    name: str
    tasks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Machines:
    """One whole answer about nodes; a node stands once for each of its partitions."""

    taken: datetime
    nodes: tuple[Node, ...]
    default_partition: str | None


class AccountingSilentError(Exception):
    """The cluster keeps no accounting: nothing can be asked of it."""


class Door(ABC):
    """What the hub asks of Slurm.

    Every method raises `SlurmUnavailableError` when there is no usable answer (the state is then
    UNKNOWN, never "no such job") and `SlurmRejectedError` when Slurm answered no.
    """

    def __init__(self, clusters: Sequence[str | None] = (None,)) -> None:
        """Take the clusters to ask about; ``None`` is the one of slurm.conf."""
        self.clusters = tuple(clusters)

    @abstractmethod
    async def queue(self) -> Queue:
        """Return every job Slurm remembers, of everyone, in one query a cluster."""

    @abstractmethod
    async def machines(self) -> Machines:
        """Return every node, in one query a cluster."""

    @abstractmethod
    async def endings(self, job_ids: Collection[int]) -> Mapping[int, JobEnding]:
        """Return what accounting says of jobs; those it does not know are missing.

        Raises:
            AccountingSilentError: The cluster keeps no accounting.
        """

    @abstractmethod
    async def gone(self, job: Job) -> bool:
        """Whether the controller itself says that it has no such job (for want of accounting)."""

    @abstractmethod
    async def limits(self) -> Mapping[str, Limits]:
        """Return the recorded limits of every user, in one query; none without accounting."""

    @abstractmethod
    async def submit(self, user: str, submission: Submission) -> int:
        """Submit as `user` and return the job id.

        Raises:
            SubmitUnknownError: The reply was lost: the job may exist.
            SlurmRejectedError: Slurm refused it; it does not exist.
        """

    @abstractmethod
    async def cancel(
        self, user: str, job_id: int, name: str, *, signal: Literal["TERM"] | None = None
    ) -> None:
        """Cancel the job of that id and name as `user`, or send it a signal.

        A job that is already over, or another job that now has the id, is left alone.
        """

    @abstractmethod
    async def task_endings(
        self, array_ids: Collection[int]
    ) -> Mapping[int, Mapping[int, JobEnding]]:
        """Return what accounting says of the tasks of job arrays, by the array's id and the task.

        A task that was cancelled while it waited may be missing, or stand as waiting for ever.

        Raises:
            AccountingSilentError: The cluster keeps no accounting.
        """

    @abstractmethod
    async def array(self, array_id: int) -> Sequence[Job]:
        """Return the lines that the controller itself has of a job array; none if it is gone."""

    @abstractmethod
    async def cancel_many(self, user: str, jobs: Sequence[Cancellation]) -> None:
        """Cancel jobs and tasks of `user` in as few calls as the transport allows.

        Those that are over, or have another name, are left alone.
        """

    async def read_log(self, user: str, cluster: str, name: str, most_bytes: int) -> str | None:
        """Return the end of what a part of a Dask cluster of `user` has written.

        Args:
            user: The account whose home it is in.
            cluster: The cluster's name.
            name: ``scheduler``, or a worker's name.
            most_bytes: How much of it, at most 1 MiB.

        Returns:
            The text, or ``None`` if there is none.

        Raises:
            SlurmRejectedError: This transport reads no files, or not these.
        """
        del user, cluster, name, most_bytes
        raise SlurmRejectedError("this transport to Slurm reads no files")

    @abstractmethod
    async def estimate(self, user: str, submission: Submission) -> datetime | None:
        """Return when Slurm would start it now; ``None`` where the transport cannot ask."""

    async def close(self) -> None:
        """Let go of connections."""
        return
