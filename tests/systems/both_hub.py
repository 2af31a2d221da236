"""A hub whose people's servers are jobs of a Slurm system, or pods of a Kubernetes system."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .kubernetes import USER_PREFIX, KubernetesSystem
from .kubernetes_hub import RESTRICTED, hub_kubeconfig, kubernetes_lines, pods_in
from .slurm import SlurmSystem
from .slurm_hub import SlurmHub

PROFILES = """
c.QHubSpawner.profiles = [
    {"slug": "job", "display_name": "Job", "default": True, "cpu": 1, "memory": "600 MiB",
     "walltime": "1h", "slurm": {"partition": "general"}},
    {"slug": "pod", "display_name": "Pod", "cpu": 1, "memory": "600 MiB", "walltime": "1h",
     "kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB"}},
    {"slug": "either", "display_name": "Either", "cpu": 1, "memory": "600 MiB", "walltime": "1h",
     "policy": "soonest", "slurm": {"partition": "general"},
     "kubernetes": {"cpu_request": "10m", "memory_request": "64 MiB"}},
]
"""


class BothHub(SlurmHub):
    """A hub as the unprivileged account `qhub`, on both systems.

    Attributes:
        cluster: The Kubernetes system; `slurm` is the other.
        namespace: Where the pods run; Pod Security `restricted` is enforced there.
    """

    def __init__(
        self,
        slurm: SlurmSystem,
        cluster: KubernetesSystem,
        *,
        namespace: str | None = None,
        profiles: str = PROFILES,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        rights: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Give the hub its rights on both and write the configuration.

        Args:
            slurm: A running system.
            cluster: A running system.
            namespace: Where pods run; one of its own when None.
            profiles: Lines that set the profiles.
            config: More lines of configuration, which win.
            environment: More of the hub's environment.
            rights: More of `qhub_spawner.kubernetes.rights.Site`.
            options: Those of `SlurmHub`.
        """
        self.cluster = cluster
        self.namespace = namespace or cluster.make_namespace(labels=RESTRICTED)
        folder = Path(tempfile.mkdtemp(prefix="kubernetes-", dir=slurm.run_folder))
        folder.chmod(0o755)
        kubeconfig = hub_kubeconfig(cluster, self.namespace, folder, rights=rights)
        # c.Spawner.cmd is where the jobs' software is; the image has its own place for it
        lines = kubernetes_lines(cluster, self.namespace, section="KubeSpawner")
        lines += f'c.KubeSpawner.cmd = ["{USER_PREFIX}/bin/jupyterhub-singleuser"]\n'
        # jobs listen where they reach the hub: at this machine's address towards pods
        lines += f'c.SlurmBackend.server_networks = ["{cluster.host_address}/32"]\n'
        super().__init__(
            slurm,
            profiles=lines + profiles,
            config=config,
            hub_address=cluster.host_address,
            environment={
                "KUBECONFIG": str(kubeconfig),
                "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
                **(environment or {}),
            },
            **options,
        )

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the pods of the namespace by name, as JSON."""
        return pods_in(self.cluster, self.namespace)
