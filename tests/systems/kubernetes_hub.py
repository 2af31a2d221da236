"""A hub on a Kubernetes system, set up as an administrator would: an account of its own, one Role.

The same for the demo, the tests and the benchmarks. The hub is a process of this machine; its
people's servers are pods.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .hub import HubSystem
from .kubernetes import USER_IMAGE, KubernetesSystem
from .slurm import HUB_USER
from .slurm.unix_users import ensure_service_user
from .userenv import product_site, user_environment

PROFILES = """
c.QHubSpawner.profiles = [
    {"slug": "small", "display_name": "Small pod", "default": True, "cpu": 1, "memory": "600 MiB",
     "walltime": "1h", "kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB"}},
    {"slug": "large", "display_name": "Large pod", "cpu": 2, "memory": "2 GiB",
     "walltime": "4h", "kubernetes": {"cpu_request": "20m", "memory_request": "64 MiB"}},
]
"""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def kubernetes_lines(cluster: KubernetesSystem, namespace: str, *, section: str) -> str:
    """Return the lines that every hub on this system needs.

    Args:
        cluster: A running system.
        namespace: Where servers run.
        section: ``KubeSpawner``, whose traits these are.
    """
    return f"""
c.JupyterHub.hub_connect_url = c.JupyterHub.hub_bind_url
c.{section}.namespace = "{namespace}"
c.{section}.image = "{USER_IMAGE}"
c.{section}.image_pull_policy = "Never"
c.{section}.uid = 1000
c.{section}.gid = 1000
c.{section}.environment = {{"HOME": "/tmp"}}
c.{section}.working_dir = "/tmp"
c.Authenticator.enable_auth_state = True
# Debian's containerd 1.6 cannot keep an image from adding groups
c.KubernetesBackend.supplemental_groups_policy = "Merge"
"""


def hub_kubeconfig(
    cluster: KubernetesSystem,
    namespace: str,
    folder: Path,
    *,
    rights: Mapping[str, Any] | None = None,
    admin: bool = False,
) -> Path:
    """Give the hub's account its rights in a namespace, and return the kubeconfig that it uses.

    Args:
        cluster: A running system.
        namespace: Where servers run.
        folder: Where the file is put.
        rights: More of `qhub_spawner.kubernetes.rights.Site`.
        admin: Whether the hub may do everything in the cluster (a rival that needs more).
    """
    from qhub_spawner.kubernetes.rights import Site, manifests

    kubeconfig = folder / "kubeconfig"
    if admin:
        shutil.copy(cluster.kubeconfig, kubeconfig)
    else:
        shutil.copy(cluster.service_account_kubeconfig(namespace, "hub"), kubeconfig)
        where = Site(namespace=namespace, service_account="hub", **(rights or {}))
        cluster.apply(*manifests(where))
    account = pwd.getpwnam(HUB_USER)
    os.chown(kubeconfig, account.pw_uid, account.pw_gid)
    kubeconfig.chmod(0o600)
    return kubeconfig


def offer_folder(cluster: KubernetesSystem, namespace: str, name: str, folder: Path) -> None:
    """Make the claim `name` on a folder of this machine, as a site's claim on its file server.

    Under Pod Security `restricted` a pod may mount a claim, but no folder of its node.
    """
    volume = f"{namespace}-{name}"
    size = {"storage": "1Gi"}  # never enforced for a folder
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "hostPath": {"path": str(folder)},
                "claimRef": {"namespace": namespace, "name": name},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "volumeName": volume,
                "storageClassName": "",
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": size},
            },
        },
    )
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"
    # a pod that comes earlier is looked at again only after some seconds
    bound = lambda: cluster.request("GET", path)["status"].get("phase") == "Bound"  # noqa: E731
    cluster.wait_until(bound, 30, f"the claim {name} bound")


def pods_in(cluster: KubernetesSystem, namespace: str) -> dict[str, dict[str, Any]]:
    """Return the pods of a namespace by name, as JSON."""
    answer = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")
    return {each["metadata"]["name"]: each for each in answer["items"]}


class KubernetesHub(HubSystem):
    """A hub as the unprivileged account `qhub`, its people's servers as pods of `cluster`.

    Attributes:
        cluster: The system.
        namespace: Where the servers run; Pod Security `restricted` is enforced there.
    """

    def __init__(
        self,
        cluster: KubernetesSystem,
        *,
        profiles: str = PROFILES,
        config: str = "",
        namespace: str | None = None,
        port: int | None = None,
        spawner: str = "qhub",
        environment: Mapping[str, str] | None = None,
        rights: Mapping[str, Any] | None = None,
        admin: bool = False,
        log_level: str = "INFO",
    ) -> None:
        """Make the namespace, the service account and its rights, and write the configuration.

        Args:
            cluster: A running system.
            profiles: Lines that set the profiles.
            config: More lines of configuration, which win.
            namespace: Where servers run; one of its own when None.
            port: Where people come in; any free one when None.
            spawner: The spawner class, for comparisons.
            environment: More of the hub's environment.
            rights: More of `qhub_spawner.kubernetes.rights.Site`.
            admin: Whether the hub may do everything in the cluster (a rival that needs more).
            log_level: Of the hub.
        """
        self.cluster = cluster
        self.namespace = namespace or cluster.make_namespace(labels=RESTRICTED)
        ensure_service_user(HUB_USER)
        bin_folder = user_environment() / "bin"
        run_folder = Path(tempfile.mkdtemp(prefix="hub-", dir=cluster.run_folder))
        run_folder.chmod(0o755)
        self.run_folder = run_folder
        name = f"qhub-{secrets.token_hex(4)}"
        site = product_site(run_folder)
        kubeconfig = hub_kubeconfig(cluster, self.namespace, run_folder, rights=rights, admin=admin)
        lines = [
            f'c.JupyterHub.spawner_class = "{spawner}"',
            kubernetes_lines(cluster, self.namespace, section="KubeSpawner"),
        ]
        super().__init__(
            run_folder / name,
            "\n".join(lines) + "\n" + (profiles if spawner == "qhub" else "") + config,
            environment_bin=bin_folder,
            python_path=site,
            user=HUB_USER,
            port=port,
            hub_address=cluster.host_address,
            environment={
                "KUBECONFIG": str(kubeconfig),
                "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
                **(environment or {}),
            },
            log_level=log_level,
        )

    def set_identity(self, name: str, identity: Mapping[str, Any]) -> None:
        """Say who a user is on every target, as an authenticator does when they come in."""
        answer = self.api("PATCH", f"users/{quote(name)}", {"auth_state": {"qhub": identity}})
        if answer.status != HTTPStatus.OK:
            message = f"the identity of {name} was not taken: {answer.status} {answer.text}"
            raise RuntimeError(message)

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the pods of the namespace by name, as JSON."""
        return pods_in(self.cluster, self.namespace)

    def tidy(self) -> None:
        """Remove the folder and every pod of the namespace."""
        for name in self.pods():
            path = f"/api/v1/namespaces/{self.namespace}/pods/{name}?gracePeriodSeconds=0"
            self.cluster.request("DELETE", path)
        shutil.rmtree(self.run_folder, ignore_errors=True)
