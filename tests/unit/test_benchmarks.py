"""The pure parts of the benchmarks: what is counted, summed up and printed is right."""

from __future__ import annotations

import asyncio
import json
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.activity import Forks
from benchmarks.audit import requests_of
from benchmarks.cluster import Sleeper
from benchmarks.figures import Calls, Spread, lags, per_minute, percentile, ratio
from benchmarks.filled import qhub_kept, stock_kept
from benchmarks.mixed import Wanted
from benchmarks.visitors import look
from benchmarks.wire import Traffic

# sdiag of Slurm 22.05.8, shortened
SDIAG = """\
Jobs submitted: 100

Remote Procedure Call statistics by message type
	REQUEST_SUBMIT_BATCH_JOB                ( 4003) count:50     ave_time:691    total_time:34565
	REQUEST_JOB_INFO                        ( 2003) count:4      ave_time:563    total_time:2252

Remote Procedure Call statistics by user
	alice           (    1001) count:150    ave_time:528    total_time:79270
	root            (       0) count:24     ave_time:392    total_time:9426

Pending RPC statistics
	No pending RPCs
"""


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.1, 100))
def test_percentile_is_a_value_that_so_many_do_not_exceed(
    values: list[float], percent: float
) -> None:
    """It is one of the values, at least that share is not above it, and no smaller one will do."""
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) < len(values) * percent / 100


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_percentile_of_nothing_is_refused(values: list[float], percent: float) -> None:
    """There is no such value."""
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


def test_spread_and_rates() -> None:
    """Median, least and most; rates are by the minute; nothing over nothing is no difference."""
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    assert per_minute(5, 30) == 10
    assert ratio(1, 4) == 0.25
    assert ratio(0, 0) == 0
    assert ratio(1, 0) == float("inf")


def test_calls_are_counted_by_account() -> None:
    """Both tables of sdiag are read; what others ask does not count; an account may be new."""
    earlier = Calls.parse(SDIAG)
    assert earlier.by_user == {"alice": 150, "root": 24}
    assert earlier.by_kind["REQUEST_JOB_INFO"] == 4
    later = SDIAG.replace("count:150 ", "count:157 ").replace("count:24 ", "count:99 ")
    later = later.replace("\n\nPending", "\n\tqhub            (     998) count:3      x\n\nPending")
    assert Calls.parse(later).since(earlier, ("alice", "bob", "qhub")) == 10


def test_sdiag_that_is_cut_is_refused() -> None:
    """Half an answer would count too little."""
    with pytest.raises(ValueError, match="by user"):
        Calls.parse(SDIAG.partition("Remote Procedure Call statistics by user")[0])


def test_table_is_aligned() -> None:
    """First column to the left, figures to the right, nothing after the last."""
    text = report.table(("", "ours"), [("seconds", "1"), ("s", "1,000")])
    assert text.splitlines() == [
        "          ours",
        "-------  -----",
        "seconds      1",
        "s        1,000",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5.9991, "5.999"),
        (1377.4, "1,377"),
        (123456.0, "123,500"),
        (0.00001234, "0.000012"),
    ],
)
def test_amounts_are_for_people(value: float, text: str) -> None:
    """Four digits count, thousands are set apart, never a power of ten."""
    assert report.amount(value) == text


def test_last_line_is_one_line_of_json() -> None:
    """The names that other programs read, numbers rounded, and no number that JSON lacks."""
    line = report.last_line(
        "spawn", ours=1.23456789, other=2.0, ratio=float("inf"), floor=1.0, runs=10,
        more={"by": {"50": 5.99876}, "met": True},
    )  # fmt: skip
    assert "\n" not in line
    assert json.loads(line) == {
        "bench": "spawn",
        "ours": 1.235,
        "other": 2.0,
        "ratio": None,
        "floor": 1.0,
        "runs": 10,
        "by": {"50": 5.999},
        "met": True,
    }
    assert "floor" not in json.loads(report.last_line("x", ours=1, other=1, ratio=1, runs=1))
    alone = json.loads(report.last_line("x", ours=1, other=None, ratio=None, runs=1))
    assert alone["other"] is None
    assert alone["ratio"] is None


