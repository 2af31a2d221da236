"""Drills on Kubernetes: a start is ended in each of its phases, or a reply to it is lost."""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.drilling import Server
from tests.integration.kubernetes_drills import KubernetesDrill, assert_settled

Drill = KubernetesDrill


@pytest.mark.parametrize("kind", ["held", "reply-held", "never-sent"])
def test_start_ended_while_the_pod_is_made(kubernetes_drill: Drill, kind: Any) -> None:
    """Whatever became of the request, nothing is left of it."""
    drill = kubernetes_drill
    server = Server("alice", f"cancelled-{kind}")
    with drill.faults.fault(kind, "POST", "/pods") as fault:
        drill.request(server)
        drill.wait(lambda: fault.hits, 30, "the request")
        assert drill.hub.stop_server(server.person, server.name).status in {202, 204}
    drill.hub.wait_stopped(server.person, server.name)
    assert_settled(drill)


@pytest.mark.parametrize(
    ("slug", "says"),
    [
        ("nowhere", "o node"),  # no node, or: looks for a node
        ("imageless", "image"),
        ("held", "starting"),
    ],
)
def test_start_ended_while_it_waits(kubernetes_drill: Drill, slug: str, says: str) -> None:
    """A pod without a node, without its image, or that does not listen yet, is gone at once."""
    drill = kubernetes_drill
    drill.hold.touch()
    (other,) = drill.start("other")
    server = Server("alice", f"cancelled-{slug}")
    drill.request(server, slug)
    drill.progress_says(server, says)
    drill.stop(server)
    assert_settled(drill, [other])


def test_reply_to_a_create_is_lost(kubernetes_drill: Drill) -> None:
    """The pod was made all the same: it is found, and there is one."""
    drill = kubernetes_drill
    server = Server("alice", "lost")
    with drill.faults.fault("reply-lost", "POST", "/pods") as fault:
        drill.request(server)
        drill.wait(lambda: fault.hits, 30, "the request")
        drill.progress_says(server, "does not answer now")
    assert_settled(drill, [server])
    assert len(drill.hub.pods()) == 1


def test_request_to_create_is_lost(kubernetes_drill: Drill) -> None:
    """It is made again, and there is one pod."""
    drill = kubernetes_drill
    server = Server("alice", "again")
    with drill.faults.fault("never-sent", "POST", "/pods") as fault:
        drill.request(server)
        drill.wait(lambda: fault.hits > 1, 30, "requests")
    assert_settled(drill, [server])


def test_replies_to_a_delete_are_lost(kubernetes_drill: Drill) -> None:
    """A stop goes on until Kubernetes says that the pod is gone."""
    drill = kubernetes_drill
    stopped, lives = drill.start("stopped", "lives")
    for kind in ("never-sent", "reply-lost"):
        with drill.faults.fault(kind, "DELETE", "/pods/") as fault:  # type: ignore[arg-type]
            assert drill.hub.stop_server(stopped.person, stopped.name).status == 202
            drill.wait(lambda fault=fault: fault.hits > 1, 30, "requests")
            if kind == "never-sent":
                assert drill.model(stopped)["pending"] == "stop"
        drill.hub.wait_stopped(stopped.person, stopped.name)
        assert_settled(drill, [lives])
        if kind == "never-sent":
            drill.start("stopped")


def test_last_pod_is_still_there(kubernetes_drill: Drill) -> None:
    """A pod of an earlier start that nobody owns any more gives way; its end is waited for."""
    drill = kubernetes_drill
    (server,) = drill.start("left")
    original = drill.cluster.request("GET", drill.pod_path(server))
    drill.stop(server)
    drill.wait(lambda: not drill.hub.pods(), 20, "the pod gone")
    spec = {key: value for key, value in original["spec"].items() if key != "nodeName"}
    meta = {key: original["metadata"][key] for key in ("name", "labels", "annotations")}
    path = f"/api/v1/namespaces/{drill.hub.namespace}/pods"
    left = drill.cluster.request("POST", path, {"metadata": meta, "spec": spec})
    drill.request(server)
    assert_settled(drill, [server])
    assert drill.owned()[server] != left["metadata"]["uid"]


PEOPLE = ["a.b", "a_b", "a-b", "a--b", "ü b", "$(id)", "alice@example.org", "x" * 200, "名前"]


def test_people_of_any_name(kubernetes_drill: Drill) -> None:
    """However alike their safe names are: a pod for each, which says whole whose it is."""
    drill = kubernetes_drill
    hub = drill.hub
    for name in PEOPLE:
        hub.add_user(name)
        answer = hub.start_server(name, {"profile": "many"})
        assert answer.status in {201, 202}, (name, answer.text)
    lives = {}
    for name in PEOPLE:
        hub.wait_ready(name)
        with urllib.request.urlopen(f"{hub.url}user/{quote(name)}/drill", timeout=10) as answer:
            lives[name] = json.loads(answer.read())
    assert len({life["life"] for life in lives.values()}) == len(PEOPLE)
    owners = {
        pod["metadata"]["name"]: pod["metadata"]["annotations"]["qhub.dev/user"]
        for pod in drill.pods().values()
    }
    assert owners == {life["host"]: name for name, life in lives.items()}
    for name in PEOPLE:
        assert hub.stop_server(name).status in {202, 204}
    for name in PEOPLE:
        hub.wait_stopped(name)
    assert drill.pods() == {}
