"""What Prometheus is told: names, labels, and that hostile paths make no series."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qhub_gateway.limits import Scope, Use
from qhub_gateway.metrics import ClusterFigures, GatewayMetrics, reason_of, route_of

ALICE = ClusterFigures(
    user="alice",
    groups=frozenset({"physics", "unwatched"}),
    profile="general",
    backend="slurm",
    state="running",
    workers={"queued": 3, "running": 7},
    cores=21.5,
    memory_bytes=40 * 2**30,
    gpus=2,
)
BOB = ClusterFigures("bob", frozenset({"physics"}), "gpu", "kubernetes", "queued")


def made(
    clusters: Iterable[ClusterFigures] = (ALICE, ALICE, BOB), uses: Iterable[Use] = ()
) -> GatewayMetrics:
    return GatewayMetrics(lambda: clusters, lambda: uses, groups={"physics"})


class Samples(dict[tuple[str, frozenset[str]], float]):
    """Samples by name and values of labels, in whatever order the labels stand in the text."""

    def __getitem__(self, key: Any) -> float:
        return super().__getitem__((key[0], frozenset(key[1])))


def samples(metrics: GatewayMetrics) -> Samples:
    families = text_string_to_metric_families(metrics.text().decode())
    return Samples(
        {
            (
                sample.name.removeprefix("qhub_gateway_"),
                frozenset(sample.labels.values()),
            ): sample.value
            for family in families
            for sample in family.samples
        }
    )


def test_what_is_there_now() -> None:
    """Clusters and workers are counted by user, profile, backend and state, and by group."""
    found = samples(made())
    assert found["clusters", ("alice", "general", "slurm", "running")] == 2
    assert found["clusters", ("bob", "gpu", "kubernetes", "queued")] == 1
    assert found["workers", ("alice", "general", "slurm", "queued")] == 6
    assert found["group_members", ("physics", "clusters", "running")] == 2
    assert found["group_members", ("physics", "workers", "running")] == 14
    assert found["cores", ("slurm",)] == 43.0
    assert found["memory_bytes", ("slurm",)] == 80 * 2**30
    assert found["gpus", ("slurm",)] == 4
    assert not [key for key in found if "unwatched" in key[1]]


def test_what_is_gone_is_gone() -> None:
    """A cluster that is not there any more has no series, and none that says 0."""
    there: list[ClusterFigures] = [ALICE]
    metrics = made(there)
    assert [key for key in samples(metrics) if "alice" in key[1]]
    there.clear()
    assert not [key for key in samples(metrics) if "alice" in key[1]]


def test_limits_and_use() -> None:
    """Each limit is told with what is in use of it; what has none is not told."""
    uses = [
        Use(Scope("user", "alice"), "cores", 60.0, 64.0),
        Use(Scope("group", "physics"), "cluster_hours", 12.5, 100.0),
        Use(Scope("everyone"), "gpus", 3.0, None),
    ]
    found = samples(made(uses=uses))
    assert found["limit_used", ("user", "alice", "cores")] == 60.0
    assert found["limit", ("user", "alice", "cores")] == 64.0
    assert found["limit", ("group", "physics", "cluster_hours")] == 100.0
    assert not [key for key in found if "gpus" in key[1]]


def test_as_it_happens() -> None:
    """Starts are split into queue and start; failures, refusals and answers have a reason."""
    metrics = made(())
    labels = {"profile": "general", "backend": "slurm"}
    metrics.started("worker", queue_seconds=400.0, start_seconds=2.5, **labels)
    metrics.started("worker", queue_seconds=-0.1, start_seconds=1.0, **labels)
    metrics.failed("worker", backend="slurm", reason="out-of-memory")
    metrics.refused("limit")
    metrics.submitted("workers", backend="slurm")
    metrics.answered("GET", "clusters/:name", 200, 0.02)
    found = samples(metrics)
    assert found["starts_total", ("worker", "general", "slurm")] == 2
    assert found["queue_seconds_sum", ("worker", "general", "slurm")] == 400.0
    assert found["start_seconds_count", ("worker", "general", "slurm")] == 2
    assert found["failures_total", ("worker", "slurm", "out-of-memory")] == 1
    assert found["refusals_total", ("limit",)] == 1
    assert found["submissions_total", ("slurm", "workers")] == 1
    assert found["api_seconds_count", ("GET", "clusters/:name", "200")] == 1


def test_what_cannot_be_said_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A scrape goes on where one part fails: the rest is told, and the log says what failed."""

    def broken() -> Any:
        raise RuntimeError("no database")

    metrics = GatewayMetrics(broken, lambda: [Use(Scope("everyone"), "clusters", 1.0, 2.0)])
    metrics.refused("limit")
    found = samples(metrics)
    assert found["refusals_total", ("limit",)] == 1
    assert found["limit", ("everyone", "", "clusters")] == 2.0
    assert "no database" in caplog.text


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/health", "health"),
        ("/api/v1/options", "options"),
        ("/api/v1/clusters/", "clusters"),
        ("/api/v1/clusters/4f2a", "clusters/:name"),
        ("/api/v1/clusters/4f2a/scale", "clusters/:name/scale"),
        ("/api/qhub/clusters/4f2a/logs", "clusters/:name/logs"),
        ("/api/v1/clusters/4f2a/../../x", "other"),
        ("/api/v1/clusters/a/b/c", "other"),
        ("/wp-admin.php", "other"),
        ("/", "other"),
    ],
)
def test_routes(path: str, route: str) -> None:
    """Of a path only the route is told: no name of a cluster, and nothing that a stranger makes up."""
    assert route_of(path) == route


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("it needed more memory than it had", "out-of-memory"),
        ("it reached its time limit", "time-limit"),
        ("it was cancelled by alice", "cancelled"),
        ("it failed with exit code 137", "exited"),
        ("its scheduler reports no more", "silent"),
        ("its workers failed to start 3 times in a row", "not-started"),
        ("", "other"),
        ("something that nobody has foreseen", "other"),
        ("it failed with exit code 1 on node1", "exited"),
        ("its pod was deleted on node1, not by the gateway", "cancelled"),
        ("it could not start: the image x cannot be fetched", "not-started"),
    ],
)
def test_reasons(words: str, reason: str) -> None:
    """A failure is counted under one of a few reasons, however it is said."""
    assert reason_of(words) == reason
