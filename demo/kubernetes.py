"""The demo on a real Kubernetes cluster of one node that it brings up on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tests.systems.dask_service import DaskService, on_kubernetes
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.kubernetes import sweep as sweep_kubernetes
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder
from tests.systems.processes import end_processes
from tests.systems.slurm import HUB_USER
from tests.systems.userenv import user_environment

from .entrance import Entrance, SharedPassword
from .identities import Identity, of_member
from .local import MARK, processes_of
from .stage import DASK_HINT, Stage, clusters_hint, let_it_end, need_root, running, say

HERE = Path(__file__).resolve().parent
NAMESPACE = "people"
GPUS = {"nvidia.com/gpu": "2"}
GPU_TYPE = "nvidia.com/gpu.product=a100"
GROUP, GROUP_NUMBER = "research", 30100
IDENTITIES: dict[str, Identity] = {
    "alice": of_member("alice", 30001, GROUP, GROUP_NUMBER, access="rw"),
    "bob": of_member("bob", 30002, GROUP, GROUP_NUMBER, access="ro"),
}
# the hub's groups, for who is offered what
GROUPS = {GROUP: ["alice"]}
# what the node has and what is asked of it are seen, as the hub has the right to list nodes
SEEN = {"see_nodes": True}
LINES = """
c.KubernetesBackend.availability_from = "nodes"
c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName": "homes"}}
"""
SHARED = """
c.KubernetesBackend.shared_volume = {"persistentVolumeClaim": {"claimName": "shared"}}
"""


@contextlib.contextmanager
def kubernetes_stage(port: int | None, entrance: Entrance | None = None) -> Iterator[Stage]:
    """Bring up Kubernetes and a hub on it; at the end stop servers, hub and cluster."""
    need_root("Kubernetes", "kubernetes")
    user_environment(say)
    with cluster_running() as cluster:
        if entrance is None:
            entrance = SharedPassword(tuple(IDENTITIES), GROUPS, IDENTITIES)
            _make_storage(cluster, cluster.run_folder / "storage")
        else:
            offer_folder(cluster, NAMESPACE, "homes", entrance.places["homes"])
            offer_folder(cluster, NAMESPACE, "shared", entrance.places["shared"])
        profiles = offered(cluster.run_folder, "kubernetes.yaml", entrance)
        hub = KubernetesHub(
            cluster,
            namespace=NAMESPACE,
            profiles=f"c.QHubSpawner.profiles = {str(profiles)!r}\n",
            config=LINES + SHARED + entrance.lines(cluster.run_folder / "who", HUB_USER),
            port=port,
            environment={MARK: str(cluster.run_folder)},
            rights=SEEN,
        )
        lines = on_kubernetes(cluster, NAMESPACE, cluster.run_folder, HUB_USER)
        DaskService(
            cluster.run_folder / "dask",
            backends=("kubernetes",),
            profiles=profiles,
            python=user_environment() / "bin" / "python",  # at the same place in the image
            host=cluster.host_address,
            account=HUB_USER,
            config=lines + LINES + SHARED,
            environment={MARK: str(cluster.run_folder)},
        ).join(hub)
        entrance.opened(hub)
        with running(hub):
            yield Stage(
                hub=hub,
                entrance=entrance,
                people=entrance.people,
                password=entrance.password,
                check_profiles=("gpu",),
                # there are two GPUs, of which the server has one
                cluster_profiles={"gpu": "small"},
                hints=(
                    "Log in as alice, and in a private window as bob: each is offered their own.",
                    *entrance.hints,
                    DASK_HINT,
                    clusters_hint(hub.url),
                    watch_hint(cluster),
                    "Delete one with kubectl, and see what its person is told.",
                    f"The list is {profiles}: change it and reload the page.",
                ),
                remains=f"the cluster and {cluster.run_folder}, homes included",
            )


@contextlib.contextmanager
def cluster_running() -> Iterator[KubernetesSystem]:
    """Bring up a cluster whose node has two GPUs, with a namespace for people's servers."""
    for folder in sweep_kubernetes():
        end_processes(processes_of(folder))
    say("Starting Kubernetes: etcd, API server, controllers, scheduler, containerd, kubelet …")
    cluster = KubernetesSystem(announce=say)
    cluster.start()
    try:
        cluster.extend_node(GPUS)
        cluster.kubectl("label", "node", cluster.node, GPU_TYPE)
        cluster.make_namespace(NAMESPACE, labels=RESTRICTED)
        say(f"Kubernetes is ready after {cluster.seconds_to_ready:.1f} s …")
        yield cluster
    finally:
        let_it_end()
        cluster.stop()


def offered(folder: Path, name: str, entrance: Entrance) -> Path:
    """Copy a list of profiles to where it may be changed; returns the copy."""
    profiles = folder / "profiles.yaml"
    profiles.write_text(entrance.offered((HERE / name).read_text("utf-8")))
    profiles.chmod(0o644)
    return profiles


def watch_hint(cluster: KubernetesSystem) -> str:
    """Say how to look at the pods."""
    kubectl = cluster.places.kubernetes / "kubectl"
    return f"Watch the pods: KUBECONFIG={cluster.kubeconfig} {kubectl} get pods -n {NAMESPACE} -w"


def _make_storage(cluster: KubernetesSystem, folder: Path) -> None:
    """Make what a file server would have: a home for everybody, a folder for each group."""
    for kind in ("homes", "shared"):
        (folder / kind).mkdir(parents=True)
        offer_folder(cluster, NAMESPACE, kind, folder / kind)
    for name, identity in IDENTITIES.items():
        home = folder / "homes" / name
        home.mkdir(mode=0o700)
        os.chown(home, identity["uid"], identity["gid"])
    shared = folder / "shared" / GROUP
    shared.mkdir()
    os.chown(shared, 0, GROUP_NUMBER)
    shared.chmod(0o2770)
