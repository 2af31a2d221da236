"""Holds clusters to the limits, by what stands in the gateway's own database.

The database is the truth: the ledger is filled from it for each decision, so nothing is lost by a
restart, and nothing stays reserved for what never came to be. A decision and what is written for it
happen without a pause in between, in the gateway's one loop, so that no two can take the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from qhub_gateway.limits import Granted, Holder, Ledger, Limits, Use, amounts_of
from qhub_gateway.requests import ClusterRequest

__all__ = ["DatabaseLimiter", "Limiter", "Record"]

_MILLISECONDS = 1000


class Record(Protocol):
    """A cluster as dask-gateway's database has it, as far as it is looked at here."""

    name: str
    config: Mapping[str, Any]
    state: Mapping[str, Any] | None
    start_time: int
    stop_time: int | None
    workers: Mapping[str, Any]


class Limiter(Protocol):
    """Who says how much there may be."""

    async def admit(self, user: object, config: Any) -> None:  # noqa: ANN401 - a traitlets' object
        """Let a new cluster be made.

        Raises:
            LimitReachedError: It may not; names the limit and what is in use.
        """

    def granted(self, cluster: Any, count: int) -> int:  # noqa: ANN401 - dask-gateway's
        """Return how many workers the cluster may have of the `count` that it wants."""

    def exhausted(self) -> Mapping[str, str]:
        """Return the names of clusters whose hours are used up, each with why."""


class DatabaseLimiter:
    """Decides how much there may be.

    Args:
        limits: What somebody may have.
        clusters: Says which clusters the database has, those that ended among them.
        over: Whether a cluster or worker has ended and takes nothing any more.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        limits: Limits,
        clusters: Callable[[], Iterable[Any]],
        over: Callable[[Any], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        """See the class."""
        self.limits = limits
        self._clusters = clusters
        self._over = over
        self._now = now
        self._requests: dict[str, ClusterRequest] = {}
        self.short: dict[str, str] = {}

    async def admit(self, user: object, config: Any) -> None:  # noqa: ANN401 - a traitlets' object
        """Let a new cluster be made; it must be written before anything else is awaited.

        Raises:
            LimitReachedError: It may not; names the limit and what is in use.
        """
        del user  # the owner stands in the request
        request = ClusterRequest.from_json(config.request)
        scheduler, _ = amounts_of(request)
        self._ledger().admit(_holder(request), scheduler=scheduler, now=self._now())

    def granted(self, cluster: Any, count: int) -> int:  # noqa: ANN401 - dask-gateway's
        """Return how many workers a cluster may have of the `count` that it wants.

        Workers that are being ended take what they have until they are gone. Why it is fewer
        stands in `short` until it is enough.
        """
        found = self._grant(cluster, count)
        if found.words is None:
            self.short.pop(cluster.name, None)
        else:
            self.short[cluster.name] = found.words
        return found.count

    def words(self, cluster: Any, count: int) -> str | None:  # noqa: ANN401 - dask-gateway's
        """Say why a cluster cannot have so many workers now; ``None`` if it can."""
        found = self._grant(cluster, count)
        if found.words is None:
            return None
        return f"{found.words} Of {count} workers {found.count} can be had now."

    def exhausted(self) -> Mapping[str, str]:
        """Return clusters whose hours are used up, and why in words."""
        return self._ledger().exhausted(self._now())

    def uses(self, asker: Holder | None = None) -> list[Use]:
        """Return what is in use of everything; of who asks also if that is nothing."""
        return self._ledger().uses(self._now(), asker)

    def _grant(self, cluster: Any, count: int) -> Granted:  # noqa: ANN401
        active = sum(1 for worker in cluster.workers.values() if worker.is_active())
        if count <= active:
            return Granted(count)
        found = self._ledger(past=False).room_for_workers(cluster.name, count - active)
        return Granted(active + found.count, found.words)

    def _ledger(self, *, past: bool = True) -> Ledger:
        """Return who holds what now; the `past` is long, and only matters where hours count."""
        ledger = Ledger(self.limits)
        counts_hours = self.limits.counts_hours
        known: dict[str, ClusterRequest] = {}
        for cluster in self._clusters():
            over = self._over(cluster)
            if over and not (past and counts_hours):
                continue
            request = known[cluster.name] = self._request(cluster)
            began = _began(cluster)
            if not over:
                scheduler, worker = amounts_of(request)
                ledger.adopt(
                    cluster.name,
                    _holder(request),
                    scheduler=scheduler,
                    worker=worker,
                    workers=sum(1 for each in cluster.workers.values() if not self._over(each)),
                    began=began,
                )
            elif began is not None and cluster.stop_time is not None:
                ledger.remember(_holder(request), began, cluster.stop_time / _MILLISECONDS)
        self._requests = known if past or not counts_hours else self._requests | known
        self.short = {name: words for name, words in self.short.items() if name in known}
        return ledger

    def _request(self, cluster: Any) -> ClusterRequest:  # noqa: ANN401
        known = self._requests.get(cluster.name)
        return known or ClusterRequest.from_json(cluster.config["request"])


def _holder(request: ClusterRequest) -> Holder:
    return Holder(request.owner.name, frozenset(request.owner.groups))


def _began(cluster: Any) -> float | None:  # noqa: ANN401 - dask-gateway's
    """Return since when a cluster's hours count: since its scheduler runs, time in a queue not.

    The backend writes it down; where it has not, the scheduler has not run.
    """
    began = (cluster.state or {}).get("began")
    return float(began) if isinstance(began, int | float) else None
