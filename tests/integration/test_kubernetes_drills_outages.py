"""Drills: a part of Kubernetes is away or does not answer. The unknown is never taken for over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from tests.integration.drilling import Server
from tests.integration.kubernetes_drills import (
    KubernetesDrill,
    assert_settled,
    down,
    paused,
    start_again,
)

Drill = KubernetesDrill
UNWATCHED = "is not watched now"
WATCHED = "is watched again"
ANEW = "too far behind; listing anew"


def everybody_lives_through(
    drill: Drill, outage: Callable[[], contextlib.AbstractContextManager[None]], seconds: float
) -> None:
    """Nothing that runs, waits or starts is given up during an outage, nor after it."""
    running, waiting, silent = servers = drill.start_one_of_each()
    pods = set(drill.pods())
    late = Server("bob", "late")
    with outage():
        drill.request(late)
        until = time.monotonic() + seconds

        def through() -> bool:
            # ready servers stay ready and reachable, starts stay pending, for the whole time
            assert drill.model(running)["ready"]
            assert drill.ask(running)
            for server in (waiting, silent, late):
                assert drill.model(server)["pending"] == "spawn", server
            return time.monotonic() > until

        drill.wait(through, seconds + 10, "the end of the outage")
        drill.progress_says(late, "Kubernetes does not answer now")
    drill.hold.unlink()
    with drill.opened():
        assert_settled(drill, [*servers, late])
    assert pods < set(drill.pods())


def test_api_server_down(kubernetes_drill: Drill) -> None:
    """The API server is away for two minutes, and comes back with an empty memory."""
    drill = kubernetes_drill
    warned = drill.logged(UNWATCHED)
    everybody_lives_through(drill, lambda: down(drill.cluster, "kube-apiserver"), 120)
    assert drill.logged(UNWATCHED) > warned


def test_api_server_killed(kubernetes_drill: Drill) -> None:
    """It is killed, and is back soon."""
    drill = kubernetes_drill
    servers = drill.start("one", "two")
    drill.cluster.kill_daemon("kube-apiserver")
    start_again(drill.cluster, "kube-apiserver")
    servers += drill.start("three")
    assert_settled(drill, servers)


def test_api_server_hangs(kubernetes_drill: Drill) -> None:
    """It takes connections and does not answer."""
    drill = kubernetes_drill
    everybody_lives_through(drill, lambda: paused(drill.cluster, "kube-apiserver"), 12)


def test_etcd_down(kubernetes_drill: Drill) -> None:
    """The API server answers, and knows nothing."""
    drill = kubernetes_drill
    everybody_lives_through(drill, lambda: down(drill.cluster, "etcd"), 10)


def test_etcd_restarted(kubernetes_drill: Drill) -> None:
    """etcd is killed and started again: nobody notices."""
    drill = kubernetes_drill
    servers = drill.start("one", "two")
    drill.cluster.kill_daemon("etcd")
    drill.cluster.start_daemon("etcd")
    servers += drill.start("three")
    drill.stop(servers.pop(0))
    assert_settled(drill, servers)


def test_stop_during_an_outage(kubernetes_drill: Drill) -> None:
    """Kubernetes' word is waited for; the stop goes through when it is back."""
    drill = kubernetes_drill
    stopped, lives = drill.start("stopped", "lives")
    with down(drill.cluster, "kube-apiserver"):
        assert drill.hub.stop_server(stopped.person, stopped.name).status == 202
        until = time.monotonic() + 5
        drill.wait(lambda: time.monotonic() > until, 10, "some time")
        assert drill.model(stopped)["pending"] == "stop"
    drill.hub.wait_stopped(stopped.person, stopped.name)
    assert_settled(drill, [lives])


def test_watch_dropped(kubernetes_drill: Drill) -> None:
    """Every watch breaks: it goes on where it was, with no list; what it missed is noticed."""
    drill = kubernetes_drill
    ending, lives = drill.start("ending", "lives")
    lists = drill.faults.count("GET", "limit=")
    warned = drill.logged(UNWATCHED)
    with drill.faults.fault("never-sent", "GET", "watch=true") as fault:
        assert drill.faults.drop_streams()
        drill.wait(lambda: fault.hits, 30, "a vain watch")
        drill.cluster.request("DELETE", f"{drill.pod_path(ending)}?gracePeriodSeconds=0")
        drill.wait(lambda: drill.logged(UNWATCHED) > warned, 30, "a word of it in the log")
        assert drill.model(lives)["ready"]
    drill.wait_logged(WATCHED)
    assert "deleted" in drill.wait_ended(ending)
    assert drill.faults.count("GET", "limit=") == lists
    assert_settled(drill, [lives])


def test_version_expired(kubernetes_drill: Drill) -> None:
    """The API server forgets the version where the watch was: it lists anew, and sees what ended.

    No server is ended but the one whose pod is gone.
    """
    drill = kubernetes_drill
    ending, lives = drill.start("ending", "lives")
    lists, anew = drill.faults.count("GET", "pods?"), drill.logged(ANEW)
    path = drill.pod_path(ending)
    with drill.faults.fault("never-sent", "GET", "watch=true") as fault:
        drill.faults.drop_streams()
        drill.wait(lambda: fault.hits, 30, "a vain watch")
        drill.cluster.request("DELETE", f"{path}?gracePeriodSeconds=0")
        # its cache of what happened begins with its start
        drill.cluster.kill_daemon("kube-apiserver")
        start_again(drill.cluster, "kube-apiserver")
        assert drill.model(ending)["ready"]
    drill.wait_logged(ANEW, beyond=anew)
    assert drill.wait_ended(ending)
    assert drill.faults.count("GET", "pods?") > lists
    (started,) = drill.start("started")
    assert_settled(drill, [lives, started])


def test_kubelet_down(kubernetes_drill: Drill) -> None:
    """The node does nothing: a stop is not confirmed, and is true when the kubelet is back."""
    drill = kubernetes_drill
    stopped, lives = drill.start("stopped", "lives")
    waiting = Server("bob", "waiting")
    with down(drill.cluster, "kubelet"):
        drill.request(waiting)
        assert drill.hub.stop_server(stopped.person, stopped.name).status == 202
        until = time.monotonic() + 5
        drill.wait(lambda: time.monotonic() > until, 10, "some time")
        assert drill.model(stopped)["pending"] == "stop"
        assert drill.model(waiting)["pending"] == "spawn"
        assert drill.ask(lives)
    drill.hub.wait_stopped(stopped.person, stopped.name)
    assert_settled(drill, [lives, waiting])


def test_scheduler_down(kubernetes_drill: Drill) -> None:
    """Starts wait until it is back."""
    drill = kubernetes_drill
    waiting = Server("alice", "waiting")
    with down(drill.cluster, "kube-scheduler"):
        drill.request(waiting)
        drill.progress_says(waiting, "Kubernetes looks for a node")
    assert_settled(drill, [waiting])
