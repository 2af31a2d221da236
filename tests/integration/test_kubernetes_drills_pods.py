"""Drills on Kubernetes: a pod ends, or cannot begin, for each of the reasons there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.integration.drilling import Server
from tests.integration.kubernetes_drills import KubernetesDrill, assert_settled

Drill = KubernetesDrill


def test_deleted_from_outside(kubernetes_drill: Drill) -> None:
    """The person is told, whether the server was up or still starting; others live on."""
    drill = kubernetes_drill
    drill.hold.touch()
    deleted, lives = drill.start("deleted", "lives")
    starting = Server("bob", "starting")
    drill.request(starting, "held")
    drill.progress_says(starting, "starting on node1")
    for server in (deleted, starting):
        drill.cluster.request("DELETE", drill.pod_path(server))
        assert "its pod was deleted on node1, not by the hub" in drill.wait_ended(server)
    assert_settled(drill, [lives])


def test_node_drained(kubernetes_drill: Drill) -> None:
    """Evicted by the eviction API, as a drain does: they are over, in words; new ones wait."""
    drill = kubernetes_drill
    servers = drill.start("first", "second")
    node = drill.cluster.node
    drill.cluster.kubectl("cordon", node)
    try:
        for server in servers:
            path = drill.pod_path(server)
            name = {"metadata": {"name": path.rpartition("/")[2]}}
            drill.cluster.request("POST", f"{path}/eviction", name)
        for server in servers:
            assert drill.wait_ended(server) == "its node node1 was drained, and it was evicted"
        waiting = Server("alice", "first")
        drill.request(waiting)
        drill.progress_says(waiting, "The nodes for it are drained")
    finally:
        drill.cluster.kubectl("uncordon", node)
    assert_settled(drill, [waiting])


def test_killed_for_its_memory(kubernetes_drill: Drill) -> None:
    """The limit is real, and the person is told which it was."""
    drill = kubernetes_drill
    hungry, lives = drill.start("hungry", "lives")
    drill.ask(hungry, "?allocate=100")
    assert drill.wait_ended(hungry) == "its memory limit of 64 MiB was reached"
    assert_settled(drill, [lives])


def test_walltime(kubernetes_drill: Drill) -> None:
    """A server ends when its time is over, and its person is told."""
    drill = kubernetes_drill
    brief = Server("alice", "brief")
    drill.request(brief, "brief")
    assert "its walltime of" in drill.wait_ended(brief)
    assert_settled(drill)


def test_stuck_terminating(kubernetes_drill: Drill) -> None:
    """A pod that cannot be removed is stopped when its processes are; its name is waited for."""
    drill = kubernetes_drill
    (server,) = drill.start("stuck")
    path = drill.pod_path(server)
    merge = "application/merge-patch+json"
    held = {"metadata": {"finalizers": ["qhub.test/held"]}}
    drill.cluster.request("PATCH", path, held, content_type=merge)
    try:
        drill.stop(server)
        assert drill.pods() == {}
        left = drill.cluster.request("GET", path)["metadata"]
        assert left["deletionTimestamp"]
        drill.request(server)
        drill.progress_says(server, "Waiting for the end of your last server")
    finally:
        drill.cluster.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=merge)
    assert_settled(drill, [server])
    assert drill.owned()[server] != left["uid"]


def test_image_missing(kubernetes_drill: Drill) -> None:
    """The start fails, says which image, and leaves no pod."""
    drill = kubernetes_drill
    server = Server("alice", "imageless")
    drill.request(server, "imageless")
    words = drill.wait_ended(server)
    assert "qhub.test/none:1" in words
    assert_settled(drill)


@contextlib.contextmanager
def quota(drill: Drill, pods: int) -> Iterator[None]:
    """Within the block the namespace may have so many pods."""
    path = f"/api/v1/namespaces/{drill.hub.namespace}/resourcequotas"
    made = {"metadata": {"name": "drill"}, "spec": {"hard": {"pods": str(pods)}}}
    drill.cluster.request("POST", path, made)
    counted = lambda: drill.cluster.request("GET", f"{path}/drill").get("status", {}).get("used")  # noqa: E731
    drill.wait(counted, 20, "the quota counted")
    try:
        yield
    finally:
        drill.cluster.request("DELETE", f"{path}/drill")


def test_quota_full(kubernetes_drill: Drill) -> None:
    """The start fails in words; with another backend it goes on there, and says so."""
    drill = kubernetes_drill
    (server,) = drill.start("first")
    refused, elsewhere = Server("alice", "refused"), Server("bob", "elsewhere")
    with quota(drill, 1):
        drill.hub.start_server("alice", {"profile": "many"}, "refused")
        assert "namespace's quota allows 1 pod, and no more" in drill.wait_ended(refused)
        drill.request(elsewhere, "two-places")
        drill.hub.wait_ready("bob", "elsewhere", 60)
    stays_where_it_is(drill, server, elsewhere)


def test_no_room_on_any_node(kubernetes_drill: Drill) -> None:
    """A pod that no node has room for is given up for the other backend, if there is one."""
    drill = kubernetes_drill
    (server,) = drill.start("first")
    waiting, elsewhere = Server("alice", "waiting"), Server("bob", "elsewhere")
    drill.request(waiting, "too-big")
    drill.progress_says(waiting, "No node has 100 cores free")
    drill.request(elsewhere, "too-big-or-local")
    drill.hub.wait_ready("bob", "elsewhere", 60)
    assert drill.model(waiting)["pending"] == "spawn"
    drill.stop(waiting)
    stays_where_it_is(drill, server, elsewhere)


def stays_where_it_is(drill: Drill, pod: Server, local: Server) -> None:
    """A server that fell over to the hub's machine is there after the hub is killed, too."""
    assert drill.model(local)["state"]["backend"] == "local"
    life = drill.ask(local)["life"]
    assert_settled(drill, [pod])
    drill.hub.kill()
    drill.hub.restart()
    drill.wait(lambda: drill.model(local).get("ready"), 30, "adopted")
    assert drill.model(local)["state"]["backend"] == "local"
    assert drill.ask(local)["life"] == life
    drill.stop(local)
    assert_settled(drill, [pod])
