"""What Prometheus is told: counters and histograms as things happen, gauges from plain data.

The gauges are made when they are asked for, from what a function says is there now: nothing has to
be kept true, and what is gone is gone from the next scrape.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qhub_gateway.limits import Use

__all__ = ["ClusterFigures", "GatewayMetrics", "reason_of", "route_of"]

PREFIX = "qhub_gateway"

# A queue may take hours, a start minutes, an answer milliseconds.
_QUEUE_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)
_START_SECONDS = (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)
_API_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OF_A_CLUSTER = ("user", "profile", "backend", "state")
_MOST_WORDS = 64

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClusterFigures:
    """One cluster as it is now.

    Attributes:
        user: Whose it is.
        groups: Their groups, of which those that have limits or are watched are counted.
        profile: The profile's slug.
        backend: Where it runs.
        state: Of the scheduler, e.g. ``queued``, ``starting``, ``running``, ``stopping``.
        workers: How many workers are in each state.
        cores: Of all workers and the scheduler, queued ones included.
        memory_bytes: Likewise.
        gpus: Likewise.
    """

    user: str
    groups: frozenset[str]
    profile: str
    backend: str
    state: str
    workers: dict[str, int] = field(default_factory=dict)
    cores: float = 0.0
    memory_bytes: int = 0
    gpus: int = 0


class GatewayMetrics(Collector):
    """Everything the gateway measures, in a registry of its own.

    Args:
        clusters: Says which clusters there are now.
        uses: Says what is in use of each limit now.
        groups: Names of the groups that are counted; others would make a series for each.
    """

    def __init__(
        self,
        clusters: Callable[[], Iterable[ClusterFigures]],
        uses: Callable[[], Iterable[Use]],
        *,
        groups: Iterable[str] = (),
    ) -> None:
        """Make the metrics; nothing is asked before the first scrape."""
        self._clusters = clusters
        self._uses = uses
        self._groups = frozenset(groups)
        self.registry = registry = CollectorRegistry(auto_describe=False)
        self._started = Counter(
            f"{PREFIX}_starts",
            "Schedulers and workers that began to run",
            ["kind", "profile", "backend"],
            registry=registry,
        )
        self._queue = Histogram(
            f"{PREFIX}_queue_seconds",
            "From the submission of a scheduler or worker until it runs on its target",
            ["kind", "profile", "backend"],
            buckets=_QUEUE_SECONDS,
            registry=registry,
        )
        self._start = Histogram(
            f"{PREFIX}_start_seconds",
            "From when a scheduler or worker runs on its target until it is ready",
            ["kind", "profile", "backend"],
            buckets=_START_SECONDS,
            registry=registry,
        )
        self._failed = Counter(
            f"{PREFIX}_failures",
            "Schedulers and workers that failed, by reason",
            ["kind", "backend", "reason"],
            registry=registry,
        )
        self._refused = Counter(
            f"{PREFIX}_refusals", "Requests that were refused", ["reason"], registry=registry
        )
        self._api = Histogram(
            f"{PREFIX}_api_seconds",
            "How long an answer took",
            ["method", "route", "status"],
            buckets=_API_SECONDS,
            registry=registry,
        )
        self._submitted = Counter(
            f"{PREFIX}_submissions",
            "Submissions to a target, each of one or many schedulers and workers",
            ["backend", "kind"],
            registry=registry,
        )
        registry.register(self)

    # ---- as it happens ----

    def started(
        self, kind: str, *, profile: str, backend: str, queue_seconds: float, start_seconds: float
    ) -> None:
        """Count a ``scheduler`` or ``worker`` that is ready, and what it had to wait for."""
        labels = (kind, profile, backend)
        self._started.labels(*labels).inc()
        self._queue.labels(*labels).observe(max(0.0, queue_seconds))
        self._start.labels(*labels).observe(max(0.0, start_seconds))

    def failed(self, kind: str, *, backend: str, reason: str) -> None:
        """Count one that failed; `reason` is one of a few words, such as ``out-of-memory``."""
        self._failed.labels(kind, backend, reason[:_MOST_WORDS]).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused: ``limit``, ``options`` or ``rights``."""
        self._refused.labels(reason[:_MOST_WORDS]).inc()

    def submitted(self, kind: str, *, backend: str) -> None:
        """Count one submission to a target."""
        self._submitted.labels(backend, kind).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer of the API; `route` is one of those there are, never a whole path."""
        self._api.labels(method, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format (0.0.4)."""
        return generate_latest(self.registry)

    # ---- as it is ----

    def collect(self) -> Iterator[Metric]:
        """Return the gauges; what cannot be said now is left out, and said in the log."""
        for part in (self._of_clusters, self._of_limits):
            try:
                found = list(part())
            except Exception:  # noqa: BLE001 - a scrape shows what can be shown, the rest at least
                _LOG.exception("a part of the metrics cannot be said now")
            else:
                yield from found

    def _of_clusters(self) -> Iterator[Metric]:
        there = list(self._clusters())
        clusters: Tally[tuple[str, ...]] = Tally()
        workers: Tally[tuple[str, ...]] = Tally()
        of_groups: Tally[tuple[str, ...]] = Tally()
        taken: Tally[tuple[str, ...]] = Tally()
        for one in there:
            who = (one.user, one.profile, one.backend)
            clusters[*who, one.state] += 1
            counted = [group for group in one.groups if group in self._groups]
            of_groups.update({(group, "clusters", one.state): 1 for group in counted})
            for state, number in one.workers.items():
                workers[*who, state] += number
                of_groups.update({(group, "workers", state): number for group in counted})
            taken[one.backend, "gpus"] += one.gpus
            taken[one.backend, "memory_bytes"] += one.memory_bytes
            taken[one.backend, "millicores"] += round(one.cores * 1000)
        yield _gauge("clusters", "Clusters", _OF_A_CLUSTER, clusters)
        yield _gauge("workers", "Workers", _OF_A_CLUSTER, workers)
        yield _gauge(
            "group_members",
            "Clusters and workers of a group's members",
            ("group", "kind", "state"),
            of_groups,
        )
        for name, unit, worth in (
            ("cores", "millicores", 1000),
            ("memory_bytes", "memory_bytes", 1),
            ("gpus", "gpus", 1),
        ):
            family = GaugeMetricFamily(f"{PREFIX}_{name}", "Taken by clusters", labels=["backend"])
            for (backend, what), amount in sorted(taken.items()):
                if what == unit:
                    family.add_metric([backend], amount / worth)
            yield family

    def _of_limits(self) -> Iterator[Metric]:
        labels = ["scope", "name", "resource"]
        used = GaugeMetricFamily(
            f"{PREFIX}_limit_used", "In use of what a limit is about", labels=labels
        )
        most = GaugeMetricFamily(f"{PREFIX}_limit", "The limit", labels=labels)
        for use in self._uses():
            if use.limit is None:
                continue
            at = [use.scope.kind, use.scope.name, use.resource]
            used.add_metric(at, use.used)
            most.add_metric(at, use.limit)
        yield used
        yield most


