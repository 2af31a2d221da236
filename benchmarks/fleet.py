"""Pods on fake nodes that stand for the running servers of a hub.

One is made by the hub itself; the others are as that one is, down to its environment, and belong
to other servers. All of them have addresses of this machine's own, where one server answers for
all.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any

from qhub_spawner.kubernetes import names
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.processes import SystemUnavailableError, wait_until

from .filled import Kept

MAKERS = 8
START_SECONDS = 300
# What the API server, the scheduler and the controllers write into a pod's spec.
_WRITTEN = ("nodeName", "serviceAccount", "priority", "preemptionPolicy")

Json = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """A pod that stands for a server."""

    user: str
    server: str
    namespace: str
    pod: str
    uid: str
    spawn_id: str
    address: str


def manifest_of(pod: Mapping[str, Any]) -> Json:
    """Return what would have to be submitted for a pod that exists."""
    metadata = {name: pod["metadata"].get(name, {}) for name in ("labels", "annotations")}
    spec = {name: value for name, value in pod["spec"].items() if name not in _WRITTEN}
    return copy.deepcopy(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod["metadata"]["name"], **metadata},
            "spec": spec,
        }
    )


def alike(pod: Mapping[str, Any], user: str, server: str) -> Json:
    """Return a pod like one that a hub has made, for another server of `user`."""
    manifest = manifest_of(pod)
    metadata = manifest["metadata"]
    metadata["name"] = f"jupyter-{user}--{server}"
    for kind in ("labels", "annotations"):
        metadata[kind] |= {
            f"hub.jupyter.org/{name}": value
            for name, value in (("username", user), ("servername", server))
            if f"hub.jupyter.org/{name}" in metadata[kind]
        }
    if names.SPAWN in metadata["labels"]:
        metadata["labels"][names.SPAWN] = names.new_spawn_id()
        metadata["annotations"] |= names.owner_annotations(user, server)
    return manifest


def qhub_kept(standing: Standing, port: int, hub_id: str) -> Kept:
    """Return what a hub with QHubSpawner has in its database of a running server."""
    server = {
        "version": 1,
        "name": names.record_name(hub_id, standing.spawn_id),
        "namespace": standing.namespace,
        "pod": standing.pod,
        "spawn": standing.spawn_id,
        "uid": standing.uid,
        "memory": "600 MiB",
        "walltime": "8h",
        "grace_seconds": 10.0,
        "alternatives": False,
        "address": {"host": standing.address, "port": port},
    }
    state = {"backend": "kubernetes", "qhub": server}
    return Kept(standing.user, standing.server, standing.address, port, state)


def stock_kept(standing: Standing, port: int, _hub_id: str) -> Kept:
    """Return what a hub with KubeSpawner has in its database of a running server."""
    state = {
        "kubespawner_version": version("jupyterhub-kubespawner"),
        "pod_name": standing.pod,
        "namespace": standing.namespace,
        "dns_name": f"{standing.pod}.{standing.namespace}.svc.cluster.local",
    }
    return Kept(standing.user, standing.server, standing.address, port, state)


def muster(
    cluster: KubernetesSystem,
    namespace: str,
    pod: Mapping[str, Any],
    users: Sequence[str],
    count: int,
) -> list[Standing]:
    """Make `count` pods like `pod`, and wait until all run; their events are forgotten.

    Args:
        cluster: With room for them on its fake nodes.
        namespace: Where there is no other pod.
        pod: One that the hub has made.
        users: Whose servers they are, in turn.
        count: How many.

    Raises:
        RuntimeError: The addresses of fake pods do not suffice.
    """
    path = f"/api/v1/namespaces/{namespace}/pods"
    # it would give other addresses than those that earlier pods had, beyond the range in the end
    cluster.stop_daemon("kwok")
    cluster.start_daemon("kwok")

    def make(index: int) -> tuple[str, str, str]:
        user, server = users[index % len(users)], f"s{index:05d}"
        manifest = alike(pod, user, server)
        cluster.request("POST", path, manifest)
        return user, server, manifest["metadata"]["name"]

    with ThreadPoolExecutor(MAKERS) as pool:
        made = list(pool.map(make, range(count)))
    found: dict[str, Json] = {}

    def all_run() -> bool:
        nonlocal found
        items = cluster.request("GET", path)["items"]
        found = {each["metadata"]["name"]: each for each in items if each["status"].get("podIP")}
        return len(found) >= count

    wait_until(all_run, START_SECONDS, f"{count} pods on fake nodes", poll_seconds=2)
    outside = [
        name
        for name, pod in found.items()
        if ip_address(pod["status"]["podIP"]) not in cluster.places.addresses.fake_pods
    ]
    if outside:
        msg = f"{len(outside)} pods have addresses that nothing answers at, such as {outside[0]}"
        raise RuntimeError(msg)
    # servers that run for hours have none: the API server forgets events after an hour
    cluster.request("DELETE", f"/api/v1/namespaces/{namespace}/events")
    return [
        Standing(
            user=user,
            server=server,
            namespace=namespace,
            pod=name,
            uid=found[name]["metadata"]["uid"],
            spawn_id=names.spawn_of(found[name]),
            address=found[name]["status"]["podIP"],
        )
        for user, server, name in made
    ]


def dismiss(cluster: KubernetesSystem, namespace: str) -> None:
    """Take all pods of a namespace away, so that their addresses are free again."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    cluster.request("DELETE", f"{path}?gracePeriodSeconds=0")
    wait_until(lambda: not cluster.request("GET", path)["items"], 120, "an empty namespace")


@contextmanager
def addresses_here(cluster: KubernetesSystem) -> Iterator[None]:
    """Make the addresses of pods on fake nodes this machine's own.

    Raises:
        SystemUnavailableError: The kernel does not let us.
    """
    route = ["local", str(cluster.places.addresses.fake_pods), "dev", "lo"]
    done = subprocess.run(
        ["ip", "route", "replace", *route], capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"`ip route replace {' '.join(route)}` failed: {done.stderr.strip()}"
        raise SystemUnavailableError(msg)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "delete", *route], capture_output=True, check=False)
