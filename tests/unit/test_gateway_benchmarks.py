"""The pure parts of the gateway benchmarks: both sides are alike, and what is counted is right."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gateway_asker, gateway_pods, gateway_sides, gateway_stand_in
from benchmarks.figures import Calls
from benchmarks.gateway_busy import Queue
from benchmarks.gateway_scale import Round, _compared
from benchmarks.gateway_users import Outcome

# sdiag of Slurm 22.05.8, shortened
SDIAG = """\
Remote Procedure Call statistics by message type
	REQUEST_SUBMIT_BATCH_JOB                ( 4003) count:50     ave_time:691    total_time:34565
	REQUEST_JOB_INFO                        ( 2003) count:40     ave_time:563    total_time:2252
	MESSAGE_EPILOG_COMPLETE                 ( 6012) count:50     ave_time:691    total_time:34565
	REQUEST_COMPLETE_BATCH_SCRIPT           ( 5018) count:50     ave_time:691    total_time:34565

Remote Procedure Call statistics by user
	root            (       0) count:124    ave_time:392    total_time:9426
	alice           (    1001) count:50     ave_time:528    total_time:79270
	bob             (    1002) count:30     ave_time:528    total_time:79270

Pending RPC statistics
	No pending RPCs
"""


def test_calls_are_those_of_clients_without_the_benchmark() -> None:
    """What nodes say by themselves does not count, nor does what the benchmark looks at as bob."""
    assert gateway_sides.client_calls(Calls.parse(SDIAG)) == 50 + 40 - 30


@pytest.mark.parametrize(
    ("kind", "prefix"), [("ours", "qhub-g1-"), ("stock", "dask-gateway")]
)  # fmt: skip
def test_jobs_are_told_apart_by_their_names(kind: gateway_sides.Kind, prefix: str) -> None:
    """Each side sees its own jobs only, and each task of an array as a job."""
    lines = [
        "qhub-g1-00ff|7_0|alice|RUNNING|2026-11-21T16:00:00",
        "qhub-g1-00ff|7_1|alice|PENDING|2026-11-21T16:00:00",
        "qhub-g2-00ff|8|alice|RUNNING|2026-11-21T16:00:00",
        "dask-gateway|9|alice|RUNNING|2026-11-21T16:00:00",
        "dask-gateway|10|alice|PENDING|2026-11-21T16:00:00",
        "floor|11|alice|RUNNING|2026-11-21T16:00:00",
    ]
    asked: list[Any] = []

    def run(*words: Any) -> Any:
        asked.append(words)
        return SimpleNamespace(stdout="\n".join(lines))

    side: Any = gateway_sides.Side.__new__(gateway_sides.Side)
    side.kind, side.gateway_id, side.slurm = kind, "g1", SimpleNamespace(run=run)
    assert side.prefix == prefix
    assert side.states() == {"RUNNING": 1, "PENDING": 1}
    assert all(user == gateway_sides.WATCHER for _, user in asked)


def test_queue_counts_every_job_beyond_one_for_each_worker() -> None:
    """A job that goes and one that comes are a resubmission; ages are those of the last look."""
    queue = Queue()
    queue.look({"1": "2026-11-21T16:00:00", "2": "2026-11-21T16:00:00"}, at(16, 1, 0))
    assert queue.ages == [60, 60]
    assert queue.resubmitted(2) == 0
    queue.look({"2": "2026-11-21T16:00:00", "3": "2026-11-21T16:01:30"}, at(16, 2, 0))
    assert queue.ages == [120, 30]
    assert queue.resubmitted(2) == 1


def at(hour: int, minute: int, second: int) -> datetime:
    """Return a moment of the day, as squeue writes it: in no zone."""
    return datetime(2026, 11, 21, hour, minute, second)  # noqa: DTZ001


def test_rounds_are_compared_by_their_medians() -> None:
    """One slow round does not decide."""
    ours = [Round(seconds, 1.0, 20, 1, 20, 0.5) for seconds in (1.0, 9.0, 2.0)]
    stock = [Round(seconds, 2.0, 300, 50, 100, 5.0) for seconds in (10.0, 8.0, 90.0)]
    assert _compared(ours, stock, "up") == (2.0, 10.0, 0.2)
    assert _compared(ours, stock, "submissions") == (1, 50, 0.02)


def test_every_request_counts_once() -> None:
    """The p95 is of all requests together, whatever was asked."""
    outcome = Outcome()
    outcome.seconds["create"].append(0.5)
    outcome.seconds["list"] += [0.1, 0.2]
    assert sorted(outcome.every) == [0.1, 0.2, 0.5]


# ---- the stand-in for a scheduler


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in that tells nobody."""
    for name, value in (
        ("API_TOKEN", "secret"),
        ("CLUSTER_NAME", "c1"),
        ("API_URL", "http://127.0.0.1:1/api"),
    ):
        monkeypatch.setenv(f"DASK_GATEWAY_{name}", value)
    return gateway_stand_in.Scheduler(8786, 15.0)


