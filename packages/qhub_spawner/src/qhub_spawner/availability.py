"""When and where a profile could start: neutral words, filled by the backends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

__all__ = ["Availability", "StartEstimate"]


@dataclass(frozen=True, slots=True)
class StartEstimate:
    """When a server of this profile would start.

    Attributes:
        kind: ``now``, ``at`` (a time is known) or ``unknown``.
        at: The time, in UTC and aware; given exactly when ``kind`` is ``at``.
        source: ``slurm`` for the scheduler's own estimate, ``calculated`` for ours from what is
            idle, ``quota`` where only a quota is known and may allow what no machine has free,
            else empty.
    """

    kind: Literal["now", "at", "unknown"] = "unknown"
    at: datetime | None = None
    source: Literal["slurm", "calculated", "quota", ""] = ""

    def __post_init__(self) -> None:
        """Hold the rule between ``kind`` and ``at``.

        Raises:
            ValueError: A time is missing, superfluous, or without its time zone.
        """
        if (self.kind == "at") != (self.at is not None):
            raise ValueError(
                f"StartEstimate(kind={self.kind!r}, at={self.at!r}): a time goes with 'at' alone"
            )
        if self.at is not None:
            if self.at.tzinfo is None:
                raise ValueError(
                    f"StartEstimate.at={self.at!r} has no time zone; give an aware UTC time"
                )
            object.__setattr__(self, "at", self.at.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class Availability:
    """What is free for a profile right now; ``None`` is always "not known", never zero.

    Attributes:
        nodes_idle: Nodes with nothing on them.
        nodes_total: Nodes that could ever run it.
        cpus_free: Cores free on nodes that are up.
        gpus_free: GPUs of the wanted type free on nodes that are up.
        gpus_total: GPUs of the wanted type.
        jobs_waiting: Jobs pending where it would run.
        start: When it would start.
        as_of: When this was read from the backend, aware UTC.
        stale: The last reading failed, this is an older one.
        problem: Why nothing newer is known, in words.
        scale_up: It would start once a machine has been added, which the system does by itself.
        backend: Whose figures these are; empty where nobody says.
    """

    nodes_idle: int | None = None
    nodes_total: int | None = None
    cpus_free: int | None = None
    gpus_free: int | None = None
    gpus_total: int | None = None
    jobs_waiting: int | None = None
    start: StartEstimate = StartEstimate()
    as_of: datetime | None = None
    stale: bool = False
    problem: str | None = None
    scale_up: bool = False
    backend: str = ""
