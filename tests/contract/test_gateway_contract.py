"""The contract of a Dask gateway: one body on dask-gateway's own backend, and on qhub's.

What the stock client of the same release sees, and what each REST route answers, is the same.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.systems.dask_client import run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.processes import wait_until
from tests.systems.userenv import dask_environment

pytestmark = pytest.mark.timeout(600)

SECONDS = 180.0
STOCK = """
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.UnsafeLocalBackend.db_url = "sqlite:///{folder}/gateway.sqlite"
c.UnsafeLocalBackend.stop_clusters_on_shutdown = True
c.UnsafeLocalBackend.cluster_heartbeat_period = 5
c.UnsafeLocalBackend.cluster_heartbeat_timeout = 600
c.UnsafeLocalBackend.cluster_start_timeout = 600
c.UnsafeLocalBackend.worker_start_timeout = 600
c.UnsafeLocalBackend.clusters_directory = "{folder}"
c.UnsafeLocalBackend.inherited_environment = ["PATH"]
c.ClusterConfig.scheduler_cmd = ["{python}", "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = ["{python}", "-m", "distributed.cli.dask_worker"]
c.ClusterConfig.cluster_max_workers = 3
c.ClusterConfig.worker_memory = "300M"
"""
OURS = """
from qhub_gateway.requests import ClusterRules

site = Site(rules=ClusterRules(max_workers=3))
c.QHubGatewayBackend.cluster_options = lambda user: ProfileOptions(
    catalogue, Owner(name=user.name), site=site
)
c.QHubGatewayBackend.stop_clusters_on_shutdown = True
c.QHubGatewayBackend.cluster_heartbeat_timeout = 600
c.QHubGatewayBackend.cluster_start_timeout = 600
c.QHubGatewayBackend.worker_start_timeout = 600
"""
# all that a person does by the stock client, and what they see of it
CLIENT = """
import asyncio
from dask_gateway import GatewayCluster, GatewayClusterError, GatewayServerError

seen = []

def see(name, value):
    seen.append([name, value])
    print(name, value, file=sys.stderr, flush=True)  # where it was, should it hang

def failure(function, *args, **more):
    try:
        function(*args, **more)
    except (ValueError, GatewayClusterError, GatewayServerError) as error:
        return type(error).__name__
    return "nothing"

def soon(condition):
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return True

see("versions", sorted(client.get_versions()))
see("the server's version", client.get_versions()["server"])
see("options", type(client.cluster_options()).__name__)
see("no clusters", client.list_clusters())
see("no such option", failure(client.submit, no_such_option=1))
name = client.submit(cluster_options=client.cluster_options())
see("submitted", [each.name == name for each in client.list_clusters()])
with client.connect(name) as cluster:
    see("cluster", [type(cluster).__name__, cluster.name == name, cluster.status])
    see("asked for", [cluster.scale(2), repr(type(cluster.dashboard_link))])
    dask = cluster.get_client(set_as_default=False)
    see("client", type(dask).__name__)
    dask.wait_for_workers(2, timeout=180)
    see("workers", len(dask.scheduler_info()["workers"]))
    see("computed", dask.submit(sum, [1, 2, 3]).result(timeout=60))
    see("on all", sorted(dask.run(lambda: 1).values()))
    see("encrypted", dask.scheduler.address.startswith("gateway://"))
    cluster.adapt(minimum=0, maximum=1)
    see("adapted", soon(lambda: len(dask.scheduler_info()["workers"]) < 2))
    cluster.adapt(active=False)
    client.scale_cluster(name, 1)
    see("scaled", soon(lambda: len(dask.scheduler_info()["workers"]) == 1))
    report = client.get_cluster(name)
    see("report", [type(report).__name__, sorted(vars(report)) if hasattr(report, "__dict__") else
                   sorted(report._fields) if hasattr(report, "_fields") else
                   sorted(report.__slots__), report.status.name])
see("left running", [each.name == name for each in client.list_clusters()])
client.stop_cluster(name)
client.stop_cluster(name)
see("stopped", soon(lambda: client.get_cluster(name).status.name == "STOPPED"))
see("among those that are over", [each.name == name for each in client.list_clusters(status="stopped")])
see("to one that is over", failure(client.connect, name))
see("to none", failure(client.connect, "0" * 32))
see("scale none", failure(client.scale_cluster, "0" * 32, 1))
with client.new_cluster() as cluster:
    mine = cluster.name
see("closed", soon(lambda: client.get_cluster(mine).status.name == "STOPPED"))
with GatewayCluster(given["url"], proxy_address=given["proxy_address"], auth=auth) as cluster:
    other = cluster.name
    cluster.shutdown()
see("shut down", soon(lambda: client.get_cluster(other).status.name == "STOPPED"))

async def asynchronously():
    async with Gateway(given["url"], proxy_address=given["proxy_address"], auth=auth, asynchronous=True) as gateway:
        return await gateway.list_clusters()

see("asynchronously", asyncio.run(asynchronously()))
answer = seen
"""


@dataclass
class Both:
    """The stock gateway and ours."""

    stock: GatewaySystem
    ours: GatewaySystem


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """Two gateways whose clusters are processes; what is left of them ends with them."""
    made = []
    for text in (STOCK, OURS):
        folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
        python = f"{dask_environment()}/bin/python3"
        made.append(GatewaySystem(folder, config=text.format(folder=folder, python=python)))
        made[-1].start()
    yield Both(*made)
    for gateway in made:
        gateway.stop()
        shutil.rmtree(gateway.folder, ignore_errors=True)


def test_the_stock_client(both: Both) -> None:
    """Everything that it can do does the same; nothing of it is changed."""
    stock, ours = (
        run_client(each, CLIENT, seconds=SECONDS * 2) for each in (both.stock, both.ours)
    )
    assert ours == stock
    assert dict(ours)["computed"] == 6


# method, path, body; NAME is a cluster that runs, OVER one that has ended, GONE one that never was
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "health", None),
    ("GET", "version", None),
    ("GET", "v1/options", None),
    ("GET", "v1/clusters/", None),
    ("GET", "v1/clusters/?status=running", None),
    ("GET", "v1/clusters/?status=pending,running,stopping", None),
    ("GET", "v1/clusters/?status=nonsense", None),
    ("GET", "v1/clusters/NAME", None),
    ("GET", "v1/clusters/NAME?wait", None),
    ("GET", "v1/clusters/OVER", None),
    ("GET", "v1/clusters/GONE", None),
    ("POST", "v1/clusters/GONE/scale", {"count": 1}),
    ("POST", "v1/clusters/NAME/scale", {"count": 0}),
    ("POST", "v1/clusters/NAME/scale", {"count": 4}),
    ("POST", "v1/clusters/NAME/scale", {"count": 0}),
    ("POST", "v1/clusters/OVER/scale", {"count": 1}),
    ("POST", "v1/clusters/NAME/adapt", {"minimum": 0, "maximum": 5}),
    ("POST", "v1/clusters/NAME/adapt", {"active": False}),
    ("POST", "v1/clusters/GONE/adapt", {"active": False}),
    ("POST", "v1/clusters/", {"cluster_options": {"no_such_option": 1}}),
    ("DELETE", "v1/clusters/OVER", None),
    ("DELETE", "v1/clusters/GONE", None),
    ("PUT", "v1/clusters/", {}),
    ("GET", "v1/nonsense", None),
]
# asked by the owner only: whether who asks or what is asked is looked at first may differ
REFUSED: list[tuple[str, str, Any]] = [
    ("POST", "v1/clusters/NAME/scale", {"count": -1}),
    ("POST", "v1/clusters/NAME/scale", {"count": "many"}),
    ("POST", "v1/clusters/NAME/scale", {}),
]
HEARTBEAT = {
    **dict.fromkeys(
        ("api_address", "scheduler_address", "dashboard_address"), "http://127.0.0.1:1"
    ),
    **{f"{kind}_workers": [] for kind in ("active", "closing", "closed")},
    "count": 0,
}


def test_every_route(both: Both) -> None:
    """Each answers with the same status and the same form, to its owner, to others and to nobody."""
    seen = [_walk(each) for each in (both.stock, both.ours)]
    for stock, ours in zip(*seen, strict=True):
        assert ours == stock


def _walk(gateway: GatewaySystem) -> list[Any]:
    """Return what each route answers each person, in a form that is the same on every gateway."""
    names = {"GONE": "0" * 32}
    for role in ("OVER", "NAME"):
        status, made = gateway.api("POST", "clusters/", "alice", {})
        assert status == 201, made
        names[role] = made["name"]
        wait_until(lambda role=role: _status(gateway, names[role]) == "RUNNING", SECONDS, role)
        if role == "OVER":
            gateway.api("DELETE", f"clusters/{names[role]}", "alice")
            wait_until(lambda: _status(gateway, names["OVER"]) == "STOPPED", SECONDS, "its end")
    found = []
    every = [(*route, ("alice", "bob", None)) for route in ROUTES]
    every += [(*route, ("alice",)) for route in REFUSED]
    every.append(("POST", "v1/clusters/NAME/heartbeat", HEARTBEAT, ("alice", None)))
    for method, path, body, people in every:
        real = path
        for role, name in names.items():
            real = real.replace(role, name)
        for person in people:
            status, answer = _ask(gateway, method, real, body, person)
            # why something is refused may be said in other words
            text = json.dumps(sorted(json.loads(answer)) if status == 422 else _form(answer))
            for role, name in names.items():
                text = text.replace(name, role)
            found.append((method, path, body, person, status, text))
    gateway.api("DELETE", f"clusters/{names['NAME']}", "alice")
    return found


def _status(gateway: GatewaySystem, name: str) -> str:
    return str(gateway.api("GET", f"clusters/{name}", "alice")[1]["status"])


def _ask(
    gateway: GatewaySystem, method: str, path: str, body: Any, person: str | None
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{gateway.url}/api/{path}", method=method, data=data)
    if person is not None:
        basic = base64.b64encode(f"{person}:{gateway.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _form(answer: Any) -> Any:
    """Return an answer with its values as their types; errors and messages as they are."""
    if isinstance(answer, str):
        try:
            answer = json.loads(answer)
        except ValueError:
            return "text"
    if isinstance(answer, dict):
        kept = {"error", "msg", "ok", "status", "name"}
        return {
            key: value if key in kept and not isinstance(value, dict) else _form(value)
            for key, value in answer.items()
            if key not in {"options", "cluster_options"}
        }
    if isinstance(answer, list):
        return [_form(each) for each in answer]
    return type(answer).__name__
