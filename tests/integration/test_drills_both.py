"""Drills of a hub on both systems: it is killed with servers on each, and one has no room."""

from __future__ import annotations

import json
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import cancel_all
from tests.integration.drilling import PEOPLE, Server
from tests.systems import stand_in
from tests.systems.both_hub import BothHub
from tests.systems.kubernetes_hub import RESTRICTED, offer_folder
from tests.systems.processes import wait_until

PROFILES = """
c.Spawner.cmd = c.KubeSpawner.cmd = ["/usr/bin/python3", "-I", "{folder}/stand_in.py"]
c.KubeSpawner.volumes = [{{"name": "drill", "persistentVolumeClaim": {{"claimName": "drill"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "drill", "mountPath": "{folder}"}}]
pod = {{"kubernetes": {{"cpu_request": "1m", "memory_request": "16 MiB"}}}}
job = {{"slurm": {{"partition": "many"}}}}
common = {{"cpu": 1, "memory": "64 MiB", "walltime": "1h"}}
c.QHubSpawner.profiles = [
    {{"slug": "pod", "display_name": "Pod", **common, **pod}},
    {{"slug": "job", "display_name": "Job", **common, **job}},
    {{"slug": "either", "display_name": "Either", **common, **pod, **job}},
    {{"slug": "job-first", "display_name": "Job first", **common, **job, **pod}},
]
c.SlurmBackend.poll_starting = 1
c.QHubSpawner.stop_grace = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.1, "slow_stop_timeout": 0.1}}
"""


class Both:
    """A hub on both, with what a drill asks of it."""

    def __init__(self, hub: BothHub, hub_id: str) -> None:
        self.hub, self.hub_id = hub, hub_id

    def request(self, server: Server, slug: str) -> None:
        """Ask for a start, and do not wait for it."""
        answer = self.hub.start_server(server.person, {"profile": slug}, server.name)
        assert answer.status in {201, 202}, answer.text

    def ask(self, server: Server) -> dict[str, Any]:
        """What a server says of itself, through the proxy; empty when it does not answer."""
        url = f"{self.hub.url}user/{server.person}/{server.name}/drill"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (OSError, ValueError):
            return {}

    def settled(self, servers: list[Server]) -> dict[Server, str]:
        """Wait until all of them are ready and answer; returns which life each is in."""
        for server in servers:
            wait_until(
                lambda server=server: (
                    (self.hub.server(server.person, server.name) or {}).get("ready")
                    and self.ask(server)
                ),
                90,
                f"{server} ready and answering",
                poll_seconds=0.2,
            )
        return {server: self.ask(server)["life"] for server in servers}

    def running(self) -> tuple[int, int]:
        """How many jobs and pods there are."""
        pods = [
            pod for pod in self.hub.pods().values() if "deletionTimestamp" not in pod["metadata"]
        ]
        out = self.hub.slurm.run(["squeue", "-h", "-a", "-o", "%j %T"]).stdout.split("\n")
        mine = [line for line in out if line.startswith(f"qhub-{self.hub_id}-")]
        return len([line for line in mine if "COMPLETING" not in line]), len(pods)


@pytest.fixture(scope="module")
def both_hub(cluster: Any, kubernetes: Any, user_bin: Path) -> Iterator[Both]:
    """A hub on both systems, for the whole file."""
    folder = Path(cluster.run_folder) / f"both-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o755)
    shutil.copy(Path(stand_in.__file__), folder / "stand_in.py")
    (folder / "stand_in.py").chmod(0o644)
    namespace = kubernetes.make_namespace(labels=RESTRICTED)
    offer_folder(kubernetes, namespace, "drill", folder)
    hub_id = f"both{secrets.token_hex(2)}"
    ids = f'c.SlurmBackend.hub_id = c.KubernetesBackend.hub_id = "{hub_id}"\n'
    profiles = PROFILES.format(folder=folder)
    hub = BothHub(cluster, kubernetes, namespace=namespace, config=profiles + ids, profiles="")
    try:
        hub.start()
        for person in PEOPLE:
            hub.add_user(person)
        yield Both(hub, hub_id)
    finally:
        hub.stop()
        cancel_all(cluster, hub_id)
        pods = f"/api/v1/namespaces/{namespace}/pods"
        kubernetes.request("DELETE", f"{pods}?gracePeriodSeconds=0")


@pytest.fixture
def both(both_hub: Both) -> Iterator[Both]:
    """The hub; after the drill everything is stopped."""
    yield both_hub
    for person in PEOPLE:
        model = both_hub.hub.api("GET", f"users/{person}").json
        for name in model["servers"]:
            both_hub.hub.stop_server(person, name)
    wait_until(lambda: both_hub.running() == (0, 0), 90, "all servers stopped", poll_seconds=0.5)


def test_hub_killed_with_twenty_pods_and_twenty_jobs(both: Both) -> None:
    """A hub killed with 40 servers on both systems adopts all of them; none is restarted."""
    servers = [
        Server(person, f"{slug}{n}")
        for n in range(10)
        for person in PEOPLE
        for slug in ("pod", "job")
    ]
    for server in servers:
        both.request(server, server.name[:3])
    before = both.settled(servers)
    assert both.running() == (20, 20)
    both.hub.kill()
    assert {server: both.ask(server)["life"] for server in servers} == before
    both.hub.restart()
    assert both.settled(servers) == before
    assert both.running() == (20, 20)


def test_no_room_on_one(both: Both) -> None:
    """The start goes on with the other, and is there after a restart of the hub, too."""
    quotas = f"/api/v1/namespaces/{both.hub.namespace}/resourcequotas"
    kubernetes = both.hub.cluster
    kubernetes.request(
        "POST", quotas, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    server = Server("alice", "either")
    try:
        counted = lambda: kubernetes.request("GET", f"{quotas}/none").get("status", {}).get("used")  # noqa: E731
        wait_until(counted, 20, "the quota counted")
        both.request(server, "either")
        said = [event["message"] for event in both.hub.progress("alice", "either")]
    finally:
        kubernetes.request("DELETE", f"{quotas}/none")
    assert any("Kubernetes has no room now" in words for words in said), said
    assert any("Trying Slurm instead" in words for words in said), said
    before = both.settled([server])
    assert both.running() == (1, 0)
    both.hub.kill()
    both.hub.restart()
    assert both.settled([server]) == before
    model = both.hub.server("alice", "either")
    assert model is not None
    assert model["state"]["backend"] == "slurm"
    assert both.running() == (1, 0)


def test_no_partition_on_slurm(both: Both) -> None:
    """The other way round: what sbatch refuses for want of a partition becomes a pod."""
    server, state = Server("bob", "pod"), ["scontrol", "update", "PartitionName=many"]
    both.hub.slurm.run([*state, "State=INACTIVE"])
    try:
        both.request(server, "job-first")
        said = [event["message"] for event in both.hub.progress("bob", "pod")]
    finally:
        both.hub.slurm.run([*state, "State=UP"])
    assert any("Slurm has no room now" in words for words in said), said
    assert any("Trying Kubernetes instead" in words for words in said), said
    both.settled([server])
    assert both.running() == (0, 1)
