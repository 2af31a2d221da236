"""The daemons of one instance: their commands, and when they serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..processes import Daemon, socket_accepts
from . import kwok, room
from .api import Api, ApiError
from .cgroups import InstanceCgroups
from .packages import SEARCH_PATH, program
from .places import API_PORT, KUBELET_PORT, NODE, Places

HOLDER = "namespaces"
ETCD_PORT = 2379
LISTENING = "0A"  # proc_net_tcp(5), st


def holder(places: Places, cgroups: InstanceCgroups, layers: Sequence[tuple[Path, Path]]) -> Daemon:
    """The process that holds the namespaces; all other daemons run in them."""
    argv = cgroups.enter(room.holder(places, layers))
    return _daemon(places, HOLDER, argv, room.ready_file(places).exists)


def daemons(places: Places, cgroups: InstanceCgroups, pid: int, api: Api) -> dict[str, Daemon]:
    """All other daemons by name, in the order in which they are started.

    Args:
        places: Paths and addresses.
        cgroups: Where they run.
        pid: The process that holds the namespaces.
        api: How the API server is asked.
    """

    def port(number: int) -> Callable[[], bool]:
        return lambda: listens(pid, number)

    socket = places.run / "containerd" / "containerd.sock"
    containerd = [program("containerd"), "--config", str(places.configuration / "containerd.toml")]
    bin_ = places.kubernetes
    commands: dict[str, tuple[list[str], Callable[[], bool]]] = {
        "etcd": (etcd(places), port(ETCD_PORT)),
        "containerd": (containerd, lambda: socket_accepts(socket)),
        "kube-apiserver": (api_server(places), lambda: ready(api)),
        "kube-controller-manager": (controller_manager(places), port(10257)),
        "kube-scheduler": (
            [
                f"{bin_}/kube-scheduler",
                f"--kubeconfig={places.kubeconfigs}/kube-scheduler.yaml",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--kube-api-qps=1000",  # thousands of fake pods are bound in seconds
                "--kube-api-burst=1000",
                "--profiling=false",
            ],
            port(10259),
        ),
        "kube-proxy": (
            [
                f"{bin_}/kube-proxy",
                f"--config={places.configuration}/kube-proxy.json",
                f"--hostname-override={NODE}",
            ],
            port(10256),
        ),
        "kubelet": (
            [
                f"{bin_}/kubelet",
                f"--config={places.configuration}/kubelet.json",
                f"--kubeconfig={places.kubeconfigs}/kubelet.yaml",
                f"--hostname-override={NODE}",
                f"--node-ip={places.addresses.node}",
            ],
            lambda: listens(pid, KUBELET_PORT) and node_ready(api),
        ),
    }
    return {
        name: _daemon(places, name, cgroups.enter(room.enter(pid, argv)), serves)
        for name, (argv, serves) in commands.items()
    }


def kwok_daemon(places: Places, cgroups: InstanceCgroups, pid: int, program: str) -> Daemon:
    """The kubelets of fake nodes."""
    argv = cgroups.enter(room.enter(pid, kwok.command(places, program)))
    return _daemon(places, "kwok", argv, lambda: listens(pid, kwok.PORT))


def _daemon(places: Places, name: str, argv: list[str], serves: Callable[[], bool]) -> Daemon:
    return Daemon(
        name=name,
        argv=argv,
        log=places.logs / name,
        record=places.folder / "pids" / f"{name}.json",
        ready=serves,
        environment={"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "HOME": str(places.folder)},
        deadline_seconds=60,
    )


def etcd(places: Places) -> list[str]:
    """The command of etcd: it never waits for the disk, as its data is thrown away."""
    url = f"http://127.0.0.1:{ETCD_PORT}"  # the loopback of the namespace: no pod gets there
    return [
        f"{places.etcd}/etcd",
        f"--data-dir={places.folder}/etcd",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--heartbeat-interval=50",
        "--election-timeout=500",
        "--auto-compaction-retention=0",
        "--log-level=warn",
    ]


def api_server(places: Places) -> list[str]:
    """The command of the API server: RBAC, node authorization, the default admission plugins."""
    pki, addresses = places.certificates, places.addresses
    return [
        f"{places.kubernetes}/kube-apiserver",
        f"--bind-address={addresses.node}",
        f"--advertise-address={addresses.node}",
        f"--secure-port={API_PORT}",
        f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
        f"--service-cluster-ip-range={addresses.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/kube-apiserver.crt",
        f"--tls-private-key-file={pki}/kube-apiserver.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--kubelet-client-certificate={pki}/apiserver-to-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-to-kubelet.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        "--profiling=false",
    ]


def controller_manager(places: Places) -> list[str]:
    """The command of the controllers, each with a service account of its own."""
    pki = places.certificates
    return [
        f"{places.kubernetes}/kube-controller-manager",
        f"--kubeconfig={places.kubeconfigs}/kube-controller-manager.yaml",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--profiling=false",
    ]


def listens(pid: int, port: int) -> bool:
    """Whether something listens on this TCP port in the network namespace of process `pid`."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # 0: 0100007F:094B 00000000:0000 0A …
            _, local, _, state = line.split()[:4]
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def ready(api: Api) -> bool:
    """Whether the API server says so."""
    try:
        return bool(api.request("GET", "/readyz", timeout_seconds=5) == "ok")
    except ApiError:
        return False


def node_ready(api: Api) -> bool:
    """Whether the node that runs pods is Ready, as far as the API server knows."""
    try:
        node = api.request("GET", f"/api/v1/nodes/{NODE}", timeout_seconds=5)
    except ApiError:
        return False
    return is_ready(node)


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether a node's condition Ready is true."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
