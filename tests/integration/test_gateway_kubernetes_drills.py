"""Drills on Kubernetes: what runs is neither lost nor doubled, whatever goes away under it."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kubernetes_drills import down
from tests.systems.dask_client import StayingClient
from tests.systems.gateway import GatewaySystem
from tests.systems.kubernetes_faults import FaultyApi
from tests.systems.kubernetes_hub import pods_in
from tests.systems.processes import wait_until

pytestmark = pytest.mark.timeout(600)

SECONDS = 120
CONFIG = """
c.KubernetesBackend.request_timeout = 5
c.QHubGatewayBackend.worker_variables = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
"""
NEW = """
cluster = client.new_cluster(shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
answer = cluster.name
"""
SCALE = """
cluster.scale(values["workers"])
dask.wait_for_workers(values["workers"], timeout=150)
"""
COMPUTE = "answer = sum(dask.gather(dask.map(lambda x: x * x, range(20), pure=False)))"


@dataclass
class Drill:
    """A gateway with what a drill does to it.

    Attributes:
        cluster: The Kubernetes.
        gateway: The gateway.
        faults: What stands between the two.
        client: Alice's notebook.
    """

    cluster: Any
    gateway: GatewaySystem
    faults: FaultyApi
    client: StayingClient

    @property
    def path(self) -> str:
        """The path of its pods in the API."""
        return f"/api/v1/namespaces/{self.gateway.namespace}/pods"

    def pods(self, role: str = "") -> set[str]:
        """The pods that are neither over nor on their way out, of one role or of all."""
        return {
            name
            for name, pod in pods_in(self.cluster, self.gateway.namespace).items()
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"]["phase"] in {"Pending", "Running"}
            and role in {"", pod["metadata"]["labels"]["qhub.dev/role"]}
        }

    def names(self) -> list[str]:
        """The clusters that the gateway has."""
        return list(self.gateway.api("GET", "clusters/", "alice")[1])

    def settled(self, workers: int) -> None:
        """Wait for one cluster with exactly so many workers, which computes."""
        right = lambda: (len(self.pods("scheduler")), len(self.pods("worker"))) == (1, workers)  # noqa: E731
        wait_until(right, SECONDS, f"a scheduler and {workers} workers")
        self.client.ask(f"dask.wait_for_workers({workers}, timeout=150)")
        assert self.client.ask(COMPUTE) == 2470
        # one that ended a moment ago may be being replaced
        wait_until(right, SECONDS, f"a scheduler and {workers} workers")

    def stop_all(self) -> None:
        """End every cluster; afterwards there is no pod and no secret."""
        for name in self.names():
            self.gateway.api("DELETE", f"clusters/{name}", "alice")
        self.nothing_left()

    def nothing_left(self) -> None:
        """Wait until there is no pod, and no secret."""
        for kind in ("pods", "secrets"):
            path = f"/api/v1/namespaces/{self.gateway.namespace}/{kind}"
            gone = lambda path=path: not self.cluster.request("GET", path)["items"]  # noqa: E731
            wait_until(gone, SECONDS, f"the end of all {kind}")


@pytest.fixture(scope="module")
def system(kubernetes: Any) -> Iterator[tuple[GatewaySystem, FaultyApi]]:
    """A gateway behind a proxy that breaks what a test says."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    folder.chmod(0o755)
    gateway = GatewaySystem(folder, kubernetes=kubernetes, config=CONFIG)
    faults = FaultyApi(kubernetes.api_url, kubernetes.ca)
    faults.lend(gateway.kubeconfig)
    try:
        gateway.start()
        yield gateway, faults
    finally:
        gateway.stop()
        faults.close()
        shutil.rmtree(folder)


@pytest.fixture
def drill(kubernetes: Any, system: tuple[GatewaySystem, FaultyApi]) -> Iterator[Drill]:
    """The gateway, with a client of its own; afterwards nothing is left."""
    client = StayingClient(system[0])
    made = Drill(kubernetes, *system, client)
    try:
        yield made
    finally:
        client.close()
        made.stop_all()


def test_pods_that_go(drill: Drill) -> None:
    """A worker that is deleted, evicted or out of memory is replaced; no scheduler, no cluster."""
    name = drill.client.ask(NEW)
    drill.client.ask(SCALE, workers=2)
    deleted, evicted = sorted(drill.pods("worker"))
    drill.cluster.request("DELETE", f"{drill.path}/{deleted}?gracePeriodSeconds=0")
    wait_until(lambda: len(drill.pods("worker") - {deleted}) == 2, SECONDS, "another worker")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted}}
    drill.cluster.request("POST", f"{drill.path}/{evicted}/eviction", eviction)
    wait_until(lambda: len(drill.pods("worker") - {evicted}) == 2, SECONDS, "another worker")
    drill.settled(2)
    too_much = """
try:
    dask.submit(lambda: len(b"x" * 2**30), pure=False).result(timeout=100)
except Exception as error:
    answer = type(error).__name__
"""
    assert drill.client.ask(too_much) == "KilledWorker"
    drill.settled(2)
    (scheduler,) = drill.pods("scheduler")
    drill.cluster.request("DELETE", f"{drill.path}/{scheduler}?gracePeriodSeconds=0")
    drill.nothing_left()
    assert drill.names() == []
    words = drill.gateway.api("GET", f"qhub/clusters/{name}", "alice")[1]["words"]
    assert words.startswith("its scheduler ended: its pod was deleted")