def _gauge(name: str, words: str, labels: Iterable[str], counts: Tally[tuple[str, ...]]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", words, labels=list(labels))
    for values, number in sorted(counts.items()):
        family.add_metric(list(values), number)
    return family


_ROUTES = {"health", "version", "options", "clusters", "limits", "metrics"}
_PARTS = {"scale", "adapt", "heartbeat", "logs", "dashboard", "sharing"}


def route_of(path: str) -> str:
    """Return which of our routes a path is: one of a few, whatever is sent.

    Examples:
        ``/api/v1/clusters/4f2a…/scale`` is ``clusters/:name/scale``; what is none is ``other``.
    """
    parts = [part for part in path.split("/") if part and part not in {"api", "v1", "qhub"}]
    if not parts or parts[0] not in _ROUTES:
        return "other"
    if len(parts) == 1:
        return parts[0]
    if parts[0] == "clusters" and len(parts) == 2:  # noqa: PLR2004 - the cluster's name
        return "clusters/:name"
    if parts[0] == "clusters" and len(parts) == 3 and parts[2] in _PARTS:  # noqa: PLR2004 - and what of it
        return f"clusters/:name/{parts[2]}"
    return "other"


_REASONS = {
    "owner": ("the hub does not know", "may not use the hub"),
    "out-of-memory": ("memory",),
    "time-limit": ("time limit", "walltime", "too long", "cluster-hours"),
    "preempted": ("preempt", "taken away", "evict"),
    "cancelled": ("cancel", "deleted"),
    # before what may be in a node's own name
    "exited": ("exit code", "signal"),
    "node": ("node",),
    "silent": ("report",),
    "not-started": ("failed to start", "refused", "not start", "not join"),
}


def reason_of(words: str) -> str:
    """Return why something failed as one of a few words, from the sentence that its owner reads."""
    lower = words.lower()
    found = (name for name, parts in _REASONS.items() if any(part in lower for part in parts))
    return next(found, "other")
