"""`spawn-kubernetes`: from the request to a server that is ready, in a pod.

Ours, stock KubeSpawner, and the floor in turn on one cluster. The floor is the pod that our hub
made, with the same environment and resources, created through the API by hand, until its port
listens: no hub can be faster.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tests.systems.kubernetes import ApiError, KubernetesSystem, sweep
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub
from tests.systems.processes import NotReadyError, wait_until

from . import machine
from .figures import Spread
from .fleet import manifest_of
from .rivals import StockKubernetesHub
from .spawn import Contest, by_hub, in_turn, show

USER = "alice"
RUNS = 10
DEADLINE_SECONDS = 120
ADDRESS_SECONDS = 0.1
LOOK_SECONDS = 0.01
CONTEST = Contest(
    "spawn-kubernetes", "stock KubeSpawner", "the same pod by hand, until it listens", 0.7
)
_METADATA = ("labels", "annotations")


def by_hand_manifest(pod: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return a pod to create from one that a hub has running, with another token of the person.

    It does not carry the hub's labels: it is not a server of that hub.
    """
    manifest = manifest_of(pod)
    manifest["metadata"] = {
        "name": f"floor-{secrets.token_hex(4)}",
        "annotations": manifest["metadata"]["annotations"],
    }
    for container in manifest["spec"]["containers"]:
        for variable in container.get("env", ()):
            if "TOKEN" in variable["name"]:
                variable["value"] = token
    return manifest


def by_hand(
    cluster: KubernetesSystem, namespace: str, running: Mapping[str, Any], token: str
) -> float:
    """Create the pod; returns the seconds until the server in it listens."""
    manifest = by_hand_manifest(running, token)
    name = manifest["metadata"]["name"]
    port = manifest["spec"]["containers"][0]["ports"][0]["containerPort"]
    path = f"/api/v1/namespaces/{namespace}/pods"

    def address() -> str:
        return str(cluster.request("GET", f"{path}/{name}")["status"].get("podIP", ""))

    began = time.monotonic()
    cluster.request("POST", path, manifest)
    try:
        # long before the server listens, so that asking does not lengthen what is measured
        host = wait_until(
            address, DEADLINE_SECONDS, "the pod's address", poll_seconds=ADDRESS_SECONDS
        )
        wait_until(
            lambda: _listens(host, port),
            DEADLINE_SECONDS,
            "the pod's server",
            poll_seconds=LOOK_SECONDS,
        )
        seconds = time.monotonic() - began
    except NotReadyError as error:
        log = cluster.kubectl("logs", "-n", namespace, name, check=False).stdout
        msg = f"{error}\n{log[-2000:]}"
        raise RuntimeError(msg) from error
    cluster.request("DELETE", f"{path}/{name}")
    until_gone(cluster, namespace)
    return seconds


def _listens(host: str, port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, port)) == 0


def until_gone(cluster: KubernetesSystem, namespace: str) -> None:
    """Wait until no pod is left, ending ones included."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    wait_until(lambda: not cluster.request("GET", path)["items"], 60, "an empty namespace")


def end_by_hub(hub: KubernetesHub) -> None:
    """Stop the server, and wait until nothing of it is left in the cluster."""
    hub.stop_server(USER)
    hub.wait_stopped(USER)
    until_gone(hub.cluster, hub.namespace)


def measure(cluster: KubernetesSystem, stack: ExitStack, runs: int) -> dict[str, list[float]]:
    """Run each kind once to warm up, then `runs` rounds, whose order turns."""
    ours, stock = KubernetesHub(cluster), StockKubernetesHub(cluster)
    for hub in (ours, stock):
        stack.callback(hub.tidy)
        stack.callback(hub.stop)
        hub.start()
        hub.add_user(USER)
    warm = [by_hub(ours)]
    (running,) = ours.pods().values()
    end_by_hub(ours)
    warm.append(by_hub(stock))
    end_by_hub(stock)
    token = ours.user_token(USER)
    apart = cluster.make_namespace(labels=RESTRICTED)  # no hub watches it
    warm.append(by_hand(cluster, apart, running, token))
    print("warm-up: " + ", ".join(f"{seconds:.2f} s" for seconds in warm), flush=True)

    def through(hub: KubernetesHub) -> float:
        seconds = by_hub(hub)
        end_by_hub(hub)
        return seconds

    return in_turn(
        {
            "ours": lambda: through(ours),
            "stock": lambda: through(stock),
            "floor": lambda: by_hand(cluster, apart, running, token),
        },
        runs,
    )


def run(*, quick: bool, runs: int | None) -> None:
    """Measure, and print."""
    rounds = runs or (2 if quick else RUNS)
    print(f"spawn-kubernetes: request to ready, {rounds} runs each in turn, one pod at a time")
    print(machine.described("kubernetes"), flush=True)
    sweep()
    with KubernetesSystem() as cluster, ExitStack() as stack:
        try:
            seconds = measure(cluster, stack, rounds)
        except ApiError as error:
            msg = f"the API server refused: {error}"
            raise RuntimeError(msg) from error
    show(CONTEST, {kind: Spread.of(values) for kind, values in seconds.items()}, rounds)