def test_killed_and_started_again(drill: Drill) -> None:
    """What went while there was no gateway is replaced, the rest goes on; nothing is made twice."""
    name = drill.client.ask(NEW)
    drill.client.ask(SCALE, workers=2)
    before = drill.pods()
    drill.gateway.gateway.signal(signal.SIGKILL)
    wait_until(lambda: not drill.gateway.gateway.running, SECONDS, "the end of the gateway")
    assert drill.client.ask(COMPUTE) == 2470
    gone = min(drill.pods("worker"))
    drill.cluster.request("DELETE", f"{drill.path}/{gone}?gracePeriodSeconds=0")
    drill.gateway.start()
    assert drill.names() == [name]
    drill.settled(2)
    assert before - {gone} < drill.pods()
    drill.client.ask(SCALE, workers=3)
    drill.settled(3)


def test_lost_replies(drill: Drill) -> None:
    """Requests that were carried out unheard, or never were: one scheduler, exactly three workers."""
    with drill.faults.fault("reply-lost", "POST", "/pods") as fault:
        drill.client.ask("client.submit()")
        wait_until(lambda: fault.hits >= 2, SECONDS, "lost replies")
    drill.client.ask(
        """
(found,) = client.list_clusters()
cluster = client.connect(found.name, shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
"""
    )
    with drill.faults.fault("never-sent", "POST", "/pods") as fault:
        drill.client.ask("cluster.scale(3)")
        wait_until(lambda: fault.hits >= 3, SECONDS, "requests that are not sent")
    drill.settled(3)
    with drill.faults.fault("never-sent", "DELETE", "/pods") as fault:
        drill.client.ask("cluster.scale(1)")
        wait_until(lambda: fault.hits, SECONDS, "a request that is not sent")
    drill.settled(1)


def test_api_server_down(drill: Drill) -> None:
    """Two minutes without: clusters compute on, and what was asked for meanwhile comes after."""
    name = drill.client.ask(NEW)
    drill.client.ask(SCALE, workers=2)
    before = drill.pods()
    with down(drill.cluster, "kube-apiserver"):
        until = time.monotonic() + 120
        late = drill.client.ask("answer = client.submit()")
        drill.client.ask("cluster.scale(3)")

        def through() -> bool:
            assert drill.client.ask(COMPUTE) == 2470
            assert set(drill.names()) == {name, late}
            return time.monotonic() > until

        wait_until(through, 240, "the end of the outage", poll_seconds=2)
    wait_until(lambda: len(drill.pods("scheduler")) == 2, SECONDS, "the late cluster")
    drill.client.ask("dask.wait_for_workers(3, timeout=150)")
    assert before < drill.pods()
    assert (len(drill.pods("scheduler")), len(drill.pods("worker"))) == (2, 3)
