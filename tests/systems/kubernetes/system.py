"""A real one-node Kubernetes on this host, started in seconds and ended without a trace."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from ..drilled import Drilled
from ..processes import (
    ProcessId,
    SystemUnavailableError,
    wait_until,
)
from . import configuration, kwok, room
from .api import Api
from .binaries import ETCD, KUBERNETES, KWOK
from .cgroups import InstanceCgroups
from .clients import Clients
from .daemons import HOLDER, daemons, holder, is_ready, kwok_daemon
from .images import Store, store
from .instances import PREFIX, remove_folder, sweep
from .packages import CNI_PLUGINS, install
from .places import Addresses, Places, SlotLock

Announce = Callable[[str], None]

KWOK_CALLS = 8


class KubernetesSystem(Drilled, Clients):
    """API server, controllers, scheduler, etcd, and a node that runs pods.

    The daemons and pods have namespaces and cgroups of their own; this machine reaches pods,
    services and the API server over a virtual cable, and pods reach what listens on
    `host_address`. Up to four may run at once. Use it as a context manager, or `start` and `stop`
    it. Needs root.

    Args:
        keep: Leave the run folder with its logs behind when it stops.
        by_hand: Recorded for `python -m tests.systems.kubernetes down`.
        announce: Told before anything that takes long; None prints it.

    Attributes:
        seconds_to_ready: How long `start` took, without what is only built once.
    """

    # an API server stops listening at once, and then waits a minute for its clients to go
    stop_seconds = 5.0

    def __init__(
        self, *, keep: bool = False, by_hand: bool = False, announce: Announce | None = None
    ) -> None:
        Drilled.__init__(self)
        Clients.__init__(self)
        self.seconds_to_ready = 0.0
        self._keep = keep
        self._by_hand = by_hand
        self._announce = announce or _say
        self._lock = SlotLock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- start and stop

    def start(self, *, slot_seconds: float = 600) -> None:
        """Install and build what is absent, start everything; return when pods can run.

        Args:
            slot_seconds: How long to wait when so many run that there is no slot for another.

        Raises:
            SystemUnavailableError: This machine cannot run it.
            NotReadyError: A daemon ended or was late; with its command and the end of its log.
        """
        if self.running:
            message = "this Kubernetes system has been started already"
            raise RuntimeError(message)
        if os.geteuid() != 0:
            message = "the Kubernetes test system needs root: it runs pods as their users"
            raise SystemUnavailableError(message)
        install()
        programs = KUBERNETES.ensure(self._announce), ETCD.ensure(self._announce)
        images = store(self._announce)
        if not self._lock.take():
            self._announce("Waiting for another Kubernetes test system on this machine to end.")
            wait_until(self._lock.take, slot_seconds, "a free slot", poll_seconds=0.5)
        began = time.monotonic()
        try:
            sweep()
            self._lay_out(*programs)
            self._start_daemons(images)
            self._wait_usable()
        except BaseException:
            self._abandon()
            raise
        self.seconds_to_ready = time.monotonic() - began

    def stop(self, *, keep: bool | None = None) -> None:
        """End all its daemons and pods, and remove the run folder (unless kept). May be repeated.

        Raises:
            NotReadyError: Something survives SIGKILL.
        """
        if self._places is None:
            return
        keep = self._keep if keep is None else keep
        try:
            for daemon in reversed(self._daemons.values()):
                daemon.signal(signal.SIGKILL)
            for daemon in self._daemons.values():
                daemon.end(grace_seconds=0)
            if self._cgroups is not None:
                self._cgroups.remove()
        finally:
            room.disconnect(self._places.addresses.link)
        if keep:
            (self.run_folder / "kept").touch()
        else:
            remove_folder(self.run_folder)
        self._daemons = {}
        self._places = None
        self._api = None
        self._lock.release()

    def _abandon(self) -> None:
        if self.running:
            # told on stderr: pytest shows it beside the error
            print(f"Kubernetes logs are kept in {self.run_folder}/log", file=sys.stderr)
            self.stop(keep=True)
        self._lock.release()

    def _lay_out(self, kubernetes: Path, etcd: Path) -> None:
        # here, so that building (in CI long before a test) needs nothing but Python
        from . import certificates

        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        folder.chmod(0o755)
        addresses = Addresses(self._lock.slot)
        self._places = places = Places(folder, addresses, kubernetes, etcd)
        owner = ProcessId.of(os.getpid())
        if owner is not None:
            owner.write(folder / "owner.json", by_hand=self._by_hand, link=addresses.link)
        self._cgroups = InstanceCgroups(folder.name)
        self._cgroups.create()
        for path in (places.certificates, places.kubeconfigs, places.logs, folder / "pids"):
            path.mkdir(mode=0o700)
        (places.configuration / "cni").mkdir(parents=True)
        certificates.write_all(places)
        files = {
            "containerd.toml": configuration.containerd_toml(places, CNI_PLUGINS),
            "cni/10-qhub.conflist": configuration.cni_conflist(places),
            "kubelet.json": configuration.kubelet_config(places),
            "kube-proxy.json": configuration.kube_proxy_config(places),
            "resolv.conf": "",
        }
        for name, text in files.items():
            (places.configuration / name).write_text(text)
        room.make_folders(places)

    def _start_daemons(self, images: Store) -> None:
        places, cgroups = self.places, self._cgroups
        assert cgroups is not None
        images.lay_out(places.containerd_root)
        layers = [(images.root / each, places.containerd_root / each) for each in images.layers]
        first = holder(places, cgroups, layers)
        self._daemons = {HOLDER: first}
        first.launch()
        first.wait_ready()
        room.connect(places, first.pid)
        self._api = Api(places.api_url, places.certificates)
        self._daemons |= daemons(places, cgroups, first.pid, self._api)
        for name in ("etcd", "containerd"):
            self.daemon(name).launch()
        self.daemon("etcd").wait_ready()
        self.start_daemon("kube-apiserver")
        rest = [daemon for daemon in self._daemons.values() if not daemon.running]
        for daemon in rest:
            daemon.launch()
        for daemon in (self.daemon("containerd"), *rest):
            daemon.wait_ready()

    def _wait_usable(self) -> None:
        """Wait until a pod can be made in the namespace `default`."""
        self.request("POST", "/api/v1/namespaces/kube-system/services", self._dns())
        self._wait_for_account("default")

    def _dns(self) -> dict[str, object]:
        return configuration.dns_service(self.places)

    # ---- drills

    def start_kwok(self, nodes: int, capacity: Mapping[str, str] | None = None) -> None:
        """Add fake nodes `fake-0`, `fake-1`, … (see kwok.py), and wait until they are Ready.

        Args:
            nodes: How many; each takes 110 pods.
            capacity: Resources of each, beside or instead of `kwok.CAPACITY`.
        """
        places, cgroups = self.places, self._cgroups
        assert cgroups is not None
        if "kwok" not in self._daemons:
            program = str(KWOK.ensure(self._announce) / "kwok")
            self._daemons["kwok"] = kwok_daemon(places, cgroups, self.daemon(HOLDER).pid, program)
        self.start_daemon("kwok")

        def make(number: int) -> None:
            node = kwok.node(f"fake-{number}", capacity)
            self.request("POST", "/api/v1/nodes", node)

        with ThreadPoolExecutor(KWOK_CALLS) as pool:  # kubectl makes one after the other
            list(pool.map(make, range(nodes)))
        deadline = 30 + nodes / 10
        wait_until(lambda: self._fake_nodes_ready(nodes), deadline, f"{nodes} fake nodes")

    def stop_kwok(self) -> None:
        """Take the fake nodes away, and their pods at once."""
        pods = self.request("GET", "/api/v1/pods")["items"]
        for pod in pods:
            if pod["spec"].get("nodeName", "").startswith("fake-"):
                meta = pod["metadata"]
                path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
                self.request("DELETE", f"{path}?gracePeriodSeconds=0")
        self.request("DELETE", "/api/v1/nodes?labelSelector=type%3Dkwok")
        self.stop_daemon("kwok")

    def _fake_nodes_ready(self, count: int) -> bool:
        nodes = self.request("GET", "/api/v1/nodes?labelSelector=type%3Dkwok")["items"]
        return sum(is_ready(node) for node in nodes) >= count


def _say(message: str) -> None:
    print(message, flush=True)
