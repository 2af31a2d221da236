"""A cluster as its owner sees it: plain data, for the page, for scripts and for metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from qhub_gateway.metrics import ClusterFigures
from qhub_gateway.requests import ClusterRequest
from qhub_gateway.targets.target import Phase, State
from qhub_spawner.quantities import Memory

__all__ = ["ClusterView", "WorkerFacts", "figures_of", "listed", "view_of"]

_LATELY_SECONDS = 24 * 3600
_MOST_FAILED = 5
_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What is known of one worker.

    Attributes:
        joined: Whether its scheduler has it.
        leaving: Whether it is being ended.
        state: What its target says.
    """

    joined: bool
    leaving: bool
    state: State

    @property
    def standing(self) -> str:
        """Where it is, in one word."""
        if self.leaving:
            return "stopping"
        if self.joined:
            return "running"
        return "starting" if self.state.phase is Phase.RUNNING else "queued"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One cluster.

    Attributes:
        name: The gateway's name of it.
        user: Whose it is.
        profile: The profile's slug.
        environment: The name of the software environment.
        backend: Where it runs.
        state: ``queued``, ``starting``, ``running``, ``stopping``, ``stopped`` or ``failed``.
        words: Why it or a worker waits, or why it has fewer workers than asked for, or failed; may
            be empty.
        wanted: How many workers it is to have.
        workers: How many are ``queued``, ``starting``, ``running`` and ``stopping``.
        cores: Of scheduler and workers together.
        memory_bytes: Likewise.
        gpus: Likewise.
        started: When it was made, in seconds since 1970.
        seconds_left: Until its walltime ends; ``None`` if it does not, or has not begun.
        dashboard: The path of its dashboard on the gateway, if there is one now.
    """

    name: str
    user: str
    profile: str
    environment: str
    backend: str
    state: str
    words: str
    wanted: int
    workers: dict[str, int]
    cores: float
    memory_bytes: int
    gpus: int
    started: float
    seconds_left: float | None
    dashboard: str | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @property
    def memory(self) -> str:
        """Its memory in words."""
        return str(Memory(self.memory_bytes)) if self.memory_bytes else "0 B"


def view_of(  # noqa: PLR0913 - one cluster's facts by name
    *,
    name: str,
    request: ClusterRequest,
    status: str,
    scheduler: State,
    workers: Iterable[WorkerFacts],
    wanted: int,
    started: float,
    now: float,
    words: str = "",
    dashboard: str | None = None,
) -> ClusterView:
    """Return a cluster as its owner sees it.

    Args:
        name: The gateway's name of it.
        request: What was decided about it.
        status: dask-gateway's own word: ``PENDING``, ``RUNNING``, ``STOPPING``, …
        scheduler: What the target says of its scheduler.
        workers: Those that have not ended.
        wanted: How many workers it is to have.
        started: When it was made, in seconds since 1970.
        now: The time.
        words: What else there is to say.
        dashboard: The path of its dashboard.
    """
    state = status.lower()
    if state == "pending":
        state = "starting" if scheduler.phase is Phase.RUNNING else "queued"
    counts = {"queued": 0, "starting": 0, "running": 0, "stopping": 0}
    waits = ""
    for worker in workers:
        counts[worker.standing] += 1
        if worker.standing == "queued":
            waits = waits or worker.state.words
    number = sum(counts.values())
    over = state in {"stopped", "failed"}
    heads = 0 if over else 1
    one, head = request.worker, request.scheduler
    millicores = number * one.cpu.millicores * one.nodes + heads * head.cpu.millicores
    left = None
    walltime = request.cluster_walltime
    if walltime is not None and scheduler.since is not None and not over:
        left = max(0.0, walltime.seconds - (now - scheduler.since))
    return ClusterView(
        name=name,
        user=request.owner.name,
        profile=request.slug,
        environment=request.environment,
        backend=request.backend,
        state=state,
        words=words or (waits if state == "running" else scheduler.words),
        wanted=wanted,
        workers=counts,
        cores=millicores / 1000,
        memory_bytes=number * one.memory.bytes * one.nodes + heads * head.memory.bytes,
        gpus=number * one.gpus * one.nodes,
        started=started,
        seconds_left=left,
        dashboard=dashboard if state == "running" else None,
    )


def listed(clusters: Iterable[Any], now: float) -> list[Any]:
    """Return clusters to list: those that have not ended, and what failed within the last day.

    Of what failed each person has the last five, so that a notebook that tries again and again
    hides nothing; those that ended as they should are listed no more.

    Args:
        clusters: As dask-gateway's database has them: ``status``, ``username``, ``stop_time``.
        now: The time, in seconds since 1970.
    """
    found, failed = [], []
    for cluster in clusters:
        if cluster.status.name == "FAILED":
            ended = (cluster.stop_time or 0) / _MILLISECONDS
            if now - ended < _LATELY_SECONDS:
                failed.append(cluster)
        elif cluster.status.name != "STOPPED":
            found.append(cluster)
    number: Counter[str] = Counter()
    for cluster in sorted(failed, key=lambda one: one.stop_time, reverse=True):
        number[cluster.username] += 1
        if number[cluster.username] <= _MOST_FAILED:
            found.append(cluster)
    return found


def figures_of(view: ClusterView, groups: Iterable[str]) -> ClusterFigures:
    """Return a cluster as metrics count it."""
    return ClusterFigures(
        user=view.user,
        groups=frozenset(groups),
        profile=view.profile,
        backend=view.backend,
        state=view.state,
        workers={state: number for state, number in view.workers.items() if number},
        cores=view.cores,
        memory_bytes=view.memory_bytes,
        gpus=view.gpus,
    )
