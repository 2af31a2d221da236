"""What drills on Kubernetes share: a hub behind a faulty proxy, and how each drill ends.

A drill breaks something, and ends with `assert_settled`: every server that should live is ready in
the hub, its pod runs and answers through the proxy, and no pod of the hub is without an owner.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.drilling import PEOPLE, HubDrill, Server
from tests.systems import stand_in
from tests.systems.kubernetes import KubernetesSystem
from tests.systems.kubernetes_faults import FaultyApi
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder
from tests.systems.slurm import HUB_USER

CLIENTS = ("kube-scheduler", "kube-controller-manager", "kubelet")
# "nowhere" asks for a node with a label that none has until it is opened: pods of it wait.
PROFILES = """
c.Spawner.cmd = ["python3", "-I", "{folder}/stand_in.py"]
c.KubeSpawner.volumes = [{{"name": "drill", "persistentVolumeClaim": {{"claimName": "drill"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "drill", "mountPath": "{folder}"}}]
c.LocalBackend.home = "{folder}/homes"
def profile(slug, variables=None, walltime="1h", local=False, cpu=1, cpu_request="1m", **kubernetes):
    block = {{"cpu_request": cpu_request, "memory_request": "16 MiB", **kubernetes}}
    return {{"slug": slug, "display_name": slug, "cpu": cpu, "memory": "64 MiB",
            "walltime": walltime, "kubernetes": block, **({{"local": {{}}}} if local else {{}}),
            "environment": {{"variables": variables or {{}}}}}}
c.QHubSpawner.profiles = [
    profile("many"),
    profile("nowhere", node_selector={{"drill": "{hub_id}"}}),
    profile("held", variables={{"STAND_IN_HOLD": "{folder}/hold"}}),
    profile("brief", walltime="3s"),
    profile("imageless", image="qhub.test/none:1", image_pull_policy="IfNotPresent"),
    profile("too-big", cpu=100, cpu_request=100),
    profile("two-places", local=True),
    profile("too-big-or-local", local=True, cpu=100, cpu_request=100),
]
c.KubernetesBackend.hub_id = "{hub_id}"
c.KubernetesBackend.request_timeout = 5
c.KubernetesBackend.stuck_patience = 1
c.KubernetesBackend.capacity_patience = 1
c.KubernetesBackend.stop_timeout = 20
c.QHubSpawner.stop_grace = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.1, "slow_stop_timeout": 0.1}}
c.JupyterHub.init_spawners_timeout = 1
"""


@dataclass
class KubernetesDrill(HubDrill):
    """A hub on a cluster, with what a drill does to it.

    Attributes:
        cluster: The cluster.
        hub: The hub, as an account of its own.
        faults: What stands between the two.
        hub_id: What its pods carry.
        folder: Mounted into every pod at the same path.
    """

    cluster: KubernetesSystem
    hub: KubernetesHub
    faults: FaultyApi
    hub_id: str
    folder: Path

    # ---- starting ----

    @property
    def hold(self) -> Path:
        """While it exists, servers of the profile "held" do not listen."""
        return self.folder / "hold"

    def start_one_of_each(self) -> tuple[Server, Server, Server]:
        """Return a server that runs, one whose pod waits, and one that does not listen yet."""
        self.hold.touch()
        waiting, silent = Server("alice", "waiting"), Server("bob", "silent")
        self.request(waiting, "nowhere")
        self.request(silent, "held")
        (running,) = self.start("running")
        phases = ["Pending", "Running", "Running"]
        self.wait(
            lambda: sorted(each["status"]["phase"] for each in self.pods().values()) == phases,
            60,
            "one pod of each",
        )
        return running, waiting, silent

    # ---- looking ----

    def record(self, server: Server) -> dict[str, Any]:
        """What the hub has on record of a server's pod."""
        return (self.model(server).get("state") or {}).get("qhub") or {}

    def pod_path(self, server: Server) -> str:
        """The path of a server's pod in the API."""
        name = self.wait(lambda: self.record(server).get("pod"), 20, f"a pod of {server}")
        return f"/api/v1/namespaces/{self.hub.namespace}/pods/{name}"

    def pods(self) -> dict[str, Mapping[str, Any]]:
        """This hub's pods by uid, but for those on their way out and those that are over."""
        return {
            pod["metadata"]["uid"]: pod
            for pod in self.hub.pods().values()
            if pod["metadata"]["labels"].get("qhub.dev/hub") == self.hub_id
            and "deletionTimestamp" not in pod["metadata"]
            and pod["status"]["phase"] in {"Pending", "Running"}
        }

    def owned(self) -> dict[Server, str]:
        """The servers that the hub holds for running or starting, with their pods' uids."""
        found = {}
        for person in PEOPLE:
            model = self.hub.api("GET", f"users/{person}?include_stopped_servers=1").json
            for name, server in model["servers"].items():
                state = (server.get("state") or {}).get("qhub") or {}
                if state.get("uid") and (server["ready"] or server["pending"]):
                    found[Server(person, name)] = str(state["uid"])
        return found

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Within the block the node takes pods of the profile "nowhere"."""
        node = self.cluster.node
        self.cluster.kubectl("label", "node", node, f"drill={self.hub_id}", "--overwrite")
        try:
            yield
        finally:
            self.cluster.kubectl("label", "node", node, "drill-")


# ---- how a drill ends ---------------------------------------------------------------------------


def assert_nothing_lost(
    drill: KubernetesDrill, alive: Iterable[Server], seconds: float = 60
) -> None:
    """Every one of `alive` is ready, its pod is the recorded one and runs, and it answers."""
    for server in alive:

        def well(server: Server = server) -> bool:
            record, pods = drill.record(server), drill.pods()
            pod = pods.get(str(record.get("uid")))
            return bool(
                drill.model(server).get("ready")
                and pod is not None
                and pod["status"]["phase"] == "Running"
                and drill.ask(server).get("host") == pod["metadata"]["name"]
            )

        drill.wait(well, seconds, f"{server} ready, running and answering")


def assert_no_orphans(drill: KubernetesDrill, seconds: float = 60) -> None:
    """Every pod of the hub belongs to a server that the hub holds for running or starting."""
    drill.wait(
        lambda: set(drill.pods()) <= set(drill.owned().values()),
        seconds,
        f"pods without an owner gone (pods {list(drill.pods())}, owned {drill.owned()})",
    )


def assert_settled(drill: KubernetesDrill, alive: Collection[Server] = ()) -> None:
    """`alive` and nothing else lives, in the hub and in Kubernetes."""
    assert_nothing_lost(drill, alive)
    assert_no_orphans(drill)
    owned = drill.owned()
    assert set(owned) == set(alive)
    assert sorted(drill.pods()) == sorted(owned.values())


# ---- making them --------------------------------------------------------------------------------


def make_drill(
    cluster: KubernetesSystem,
    hub_id: str,
    *,
    namespace: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> KubernetesDrill:
    """Set up a hub with stand-in servers behind a faulty proxy, and start it."""
    folder = Path(tempfile.mkdtemp(prefix=f"qhub-{hub_id}-"))
    folder.chmod(0o755)
    shutil.copy(Path(stand_in.__file__), folder / "stand_in.py")
    (folder / "stand_in.py").chmod(0o644)
    if namespace is None:
        namespace = cluster.make_namespace(labels=RESTRICTED)
        offer_folder(cluster, namespace, "drill", folder)
    hub = KubernetesHub(
        cluster,
        profiles=PROFILES.format(folder=folder, hub_id=hub_id),
        namespace=namespace,
        environment=environment,
    )
    (folder / "homes").mkdir(mode=0o700)
    shutil.chown(folder / "homes", HUB_USER, HUB_USER)  # local servers are the hub's processes
    faults = FaultyApi(cluster.api_url, cluster.ca)
    faults.lend(hub.run_folder / "kubeconfig")
    drill = KubernetesDrill(cluster, hub, faults, hub_id, folder)
    try:
        hub.start()
        for person in PEOPLE:
            hub.add_user(person)
    except BaseException:
        end(drill)
        raise
    return drill


def clean(drill: KubernetesDrill) -> None:
    """Stop all servers of a drill's hub, and have no pod of it left.

    Raises:
        AssertionError: Something cannot be stopped; the hub is then of no more use.
    """
    drill.hold.unlink(missing_ok=True)
    for person in PEOPLE:
        model = drill.hub.api("GET", f"users/{person}").json
        for name in model["servers"]:
            drill.hub.stop_server(person, name)
    drill.wait(lambda: not drill.owned() and not drill.pods(), 60, "all servers stopped")


def end(drill: KubernetesDrill) -> None:
    """End the hub, its proxy and its pods."""
    drill.hub.stop()
    drill.faults.close()
    drill.hub.tidy()
    shutil.rmtree(drill.folder, ignore_errors=True)


@contextlib.contextmanager
def down(cluster: KubernetesSystem, daemon: str) -> Iterator[None]:
    """A daemon is stopped within the block, and serves again after it."""
    cluster.stop_daemon(daemon)
    try:
        yield
    finally:
        start_again(cluster, daemon)


def start_again(cluster: KubernetesSystem, daemon: str) -> None:
    """Start a daemon, and the API server's clients with it.

    They try again after pauses of up to a minute, for which no drill has to wait.
    """
    cluster.start_daemon(daemon)
    for client in CLIENTS if daemon in {"kube-apiserver", "etcd"} else ():
        cluster.kill_daemon(client)
        cluster.daemon(client).launch()
    for client in CLIENTS if daemon in {"kube-apiserver", "etcd"} else ():
        cluster.daemon(client).wait_ready()


@contextlib.contextmanager
def paused(cluster: KubernetesSystem, daemon: str) -> Iterator[None]:
    """A daemon's clients connect and get no answer, within the block."""
    cluster.pause(daemon)
    try:
        yield
    finally:
        cluster.resume(daemon)
