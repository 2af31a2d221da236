"""Drills on Kubernetes: the hub is killed, and what it started lives on; and two hubs at once."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.integration.drilling import Server
from tests.integration.kubernetes_drills import (
    KubernetesDrill,
    assert_settled,
    clean,
    make_drill,
)

Drill = KubernetesDrill


def test_hub_killed_with_twenty_servers(kubernetes_drill: Drill) -> None:
    """A hub killed with 20 servers and two starts adopts all of them; none is restarted."""
    drill = kubernetes_drill
    servers = [Server(person, f"s{n}") for n in range(10) for person in ("alice", "bob")]
    for server in servers:
        drill.request(server)
    assert_settled(drill, servers)
    before = {server: drill.ask(server) for server in servers}
    uids = drill.owned()
    drill.hub.kill()
    assert {server: drill.ask(server) for server in servers} == before
    drill.hub.restart()
    assert_settled(drill, servers)
    assert {server: drill.ask(server) for server in servers} == before
    assert drill.owned() == uids


def test_hub_killed_while_servers_start(kubernetes_drill: Drill) -> None:
    """Starts go on under the next hub: a pod that waits for a node, one that does not listen."""
    drill = kubernetes_drill
    running, waiting, silent = drill.start_one_of_each()
    pods = set(drill.pods())
    drill.hub.kill()
    drill.hub.restart()
    # to their people they are starts like any other, with progress
    assert drill.model(waiting)["pending"] == "spawn"
    assert drill.model(silent)["pending"] == "spawn"
    drill.progress_says(waiting, "o node")
    drill.hold.unlink()
    with drill.opened():
        assert_settled(drill, [running, waiting, silent])
    assert set(drill.pods()) == pods


def test_hub_killed_before_it_went_elsewhere(kubernetes_drill: Drill) -> None:
    """The next hub goes on to the next backend; the pod that found no room is gone."""
    drill = kubernetes_drill
    server = Server("alice", "elsewhere")
    with drill.faults.fault("never-sent", "DELETE", "/pods") as fault:
        drill.request(server, "too-big-or-local")
        drill.wait(lambda: fault.hits, 30, "that the pod is given up")
        drill.hub.kill()
    assert drill.pods()
    drill.hub.restart()
    drill.wait(lambda: drill.model(server)["ready"], 60, f"{server} on the hub's machine")
    assert drill.model(server)["state"]["backend"] == "local"
    assert drill.ask(server)["server"] == "elsewhere"
    drill.wait(lambda: not drill.pods(), 30, "the end of the pod")
    drill.stop(server)


def test_start_of_an_earlier_hub_is_ended_by_its_person(kubernetes_drill: Drill) -> None:
    """Who does not want to wait any more can end a start that an earlier hub began."""
    drill = kubernetes_drill
    waiting = Server("alice", "waiting")
    drill.request(waiting, "nowhere")
    drill.wait(drill.pods, 30, "the pod")
    drill.hub.kill()
    drill.hub.restart()
    drill.stop(waiting)
    assert_settled(drill)
    (again,) = drill.start("waiting")
    assert_settled(drill, [again])


def test_hub_killed_before_the_pod_was_made(kubernetes_drill: Drill) -> None:
    """A start that was on record and never reached Kubernetes is over, and says so."""
    drill = kubernetes_drill
    server = Server("alice", "never")
    with drill.faults.fault("never-sent", "POST", "/pods") as fault:
        drill.request(server)
        drill.wait(lambda: fault.hits, 30, "the request")
        drill.hub.kill()
    drill.hub.restart()
    assert "before Kubernetes had your server" in drill.wait_ended(server)
    assert_settled(drill)


def test_hub_killed_while_the_pod_is_made(kubernetes_drill: Drill) -> None:
    """A pod whose hub was killed before it heard of it is found by its name, and adopted."""
    drill = kubernetes_drill
    server = Server("alice", "unheard")
    with drill.faults.fault("reply-held", "POST", "/pods"):
        drill.request(server)
        drill.wait(drill.pods, 30, "the pod")
        drill.hub.kill()
    (uid,) = drill.pods()
    drill.hub.restart()
    assert_settled(drill, [server])
    assert drill.owned() == {server: uid}


def test_server_that_ended_while_no_hub_ran(kubernetes_drill: Drill) -> None:
    """The next hub sees that it is over, and takes no other server for it."""
    drill = kubernetes_drill
    ended, lives = drill.start("ended", "lives")
    path = drill.pod_path(ended)
    drill.hub.kill()
    drill.cluster.request("DELETE", f"{path}?gracePeriodSeconds=0")
    drill.hub.restart()
    drill.wait_ended(ended)
    assert_settled(drill, [lives])


@pytest.fixture
def second_hub(kubernetes: Any, kubernetes_drill: Drill) -> Any:
    """Another hub in the namespace of the first."""
    second = make_drill(kubernetes, "second", namespace=kubernetes_drill.hub.namespace)
    try:
        yield second
        clean(second)
    finally:
        second.hub.stop()
        second.faults.close()
        shutil.rmtree(second.folder)


def test_two_hubs_in_one_namespace(kubernetes_drill: Drill, second_hub: Drill) -> None:
    """Each knows its own pods; the same name of a server is refused, and never ended by the other."""
    first, second = kubernetes_drill, second_hub
    (theirs,) = first.start("same")
    before = first.ask(theirs)
    second.request(Server("alice", "same"))
    words = second.wait_ended(Server("alice", "same"))
    assert "of another hub is in the way" in words
    assert first.ask(theirs) == before
    assert second.pods() == {}
    other = Server("bob", "other")
    second.request(other)
    second.hub.wait_ready("bob", "other", 60)
    assert len(second.pods()) == len(first.pods()) == 1
    second.stop(other)
    assert not first.logged("jupyter-bob--other")
    assert_settled(first, [theirs])
    assert first.ask(theirs) == before


def test_pod_without_a_server_is_ended(kubernetes_drill: Drill) -> None:
    """A pod of this hub that nobody owns is deleted; one of another hub, or of nobody, is not."""
    drill = kubernetes_drill
    (server,) = drill.start("owned")
    original = drill.cluster.request("GET", drill.pod_path(server))
    labels = original["metadata"]["labels"]
    path = f"/api/v1/namespaces/{drill.hub.namespace}/pods"

    def copy(name: str, **changes: str) -> None:
        spec = {key: value for key, value in original["spec"].items() if key != "nodeName"}
        made = {"name": name, "labels": {**labels, **changes}}
        drill.cluster.request("POST", path, {"metadata": made, "spec": spec})

    copy("orphan", **{"qhub.dev/spawn": "0123456789abcdef"})
    copy("others", **{"qhub.dev/spawn": "0123456789abcdef", "qhub.dev/hub": "another"})
    drill.wait(lambda: "orphan" not in drill.hub.pods(), 60, "the orphan gone")
    assert drill.logged("deleting pod orphan of") == 1
    assert "others" in drill.hub.pods()
    drill.cluster.request("DELETE", f"{path}/others?gracePeriodSeconds=0")
    assert_settled(drill, [server])