def test_filled_state_is_what_a_server_keeps() -> None:
    """The database is filled with what the spawners themselves would have written."""
    from qhub_spawner.slurm.poller import Watch
    from qhub_spawner.slurm.server import SlurmServer

    sleeper = Sleeper("alice", "s1", "qhub-bench-00000000000000ff", 4711)
    state = qhub_kept(sleeper, 8888).state
    backend: Any = SimpleNamespace(poller=SimpleNamespace(watch=Watch))
    server = SlurmServer(backend, owner=SimpleNamespace(log=None))
    server.restore(state["qhub"])
    assert server.state() == state["qhub"]
    assert stock_kept(sleeper, 8888).state["job_id"] == "4711"


def test_lag_counts_what_was_due_while_the_loop_was_busy() -> None:
    """A loop that is busy for long makes all of that time late, not only the tick that ends it."""
    assert lags([0.0, 1.0, 2.0], 1.0) == [0.0, 0.0]
    assert lags([0.0, 1.25], 1.0) == [0.25]
    assert lags([0.0, 4.5, 5.5], 1.0) == [3.5, 2.5, 1.5, 0.5, 0.0]
    assert lags([0.0], 1.0) == []


@given(st.lists(st.floats(0.001, 5), max_size=20))
def test_lag_accounts_for_all_time(gaps: list[float]) -> None:
    """There is about one figure for each interval that passed, and none is longer than the gap."""
    ticks = [0.0]
    for gap in gaps:
        ticks.append(ticks[-1] + 0.01 + gap)
    found = lags(ticks, 0.01)
    assert len(found) >= ticks[-1] / 0.01 - len(gaps) - 1
    assert max(found, default=0.0) <= max(gaps, default=0.0) + 1e-9


def test_traffic_is_what_passed_since() -> None:
    """Bytes of both directions, and connections, less those of before."""
    before, after = Traffic(100, 10, 1), Traffic(350, 30, 2)
    assert after.since(before) == Traffic(250, 20, 1)
    assert after.since(before).total == 270


# kube-apiserver v1.34.4, audit.k8s.io/v1 at level Metadata, shortened
AUDIT = (
    b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"16e1",'
    b'"stage":"RequestReceived","requestURI":"/api/v1/namespaces/test-1/pods?watch=true",'
    b'"verb":"watch","user":{"username":"system:serviceaccount:test-1:hub"},'
    b'"userAgent":"OpenAPI-Generator/36.1.0/python",'
    b'"objectRef":{"resource":"pods","namespace":"test-1","apiVersion":"v1"}}\n'
)


def test_requests_are_those_of_hubs_by_verb_and_kind() -> None:
    """Each request counts once, when it arrives; kubectl's and the benchmark's own do not."""
    listed = AUDIT.replace(b'"watch"', b'"list"')
    version = AUDIT.replace(b'"objectRef"', b'"other"').replace(b'"watch"', b'"get"')
    own = AUDIT.replace(b'"userAgent":"OpenAPI-Generator/36.1.0/python",', b"")
    later = AUDIT.replace(b"RequestReceived", b"ResponseComplete")
    found = requests_of([AUDIT, AUDIT, listed, version, own, later])
    assert found == {
        "watch pods": 2,
        "list pods": 1,
        "get /api/v1/namespaces/test-1/pods?watch=true": 1,
    }


def test_mixed_servers_are_half_jobs_and_half_pods() -> None:
    """Both kinds in turn, each kind shared by both people, no name twice."""
    wanted = Wanted.some(200)
    assert [each.profile for each in wanted[:4]] == ["job", "pod", "job", "pod"]
    for profile in ("job", "pod"):
        people = [each.user for each in wanted if each.profile == profile]
        assert people.count("alice") == people.count("bob") == 50
    assert len({each.name for each in wanted}) == 200


# A pod of QHubSpawner as the API server gives it, shortened
POD: dict[str, Any] = {
    "metadata": {
        "name": "jupyter-alice--model",
        "namespace": "test-1",
        "uid": "0c1e",
        "resourceVersion": "512",
        "creationTimestamp": "2026-11-21T09:00:00Z",
        "managedFields": [{"manager": "OpenAPI-Generator"}],
        "labels": {
            "app.kubernetes.io/managed-by": "qhub-spawner",
            "qhub.dev/hub": "bench",
            "qhub.dev/spawn": "00000000000000ff",
            "hub.jupyter.org/username": "alice",
            "hub.jupyter.org/servername": "model",
        },
        "annotations": {
            "qhub.dev/user": "alice",
            "qhub.dev/server": "model",
            "hub.jupyter.org/username": "alice",
        },
    },
    "spec": {
        "nodeName": "node1",
        "priority": 0,
        "containers": [
            {
                "name": "notebook",
                "ports": [{"containerPort": 8888}],
                "env": [
                    {"name": "JUPYTERHUB_API_TOKEN", "value": "the server's"},
                    {"name": "HOME", "value": "/tmp"},
                ],
            }
        ],
    },
    "status": {"phase": "Running", "podIP": "198.18.152.9"},
}


