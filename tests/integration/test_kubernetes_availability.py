"""What the options page says is free on a real cluster, from its nodes, its quotas, or both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.systems.kubernetes_hub import KubernetesHub
from tests.systems.processes import wait_until

DEVICE = "qhub.test/accelerator"
PROFILES = f"""
def profile(slug, **more):
    block = {{"gpu_resource": "{DEVICE}", "memory_request": "64 MiB", **more.pop("kubernetes", {{}})}}
    return {{"slug": slug, "display_name": slug, "memory": "600 MiB", "kubernetes": block, **more}}
c.QHubSpawner.profiles = [
    profile("small", cpu=1, kubernetes={{"cpu_request": "100m"}}),
    profile("gpu", gpu=1, kubernetes={{"cpu_request": "100m"}}),
    profile("two-gpus", gpu=2, kubernetes={{"cpu_request": "100m"}}),
    profile("huge", cpu=1000),
    profile("elsewhere", kubernetes={{"node_selector": {{"qhub.test/pool": "none"}}}}),
]
c.KubernetesBackend.view_interval = 1
"""
FROM = 'c.KubernetesBackend.availability_from = "{source}"\n'
View = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def gpus(kubernetes: Any) -> int:
    """The node offers devices; nothing computes."""
    kubernetes.extend_node({DEVICE: "2"})
    path = f"/api/v1/nodes/{kubernetes.node}"
    offered = lambda: kubernetes.request("GET", path)["status"]["allocatable"].get(DEVICE)  # noqa: E731
    wait_until(offered, 60, "the node's devices", poll_seconds=0.3)
    return 2


@pytest.fixture(scope="module")
def hub_from(kubernetes: Any, user_bin: Any, gpus: int) -> Iterator[Callable[[str], KubernetesHub]]:
    """Hubs that learn from one source each what is free."""
    hubs: dict[str, KubernetesHub] = {}

    def hub_from(source: str) -> KubernetesHub:
        if source not in hubs:
            lines, rights = PROFILES + FROM.format(source=source), {"see_nodes": source == "nodes"}
            hubs[source] = KubernetesHub(kubernetes, profiles=lines, rights=rights)
            hubs[source].start()
            hubs[source].add_user("alice")
        return hubs[source]

    yield hub_from
    for hub in hubs.values():
        hub.stop()
        hub.tidy()


def seen(hub: KubernetesHub) -> View:
    """What the page's JSON says, by profile."""
    answer = hub.api("GET", "users/alice/qhub/profiles")
    assert answer.status == 200, answer.text
    return {each["slug"]: each["availability"] for each in answer.json["profiles"]}


def until(hub: KubernetesHub, condition: Callable[[View], Any], what: str) -> View:
    """Look until it is so; the hub looks again within a second."""
    wait_until(lambda: condition(seen(hub)), 30, what, poll_seconds=0.3)
    return seen(hub)


@contextlib.contextmanager
def quota(hub: KubernetesHub, **hard: str) -> Iterator[None]:
    """Within the block the namespace may have so much."""
    path = f"/api/v1/namespaces/{hub.namespace}/resourcequotas"
    made = {"metadata": {"name": "most"}, "spec": {"hard": hard}}
    hub.cluster.request("POST", path, made)
    try:
        yield
    finally:
        hub.cluster.request("DELETE", f"{path}/most")


def test_from_nodes(hub_from: Callable[[str], KubernetesHub], gpus: int) -> None:
    """Where the hub may see nodes, figures are the node's, and what cannot run there says why."""
    view = seen(hub_from("nodes"))
    assert view["small"]["start"]["kind"] == "now"
    assert view["small"]["start"]["source"] == "calculated"
    assert view["small"]["nodes_total"] == 1
    assert view["small"]["cpus_free"] is not None
    assert not view["small"]["stale"]
    assert (view["gpu"]["gpus_free"], view["gpu"]["gpus_total"]) == (gpus, gpus)
    assert view["gpu"]["words"]["gpus"] == "2 of 2 GPUs free"
    for slug in ("huge", "elsewhere"):
        assert view[slug]["start"]["kind"] == "unknown"
        assert view[slug]["problem"] == "the cluster has no node that could run it"
        assert view[slug]["nodes_total"] == 0