@pytest.fixture
def served() -> Iterator[Any]:
    """Serve a handler on loopback; gives its port."""
    servers: list[ThreadingHTTPServer] = []

    def serve(handler: type[BaseHTTPRequestHandler]) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_stand_in_says_what_the_plug_in_says(scheduler: Any) -> None:
    """Its heartbeat has every field that dask-gateway reads, and goes to its own cluster."""
    assert scheduler.url == "http://127.0.0.1:1/api/v1/clusters/c1/heartbeat"
    assert scheduler.message() == {
        "scheduler_address": "tls://127.0.0.1:8786",
        "dashboard_address": "http://127.0.0.1:8786",
        "api_address": "http://127.0.0.1:8786",
        "count": 0,
        "active_workers": [],
        "closing_workers": [],
        "closed_workers": [],
    }


@pytest.mark.enable_socket
def test_stand_in_takes_a_number_from_the_gateway_alone(scheduler: Any, served: Any) -> None:
    """With the cluster's token it wants so many workers, and tells soon; without it nothing."""
    port = served(gateway_stand_in.handler(scheduler))

    def ask(token: str) -> int:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/comm",
            data=json.dumps({"op": "scale", "count": 3}).encode(),
            headers={"Authorization": f"token {token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)

    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask("another")
    assert (scheduler.count, scheduler.changed.is_set()) == (0, False)
    assert ask("secret") == 200
    assert (scheduler.count, scheduler.changed.is_set()) == (3, True)


# ---- the floor in pods

WORDS = ["python3", "-m", "distributed.cli.dask_scheduler", "--protocol", "tls", "--port", "0"]
POD: dict[str, Any] = {
    "metadata": {
        "name": "qhub-g1-00ff",
        "uid": "0c1e",
        "labels": {"qhub.dev/role": "scheduler"},
        "annotations": {"qhub.dev/user": "alice"},
    },
    "spec": {
        "nodeName": "node1",
        "containers": [{"name": "notebook", "args": WORDS, "image": "dask"}],
        "volumes": [
            {"name": "qhub-dask", "secret": {"secretName": "qhub-g1-c1", "defaultMode": 0o444}},
            {"name": "names", "emptyDir": {}},
        ],
    },
    "status": {"podIP": "198.18.0.9"},
}


def test_floor_pod_is_the_same_with_another_secret() -> None:
    """It runs anywhere, is called otherwise, and is not taken for one of the gateway's."""
    made = gateway_pods.by_hand_pod(POD, "floor-1", ["dask"], "floor")
    assert made["metadata"] == {"name": "floor-1", "annotations": {"qhub.dev/user": "alice"}}
    assert made["spec"] == {
        "containers": [{"name": "notebook", "args": ["dask"], "image": "dask"}],
        "volumes": [
            {"name": "qhub-dask", "secret": {"secretName": "floor", "defaultMode": 0o444}},
            {"name": "names", "emptyDir": {}},
        ],
    }
    assert POD["spec"]["volumes"][0]["secret"]["secretName"] == "qhub-g1-c1"


def test_floor_is_called_as_by_the_gateway_without_it() -> None:
    """The scheduler has a port that is known and no plug-in; the worker another scheduler."""
    words = [*WORDS, "--host", "0.0.0.0", "--preload", "dask_gateway.scheduler_preload", "--dg-x"]
    found = gateway_pods.scheduler_words(words)
    assert found == [*WORDS[:-1], "8786", "--host", "0.0.0.0"]
    worker = ["python3", "tls://198.18.0.9:41561", "--name", "w1"]
    moved = gateway_pods.worker_words(worker, "tls://198.18.0.7:8786")
    assert moved == ["python3", "tls://198.18.0.7:8786", "--name", "w1"]
    with pytest.raises(ValueError, match="preload"):
        gateway_pods.scheduler_words(WORDS)


def test_asker_scripts_are_python() -> None:
    """What a client runs can be read by Python, and has what is asked of it."""
    for script in (gateway_asker.BY_GATEWAY, gateway_asker.BY_ADDRESS, gateway_asker.BY_HAND):
        names = compile(script, "asker", "exec").co_names
        assert {"once", "end"} <= set(names)
