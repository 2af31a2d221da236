"""Where one instance has its files and its addresses."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

SLOTS = 4
LOCKS = Path("/run/lock")
PODS = IPv4Network("198.18.128.0/17")  # 198.18.0.0/15 is set aside for tests (RFC 2544)
SERVICES = IPv4Network("198.19.0.0/17")
SLOT_BITS = 2
NODE = "node1"
API_PORT = 6443
KUBELET_PORT = 10250


@dataclass(frozen=True)
class Addresses:
    """The addresses of one instance. Those of different slots do not overlap.

    Attributes:
        slot: From 0; so many instances can run at once on a machine.
    """

    slot: int = 0

    @property
    def _block(self) -> IPv4Network:
        return list(PODS.subnets(SLOT_BITS))[self.slot]

    @property
    def pods(self) -> IPv4Network:
        """Addresses of pods, 4096 of them, and (as the first) of the node."""
        return next(self._block.subnets(1))

    @property
    def services(self) -> IPv4Network:
        """Addresses of services."""
        return list(SERVICES.subnets(SLOT_BITS))[self.slot]

    @property
    def node(self) -> IPv4Address:
        """The node's address, where the API server and the kubelet listen; pods' gateway."""
        return self.pods[1]

    @property
    def _link(self) -> IPv4Network:
        return IPv4Network((self._block[self._block.num_addresses // 2], 30))

    @property
    def host(self) -> IPv4Address:
        """This machine's own address on the link: what listens there, pods can reach."""
        return self._link[1]

    @property
    def gateway(self) -> IPv4Address:
        """The other end of the link: where this machine sends what is for pods and services."""
        return self._link[2]

    @property
    def fake_pods(self) -> IPv4Network:
        """Addresses that pods on fake nodes say they have."""
        return list(self._block.subnets(2))[3]

    @property
    def link(self) -> str:
        """The name of this machine's end of the link."""
        return f"qkube{self.slot}"

    @property
    def link_prefix(self) -> int:
        """The length of the link's prefix."""
        return self._link.prefixlen

    @property
    def api(self) -> IPv4Address:
        """The API server's address among the services (`kubernetes.default`)."""
        return self.services[1]

    @property
    def dns(self) -> IPv4Address:
        """What pods have as their name server; nothing answers there."""
        return self.services[10]


class SlotLock:
    """The right to use a slot, held by this process until `release` or its end."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.slot = 0

    def take(self) -> bool:
        """Take the first slot that nobody holds; False when all are held."""
        for slot in range(SLOTS):
            path = LOCKS / f"qhub-kubernetes-{slot}"
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._descriptor, self.slot = descriptor, slot
            return True
        return False

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@dataclass(frozen=True)
class Places:
    """The paths of one instance, all in its run folder.

    Attributes:
        folder: The run folder; its name is also the name of the instance's cgroups.
        addresses: Its addresses.
        kubernetes: Where the programs of Kubernetes are.
        etcd: Where etcd is.
    """

    folder: Path
    addresses: Addresses
    kubernetes: Path
    etcd: Path

    @property
    def api_url(self) -> str:
        """The API server's address."""
        return f"https://{self.addresses.node}:{API_PORT}"

    @property
    def certificates(self) -> Path:
        """Keys and certificates, for root only."""
        return self.folder / "pki"

    @property
    def kubeconfigs(self) -> Path:
        """Kubeconfigs; each file for its own reader."""
        return self.folder / "kubeconfigs"

    @property
    def configuration(self) -> Path:
        """Configuration files of the daemons."""
        return self.folder / "etc"

    @property
    def logs(self) -> Path:
        """A log for each daemon."""
        return self.folder / "log"

    @property
    def run(self) -> Path:
        """What the daemons see as /run."""
        return self.folder / "run"

    @property
    def containerd_socket(self) -> Path:
        """Where the daemons find containerd; at this path only inside their mount namespace."""
        return Path("/run/containerd/containerd.sock")

    @property
    def containerd_root(self) -> Path:
        """containerd's images and containers."""
        return self.folder / "containerd"