def test_what_a_server_takes_is_taken(hub_from: Callable[[str], KubernetesHub], gpus: int) -> None:
    """A GPU that is in use is not free, and is free again; nothing is asked for in between."""
    hub = hub_from("nodes")
    assert hub.start_server("alice", {"profile": "gpu"}).status in {201, 202}
    view = until(hub, lambda view: view["gpu"]["gpus_free"] == gpus - 1, "a GPU in use")
    assert view["gpu"]["start"]["kind"] == "now"
    assert view["two-gpus"]["start"]["kind"] == "unknown"
    assert view["two-gpus"]["nodes_total"] == 1
    hub.stop_server("alice")
    hub.wait_stopped("alice")
    until(hub, lambda view: view["two-gpus"]["start"]["kind"] == "now", "the GPU free again")


def test_from_nodes_and_quota(hub_from: Callable[[str], KubernetesHub], gpus: int) -> None:
    """The smaller of both counts, and a start that the quota forbids is none."""
    hub = hub_from("nodes")
    with quota(hub, **{f"requests.{DEVICE}": "1"}):
        view = until(hub, lambda view: view["gpu"]["gpus_total"] == 1, "the quota's figure")
        assert view["gpu"]["gpus_free"] == 1
        assert view["gpu"]["start"]["kind"] == "now"
        assert view["gpu"]["start"]["source"] == "calculated"
        assert view["two-gpus"]["start"]["kind"] == "unknown"
        assert "quota has no room for 2" in view["two-gpus"]["problem"]
        assert view["small"]["start"]["kind"] == "now"
        assert view["elsewhere"]["problem"] == "the cluster has no node that could run it"
    until(hub, lambda view: view["gpu"]["gpus_free"] == gpus, "no quota any more")


def test_from_quota(hub_from: Callable[[str], KubernetesHub]) -> None:
    """With no right beyond the namespace: nothing without a quota, and with one what it leaves."""
    hub = hub_from("quota")
    view = seen(hub)
    assert view["small"]["start"]["kind"] == "unknown"
    assert view["small"]["words"]["headline"] == ""
    with quota(hub, **{"requests.cpu": "1500m", f"requests.{DEVICE}": "1"}):
        view = until(hub, lambda view: view["small"]["cpus_free"] == 1, "the quota's figure")
        assert view["small"]["start"]["kind"] == "now"
        assert view["small"]["start"]["source"] == "quota"
        assert view["small"]["words"]["source"] == "as far as the quota goes"
        assert view["gpu"]["gpus_free"] == 1
        assert "quota has no room for 2" in view["two-gpus"]["problem"]
        assert "quota has no room for 1000 cores" in view["huge"]["problem"]
        assert hub.start_server("alice", {"profile": "gpu"}).status in {201, 202}
        view = until(hub, lambda view: view["gpu"]["gpus_free"] == 0, "the quota in use")
        assert view["gpu"]["start"]["kind"] == "unknown"
        hub.stop_server("alice")
        hub.wait_stopped("alice")


def test_off(hub_from: Callable[[str], KubernetesHub]) -> None:
    """Then the page says nothing of what is free."""
    view = seen(hub_from("off"))
    assert {each["start"]["kind"] for each in view.values()} == {"unknown"}
    assert {each["words"]["headline"] for each in view.values()} == {""}


def test_nodes_that_may_not_be_seen(kubernetes: Any, user_bin: Any) -> None:
    """Without the right the page says that there are no figures, and servers start all the same."""
    hub = KubernetesHub(kubernetes, profiles=PROFILES + FROM.format(source="nodes"))
    with hub:
        hub.add_user("alice")
        view = seen(hub)["small"]
        assert view["stale"]
        assert "does not say now what is free" in view["words"]["stale"]
        assert hub.start_server("alice", {"profile": "small"}).status in {201, 202}
        hub.wait_ready("alice")
        hub.stop_server("alice")
        hub.wait_stopped("alice")
        assert hub.api("GET", "health").status == 200
    hub.tidy()
