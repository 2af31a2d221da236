"""Dask clusters on the real Kubernetes, from the stock client of dask-gateway."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.systems.dask_client import StayingClient, run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.kubernetes_hub import RESTRICTED, offer_folder, pods_in
from tests.systems.processes import wait_until

pytestmark = pytest.mark.timeout(300)

Pods = Callable[[], dict[str, dict[str, Any]]]

LAB = 22001
ALICE = {
    "version": 1,
    "uid": 12001,
    "gid": 12001,
    "gids": [LAB],
    "home": "/home/alice",
    "groups": [{"path": "/physics/lab", "name": "lab", "gid": LAB, "access": "rw"}],
}
CONFIG = """
c.KubernetesBackend.home_volume = {"persistentVolumeClaim": {"claimName": "homes"}}
c.KubernetesBackend.shared_volume = {"persistentVolumeClaim": {"claimName": "shared"}}
c.KubernetesBackend.stuck_patience = 2
"""
BLOCK = {"cpu_request": "10m", "memory_request": "64 MiB"}
NO_IMAGE = {**BLOCK, "image": "qhub.test/none:1", "image_pull_policy": "IfNotPresent"}
NO_DASK = {**BLOCK, "container": {"env": [{"name": "PATH", "value": "/usr/bin:/bin"}]}}
PROFILES = [
    {"slug": slug, "display_name": slug, "cpu": 1, "memory": "400 MiB", "kubernetes": block}
    for slug, block in (("small", BLOCK), ("imageless", NO_IMAGE), ("bare", NO_DASK))
]
NEW = """
cluster = client.new_cluster(shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
answer = cluster.name
"""
SCALE = """
cluster.scale(values["workers"])
dask.wait_for_workers(values["workers"], timeout=150)
answer = sum(dask.gather(dask.map(lambda x: x * x, range(20), pure=False)))
"""
SECONDS = 120
QUOTA = "pods"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Homes and shared folders, as a file server holds them."""
    made = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    made.chmod(0o755)
    for name, owner, group, mode in (
        ("homes/alice", ALICE["uid"], ALICE["gid"], 0o700),
        ("shared/physics/lab", 0, LAB, 0o2770),
    ):
        path = made / name
        path.mkdir(parents=True)
        os.chown(path, owner, group)
        path.chmod(mode)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def gateway(kubernetes: Any, folder: Path) -> Iterator[GatewaySystem]:
    """A gateway with an account and a restricted namespace of its own."""
    namespace = kubernetes.make_namespace(labels=RESTRICTED)
    for name in ("homes", "shared"):
        offer_folder(kubernetes, namespace, name, folder / name)
    made = GatewaySystem(
        folder,
        kubernetes=kubernetes,
        config=CONFIG,
        profiles=PROFILES,
        identities={"alice": ALICE},
        namespace=namespace,
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(gateway: GatewaySystem) -> Iterator[StayingClient]:
    """Alice's notebook."""
    made = StayingClient(gateway)
    yield made
    made.close()


@pytest.fixture
def pods(kubernetes: Any, gateway: GatewaySystem) -> Iterator[Pods]:
    """Ask for the pods of the namespace; after the test there is none, and no secret."""

    def pods() -> dict[str, dict[str, Any]]:
        return pods_in(kubernetes, gateway.namespace)

    yield pods
    for name in gateway.api("GET", "clusters/", "alice")[1]:
        gateway.api("DELETE", f"clusters/{name}", "alice")
    wait_until(lambda: not pods(), SECONDS, "the end of every pod")
    wait_until(lambda: not secrets_in(kubernetes, gateway), SECONDS, "the end of every secret")


def secrets_in(kubernetes: Any, gateway: GatewaySystem) -> list[dict[str, Any]]:
    """Return the secrets of the namespace."""
    answer = kubernetes.request("GET", f"/api/v1/namespaces/{gateway.namespace}/secrets")
    found: list[dict[str, Any]] = answer["items"]
    return found


def roles(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the pods are that are not on their way out, sorted."""
    return sorted(
        pod["metadata"]["labels"]["qhub.dev/role"]
        for pod in found.values()
        if "deletionTimestamp" not in pod["metadata"]
    )


def test_a_cluster(
    kubernetes: Any, gateway: GatewaySystem, client: StayingClient, pods: Pods
) -> None:
    """New, computed on, exactly as small as asked for, then as large as its work; gone."""
    name = client.ask(NEW)
    assert client.ask(SCALE, workers=3) == 2470
    assert roles(pods()) == ["scheduler", "worker", "worker", "worker"]
    assert {pod["metadata"]["labels"]["qhub.dev/cluster"] for pod in pods().values()} == {name}
    # its secret goes with its scheduler
    (secret,) = secrets_in(kubernetes, gateway)
    (owner,) = secret["metadata"]["ownerReferences"]
    assert pods()[owner["name"]]["metadata"]["labels"]["qhub.dev/role"] == "scheduler"
    policies = f"/apis/networking.k8s.io/v1/namespaces/{gateway.namespace}/networkpolicies"
    assert secret["metadata"]["name"] in {
        each["metadata"]["name"] for each in kubernetes.request("GET", policies)["items"]
    }
    before = set(pods())
    client.ask("cluster.scale(1)")
    wait_until(lambda: len(pods()) == 2, SECONDS, "two pods")
    assert set(pods()) < before
    adapt = """
cluster.adapt(minimum=0, maximum=2)
answer = dask.submit(lambda: 6 * 7, pure=False).result(timeout=100)
"""
    assert client.ask(adapt) == 42
    wait_until(lambda: roles(pods()) == ["scheduler"], SECONDS, "a cluster without workers")
    assert client.ask("answer = dask.submit(lambda: 8 * 9, pure=False).result(timeout=100)") == 72
    client.ask("cluster.shutdown()")


def test_as_the_person(
    gateway: GatewaySystem, client: StayingClient, pods: Pods, folder: Path
) -> None:
    """Their numbers, home and shared folders; nothing secret in the pods; a log for its owner."""
    name = client.ask(NEW)
    client.ask(SCALE, workers=1)
    look = """
def look():
    import getpass, os, pathlib
    home = pathlib.Path.home()
    (home / "made").write_text("by a worker")
    pathlib.Path("/shared/physics/lab/made").write_text("by a worker")
    print("a word in the log", flush=True)
    account = pathlib.Path("/var/run/secrets/kubernetes.io").exists()
    token = any("TOKEN" in name for name in os.environ)
    return [os.getuid(), os.getgid(), os.getgroups(), getpass.getuser(), str(home), account, token]
answer = dask.submit(look).result(timeout=60)
"""
    seen = client.ask(look)
    assert seen == [12001, 12001, [12001, LAB], "alice", "/home/alice", False, False]
    made = (folder / "homes/alice/made").stat()
    assert (made.st_uid, made.st_gid) == (12001, 12001)
    made = (folder / "shared/physics/lab/made").stat()
    assert (made.st_uid, made.st_gid) == (12001, LAB)
    assert stat.S_IMODE(made.st_mode) == 0o664
    written = json.dumps(pods())
    assert "PRIVATE KEY" not in written
    assert "BEGIN CERTIFICATE" not in written
    for pod in pods().values():
        variables = {each["name"]: each.get("value") for each in _env(pod)}
        role = pod["metadata"]["labels"]["qhub.dev/role"]
        token = "/etc/qhub-dask/token" if role == "scheduler" else None
        assert variables.get("DASK_GATEWAY_API_TOKEN") == token
        assert pod["spec"]["automountServiceAccountToken"] is False
    (worker,) = client.ask(
        "answer = [each['id'] for each in cluster.scheduler_info['workers'].values()]"
    )
    path = f"qhub/clusters/{name}/logs"
    status, answer = gateway.api("GET", f"{path}?worker={worker}", "alice")
    assert status == 200, answer
    assert "a word in the log" in answer["log"]
    assert gateway.api("GET", path, "mallory")[0] == 404


def _env(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pod["spec"]["containers"][0]["env"]
    return found


def test_no_room(
    kubernetes: Any, gateway: GatewaySystem, client: StayingClient, pods: Pods
) -> None:
    """What the quota has no room for waits, and says so; it comes as soon as there is room."""
    quotas = f"/api/v1/namespaces/{gateway.namespace}/resourcequotas"

    def allow(number: int) -> None:
        spec = {"hard": {"pods": str(number)}}
        patch = "application/merge-patch+json"
        kubernetes.request("PATCH", f"{quotas}/{QUOTA}", {"spec": spec}, content_type=patch)

    def words() -> str:
        every = gateway.api("GET", "qhub/clusters", "alice")[1]["clusters"]
        # those of other tests that failed stay listed, with why
        (found,) = (each for each in every if each["state"] not in {"failed", "stopping"})
        return str(found["words"])

    body = {"metadata": {"name": QUOTA}, "spec": {"hard": {"pods": "0"}}}
    kubernetes.request("POST", quotas, body)
    try:
        used = lambda: kubernetes.request("GET", f"{quotas}/{QUOTA}")["status"].get("hard")  # noqa: E731
        wait_until(used, SECONDS, "a quota that is counted")
        client.ask("client.submit()")
        wait_until(lambda: "quota allows no pods" in words(), SECONDS, "words about the quota")
        allow(2)
        client.ask("""
cluster = client.connect(client.list_clusters()[0].name, shutdown_on_close=False)
dask = cluster.get_client(set_as_default=False)
cluster.scale(3)
dask.wait_for_workers(1, timeout=150)
""")
        wait_until(lambda: "quota allows 2 pods" in words(), SECONDS, "words about the quota")
        assert roles(pods()) == ["scheduler", "worker"]
        allow(10)
        client.ask("dask.wait_for_workers(3, timeout=150)")
        wait_until(lambda: words() == "", SECONDS, "nothing more to wait for")
    finally:
        kubernetes.request("DELETE", f"{quotas}/{QUOTA}")


@pytest.mark.parametrize(
    ("profile", "words", "log"),
    [
        ("imageless", "it could not start: the image qhub.test/none:1 cannot be fetched", ""),
        ("bare", "it failed with exit code 1", "No module named 'distributed'"),
    ],
)
def test_clusters_that_cannot_start(
    gateway: GatewaySystem, pods: Pods, profile: str, words: str, log: str
) -> None:
    """They fail after some patience, and say why; what was written is read when it is over."""
    failed = """
try:
    client.new_cluster(profile=values["profile"])
except Exception as error:
    answer = str(error)
"""
    said = run_client(gateway, failed, profile=profile)
    assert "failed to start" in said
    (name,) = re.findall(r"[0-9a-f]{32}", said)
    found = gateway.api("GET", f"qhub/clusters/{name}", "alice")[1]
    assert found["state"] == "failed"
    assert words in found["words"]
    wait_until(lambda: not pods(), SECONDS, "the end of every pod")
    assert log in gateway.api("GET", f"qhub/clusters/{name}/logs", "alice")[1]["log"]