def test_floor_pod_is_the_same_with_another_token() -> None:
    """It is what the hub made, runs anywhere, and is not taken for a server of that hub."""
    from benchmarks.spawn_kubernetes import by_hand_manifest

    made = by_hand_manifest(POD, "mine")
    assert made["metadata"]["name"].startswith("floor-")
    assert made["metadata"].keys() == {"name", "annotations"}
    assert made["spec"].keys() == {"containers"}
    (container,) = made["spec"]["containers"]
    assert container["env"] == [
        {"name": "JUPYTERHUB_API_TOKEN", "value": "mine"},
        {"name": "HOME", "value": "/tmp"},
    ]
    assert POD["spec"]["containers"][0]["env"][0]["value"] == "the server's"


def test_fleet_pod_belongs_to_its_own_server() -> None:
    """A pod made like another has its own name, start and server; a stock one gets no more."""
    from benchmarks.fleet import alike

    made = alike(POD, "bob", "s00001")
    assert made["metadata"]["name"] == "jupyter-bob--s00001"
    labels, notes = made["metadata"]["labels"], made["metadata"]["annotations"]
    assert labels["hub.jupyter.org/username"] == notes["hub.jupyter.org/username"] == "bob"
    assert labels["hub.jupyter.org/servername"] == "s00001"
    assert "hub.jupyter.org/servername" not in notes
    assert (notes["qhub.dev/user"], notes["qhub.dev/server"]) == ("bob", "s00001")
    assert labels["qhub.dev/spawn"] != POD["metadata"]["labels"]["qhub.dev/spawn"]
    assert "nodeName" not in made["spec"]
    stock = {**POD, "metadata": {**POD["metadata"], "labels": {}, "annotations": {}}}
    assert alike(stock, "bob", "s1")["metadata"]["labels"] == {}


def test_fleet_state_is_what_a_server_keeps() -> None:
    """The database is filled with what the spawners themselves would have written."""
    from benchmarks import fleet
    from qhub_spawner.kubernetes.server import KubernetesServer

    standing = fleet.Standing(
        "bob", "s1", "test-1", "jupyter-bob--s1", "0c1e", "ff", "198.18.152.9"
    )
    kept = fleet.qhub_kept(standing, 8888, "bench")
    assert (kept.user, kept.server, kept.host, kept.port) == ("bob", "s1", "198.18.152.9", 8888)
    backend: Any = SimpleNamespace(live={})
    server = KubernetesServer(backend, owner=SimpleNamespace(log=None))
    server.restore(kept.state["qhub"])
    assert server.state() == kept.state["qhub"]
    assert fleet.stock_kept(standing, 8888, "bench").state["pod_name"] == "jupyter-bob--s1"


def event(what: int, *ids: int) -> bytes:
    """A message of the kernel's process events connector (linux/cn_proc.h)."""
    return bytes(36) + struct.pack("=IIQIIII", what, 0, 0, *ids) + bytes(8)


def test_forks_counts_processes_of_the_whole_tree_and_no_threads() -> None:
    """Children and their children count for the process they come from; strangers do not."""
    fork, leave = 1, 0x80000000
    forks = Forks()
    forks._counts, forks._roots = {10: 0}, {10: 10}
    forks._note(event(fork, 10, 10, 11, 11))  # a child
    forks._note(event(fork, 11, 11, 12, 12))  # its child
    forks._note(event(fork, 10, 10, 13, 10))  # a thread
    forks._note(event(fork, 99, 99, 14, 14))  # a stranger
    forks._note(event(leave, 11, 11, 0, 17))
    forks._note(event(fork, 11, 11, 15, 15))  # that pid is somebody else's now
    forks._note(b"short")
    assert forks.count(10) == 2


async def test_visitors_look_again_and_again() -> None:
    """Everybody looks first within an interval, then once an interval, however slow an answer."""
    seen: list[str] = []

    async def deed(name: str) -> None:
        seen.append(name)
        await asyncio.sleep(0.06)

    visitors: Any = [1, 2, 3]
    await look(visitors, 0.4, 0.1, lambda _: deed("first"), lambda _: deed("again"))
    assert seen.count("first") == 3
    assert 3 * 2 <= seen.count("again") <= 3 * 3
