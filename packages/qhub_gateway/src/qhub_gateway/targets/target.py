"""What the gateway asks of a place where clusters run. Pure, but for the promise of I/O.

A job is named before its target hears of it, so that it is on record first: whatever happens to a
reply or to the gateway, the job is found again by its name, and nothing is submitted twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar

from qhub_gateway.requests import ClusterRequest


class Phase(Enum):
    """Where a job is in its life. What is not known is UNKNOWN, and never taken for ended."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class State:
    """What a target says of a job.

    Attributes:
        phase: Where it is.
        words: Why it waits or how it ended, for its owner; may be empty.
        since: When it began to run, in seconds since 1970; ``None`` if it has not.
    """

    phase: Phase
    words: str = ""
    since: float | None = None


UNKNOWN = State(Phase.UNKNOWN)


@dataclass(frozen=True, slots=True)
class JobRef:
    """One scheduler or worker on a target; two are the same if `name` and `part` are.

    Attributes:
        name: The job's name, unique over all gateways.
        part: Which of several that were submitted as one, if it is one of those.
        user: The account that it runs as.
        number: The target's own number of it, once that is known.
    """

    name: str
    part: int | None = None
    user: str = field(default="", compare=False)
    number: int | None = field(default=None, compare=False)

    def numbered(self, number: int) -> JobRef:
        """Return it with its number."""
        return replace(self, number=number)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"name": self.name, "part": self.part, "user": self.user, "number": self.number}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> JobRef:
        """Read what `to_json` wrote."""
        return cls(data["name"], data.get("part"), data.get("user") or "", data.get("number"))


@dataclass(frozen=True)
class ClusterSpec:
    """One cluster as its target starts it.

    Attributes:
        name: The gateway's name of it.
        request: What was decided about it.
        scheduler_argv: The scheduler's command.
        worker_argv: A worker's command, in which `WORKER_NAME` stands for the worker's name.
        environment: Of scheduler and workers. Secret: it holds the cluster's token.
        tls_cert: The cluster's certificate, PEM.
        tls_key: Its key, PEM. Secret.
    """

    name: str
    request: ClusterRequest
    scheduler_argv: tuple[str, ...]
    worker_argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    tls_cert: bytes = field(repr=False)
    tls_key: bytes = field(repr=False)


WORKER_NAME = "{worker}"


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to start."""

    name: str
    ref: JobRef


class Target(ABC):
    """One place where clusters run.

    Attributes:
        name: As a profile has it.
        repeatable: Whether a start whose outcome is not on record may simply be asked for again,
            because a name is only taken once there.
    """

    name: ClassVar[str]
    repeatable: ClassVar[bool] = False

    @abstractmethod
    async def open(self) -> None:
        """Begin to follow what is known; called once, after every `follow` of a resumed gateway."""

    @abstractmethod
    async def close(self) -> None:
        """End background work; jobs go on."""

    @abstractmethod
    def plan_scheduler(self, cluster: ClusterSpec) -> JobRef:
        """Name a scheduler's job; nothing is started."""

    @abstractmethod
    def plan_workers(
        self, cluster: ClusterSpec, names: Sequence[str]
    ) -> Sequence[Sequence[WorkerSpec]]:
        """Name the jobs of workers, sorted into as few submissions as the target allows."""

    @abstractmethod
    async def start_scheduler(self, cluster: ClusterSpec, ref: JobRef) -> JobRef:
        """Start a scheduler and return its ref with the target's number.

        Raises:
            StartRefusedError: The target says no.
            TargetSilentError: It does not answer, and has not started it.
        """

    @abstractmethod
    async def start_workers(
        self, cluster: ClusterSpec, workers: Sequence[WorkerSpec]
    ) -> Sequence[JobRef]:
        """Start workers that were planned together, in one submission; as `start_scheduler`.

        Raises:
            StartRefusedError: The target says no, and none of them is started.
            TargetSilentError: It does not answer, or has no room for all now; names those that it
                has started.
            TargetFullError: It takes no more now, or not so many at once; none is started.
        """

    @abstractmethod
    async def find(self, refs: Sequence[JobRef]) -> Sequence[JobRef] | None:
        """Look for a submission whose outcome is not on record, by its name.

        Returns:
            The refs with the target's numbers, or ``None`` if the target has no such job: then it
            may be submitted again.

        Raises:
            TargetSilentError: The target does not answer.
        """

    @abstractmethod
    def follow(self, ref: JobRef) -> None:
        """Follow a job that an earlier gateway started."""

    @abstractmethod
    def state(self, ref: JobRef) -> State:
        """Return what is known of a job."""

    @abstractmethod
    async def changed(self) -> None:
        """Return when some job's state may have changed since the last call."""

    @abstractmethod
    async def stop(self, refs: Collection[JobRef]) -> None:
        """Ask once, in bulk, that jobs end; their `state` tells when they have.

        Raises:
            TargetSilentError: The target does not answer, or not for all of them.
        """

    @abstractmethod
    async def read_log(
        self, cluster: ClusterSpec, worker: str | None, ref: JobRef, most_bytes: int
    ) -> str:
        """Return the end of what a scheduler or worker has written.

        Args:
            cluster: Whose it is.
            worker: The worker's name; ``None`` for the scheduler.
            ref: Its job; may have ended long ago.
            most_bytes: How much of it.

        Returns:
            The text; empty where there is nothing yet.

        Raises:
            LogElsewhereError: It cannot be read from here, or not any more; says where it may be.
            TargetSilentError: The target does not answer.
        """

    async def keep_logs(self, refs: Sequence[JobRef]) -> None:
        """Keep what jobs have written that are ended next, where it goes with them; never raises.

        Args:
            refs: The most telling first; of many not all are kept.
        """
        del refs

    async def check_host(self, ref: JobRef, host: str) -> None:
        """Refuse a host that a scheduler names as its own, if its job runs elsewhere.

        Without this a person could have the page of clusters show what runs on any machine that it
        reaches. A target on which people cannot be told apart by their hosts takes any.

        Args:
            ref: The scheduler's job.
            host: As the scheduler says it.

        Raises:
            HostRefusedError: It runs elsewhere.
            TargetSilentError: Where it runs is not known now.
        """
        del ref, host

    async def tidy(self, cluster: str) -> None:
        """Remove what is kept for a cluster that has ended, but not its logs; never raises."""
        del cluster

    @abstractmethod
    def forget(self, refs: Collection[JobRef]) -> None:
        """Follow jobs no longer."""
