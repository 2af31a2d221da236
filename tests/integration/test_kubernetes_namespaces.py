"""A namespace and a storage claim for each person, on a real cluster: made, adopted, cleared away."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, pods_in
from tests.systems.processes import wait_until

PREFIX = f"people-{secrets.token_hex(3)}"
NAMESPACE, CLAIM = f"{PREFIX}-alice", "claim-alice"
CONFIG = f"""
c.KubeSpawner.enable_user_namespaces = True
c.KubeSpawner.user_namespace_template = "{PREFIX}-{{username}}"
c.KubeSpawner.user_namespace_labels = {RESTRICTED!r}
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = "1Gi"
c.KubeSpawner.storage_access_modes = ["ReadWriteMany"]
c.KubeSpawner.volumes = [
    {{"name": "own", "persistentVolumeClaim": {{"claimName": "{{pvc_name}}"}}}}
]
c.KubeSpawner.volume_mounts = [{{"name": "own", "mountPath": "/own"}}]
"""


@pytest.fixture(scope="module")
def storage(kubernetes: Any) -> Iterator[Path]:
    """A volume that alice's claim is bound to."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-own-"))
    folder.chmod(0o777)
    kubernetes.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": NAMESPACE},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
            },
        }
    )
    yield folder
    kubernetes.request("DELETE", f"/api/v1/persistentvolumes/{NAMESPACE}")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(kubernetes: Any, user_bin: Path, storage: Path) -> Iterator[KubernetesHub]:
    """A hub with the rights that `qhub-spawner manifests` prints for this."""
    rights = {"user_namespaces": True, "storage_claims": True}
    made = KubernetesHub(kubernetes, config=CONFIG, rights=rights)
    with made:
        made.add_user("alice")
        yield made
    made.tidy()
    for name in pods_in(kubernetes, NAMESPACE):
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0"
        kubernetes.request("DELETE", path)
    kubernetes.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def claims(hub: KubernetesHub) -> set[str]:
    """The names of the claims in alice's namespace."""
    path = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims"
    return {each["metadata"]["name"] for each in hub.cluster.request("GET", path)["items"]}


async def test_a_person_comes_and_goes(hub: KubernetesHub, storage: Path) -> None:
    """What they have is in a namespace of their own, outlives the hub, and goes when they do."""
    assert hub.start_server("alice", {"profile": "small"}).status in {201, 202}
    hub.wait_ready("alice")
    (pod,) = pods_in(hub.cluster, NAMESPACE).values()
    assert hub.pods() == {}, "nothing is where everybody's would be"
    namespace = hub.cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}")
    assert namespace["metadata"]["labels"].items() >= RESTRICTED.items()
    assert claims(hub) == {CLAIM}
    code = "print(open('/own/mine', 'w').write('mine'))"
    assert json.loads(await hub.run_code("alice", code)) == len("mine")
    assert (storage / "mine").read_text() == "mine"

    hub.kill()
    hub.restart()
    hub.wait_ready("alice")
    (found,) = pods_in(hub.cluster, NAMESPACE).values()
    assert found["metadata"]["uid"] == pod["metadata"]["uid"], "it was adopted"
    assert json.loads(await hub.run_code("alice", "print(1)")) == 1

    assert hub.stop_server("alice").status in {202, 204}
    hub.wait_stopped("alice")
    wait_until(lambda: not pods_in(hub.cluster, NAMESPACE), 60, "the pod to be gone")
    assert claims(hub) == {CLAIM}, "a server that is stopped has its storage"
    assert hub.api("DELETE", "users/alice").status == 204
    wait_until(lambda: not claims(hub), 60, "the deleted person's claim to be gone")
