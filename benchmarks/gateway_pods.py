"""From a new Dask cluster to its first result, in pods: ours, and the same two pods by hand.

Stock dask-gateway-server is not measured here: on Kubernetes it needs the CRDs of its own chart and
of Traefik, and a Traefik that reads them, none of which a package registry has.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dask_gateway_server import tls

from tests.systems.gateway import GatewaySystem
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.processes import wait_until

from .gateway_asker import BY_ADDRESS, BY_GATEWAY, Asker, of_gateway
from .spawn import in_turn
from .spawn_kubernetes import until_gone

USER = "alice"
ADDRESS_SECONDS = 0.1
LOOK_SECONDS = 0.01
DEADLINE_SECONDS = 180
SCHEDULER_PORT = 8786

Json = dict[str, Any]


def by_hand_pod(pod: Mapping[str, Any], name: str, words: list[str], secret: str) -> Json:
    """Return a pod to create from one that the gateway has running.

    Args:
        pod: As the API server gives it.
        name: Of the new one; it does not carry the gateway's labels, as it is none of its.
        words: What Dask is called with, in the place of what the gateway says.
        secret: Where the certificate and the key are.
    """
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    spec["volumes"] = [
        {**volume, "secret": {**volume["secret"], "secretName": secret}}
        if "secret" in volume
        else volume
        for volume in spec["volumes"]
    ]
    first, *others = spec["containers"]
    spec["containers"] = [{**first, "args": words}, *others]
    annotations = pod["metadata"].get("annotations", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": spec,
    }


def scheduler_words(words: list[str]) -> list[str]:
    """Return how a scheduler is called by hand: as by the gateway, without the gateway's plug-in.

    Raises:
        ValueError: It was not called as the gateway does.
    """
    plug_in = words.index("--preload")
    kept = words[:plug_in]
    kept[kept.index("--port") + 1] = str(SCHEDULER_PORT)
    return kept


def worker_words(words: list[str], address: str) -> list[str]:
    """Return how a worker is called by hand: as by the gateway, with another scheduler.

    Raises:
        ValueError: It was not called as the gateway does.
    """
    (old,) = (word for word in words if word.startswith("tls://"))
    return [address if word == old else word for word in words]


class PodFloor:
    """The two pods by hand, after the gateway's own."""

    def __init__(self, cluster: KubernetesSystem, pods: Mapping[str, Json], folder: Path) -> None:
        """Make a namespace of its own, which no gateway watches, with a certificate in it.

        Args:
            cluster: A running system.
            pods: Scheduler and worker of a cluster that runs, by their role.
            folder: For the client's copy of the certificate.
        """
        self.cluster = cluster
        self.namespace = cluster.make_namespace()
        self._pods = pods
        self._secret = "floor"  # noqa: S105 - its name
        cert, key = tls.new_keypair("floor")
        self.given = {"cert": str(folder / "floor.crt"), "key": str(folder / "floor.pem")}
        for path, text in zip(self.given.values(), (cert, key), strict=True):
            Path(path).write_bytes(text)
        data = {"dask.crt": cert, "dask.pem": key, "token": b"none"}
        self._create(
            "secrets",
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": self._secret},
                "data": {name: base64.b64encode(text).decode() for name, text in data.items()},
            },
        )

    def _create(self, kind: str, manifest: Json) -> None:
        self.cluster.request("POST", f"/api/v1/namespaces/{self.namespace}/{kind}", manifest)

    def _start(self, role: str, change: Callable[[list[str]], list[str]]) -> str:
        pod = self._pods[role]
        name = f"floor-{role}-{secrets.token_hex(4)}"
        words = change(list(pod["spec"]["containers"][0]["args"]))
        self._create("pods", by_hand_pod(pod, name, words, self._secret))
        return name

    def once(self, asker: Asker) -> float:
        """Start both; returns the seconds until `asker` has its result."""
        began = time.monotonic()
        scheduler = self._start("scheduler", scheduler_words)
        host = self._address(scheduler)
        wait_until(
            lambda: _listens(host),
            DEADLINE_SECONDS,
            "the scheduler by hand",
            poll_seconds=LOOK_SECONDS,
        )
        address = f"tls://{host}:{SCHEDULER_PORT}"
        self._start("worker", lambda words: worker_words(words, address))
        asker.once(address)
        seconds = time.monotonic() - began
        asker.end()
        self.cluster.request("DELETE", f"/api/v1/namespaces/{self.namespace}/pods")
        until_gone(self.cluster, self.namespace)
        return seconds

    def _address(self, name: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        # long before the scheduler listens, so that asking does not lengthen what is measured
        return wait_until(
            lambda: str(self.cluster.request("GET", path)["status"].get("podIP", "")),
            DEADLINE_SECONDS,
            "the pod's address",
            poll_seconds=ADDRESS_SECONDS,
        )


def _listens(host: str) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((host, SCHEDULER_PORT)) == 0


def measure(cluster: KubernetesSystem, stack: ExitStack, runs: int) -> dict[str, list[float]]:
    """Run each kind once to warm up, then `runs` rounds, whose order turns; in seconds."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    gateway = GatewaySystem(folder, kubernetes=cluster)
    stack.callback(gateway.stop)
    gateway.start()
    ours = stack.enter_context(Asker(BY_GATEWAY, of_gateway(gateway, USER), folder / "ours.log"))
    found: dict[str, Json] = {}

    def by_gateway() -> float:
        seconds = ours.once()[-1]
        if not found:
            path = f"/api/v1/namespaces/{gateway.namespace}/pods"
            for pod in cluster.request("GET", path)["items"]:
                found[pod["metadata"]["labels"]["qhub.dev/role"]] = pod
        ours.end()
        until_gone(cluster, gateway.namespace)
        return seconds

    warm = [by_gateway()]
    floor = PodFloor(cluster, found, folder)
    hand = stack.enter_context(Asker(BY_ADDRESS, floor.given, folder / "floor.log"))
    warm.append(floor.once(hand))
    print("warm-up, pods: " + ", ".join(f"{seconds:.2f} s" for seconds in warm), flush=True)
    return in_turn({"ours": by_gateway, "floor": lambda: floor.once(hand)}, runs)
