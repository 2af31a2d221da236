"""The hubs ours is compared with: stock batchspawner and KubeSpawner, set up as documented."""

from __future__ import annotations

import pwd

from tests.systems.kubernetes import KubernetesSystem
from tests.systems.kubernetes_hub import KubernetesHub
from tests.systems.slurm import HUB_USER, SlurmSystem
from tests.systems.slurm_hub import SlurmHub
from tests.systems.userenv import user_environment

# What has to be told to the stock spawner on this cluster; all else is its default. The test
# cluster's node names do not resolve, and its slurm.conf is not where Slurm looks by itself.
_CONFIG = """
import batchspawner
c.JupyterHub.spawner_class = "batchspawner.SlurmSpawner"
c.SlurmSpawner.batchspawner_singleuser_cmd = "{bin}/batchspawner-singleuser"
c.SlurmSpawner.environment = {{"SLURM_CONF": "{slurm_conf}"}}
c.SlurmSpawner.state_exechost_exp = "127.0.0.1"
c.SlurmSpawner.req_partition = "{partition}"
c.SlurmSpawner.req_memory = "{memory}"
c.SlurmSpawner.req_nprocs = "1"
c.SlurmSpawner.req_runtime = "1:00:00"
"""


class StockHub(SlurmHub):
    """A hub with stock SlurmSpawner under the same unprivileged account, on the same cluster."""

    def __init__(
        self,
        slurm: SlurmSystem,
        *,
        partition: str = "general",
        memory: str = "600M",
        config: str = "",
        commands: str = "/usr/bin",
    ) -> None:
        """Install the sudo rule that batchspawner documents, and write the configuration.

        Args:
            slurm: A running system.
            partition: Where servers run.
            memory: What each of them gets.
            config: More lines of configuration, which win.
            commands: The folder where the hub finds Slurm's commands.
        """
        stock = _CONFIG.format(
            bin=user_environment() / "bin",
            slurm_conf=slurm.slurm_conf,
            partition=partition,
            memory=memory,
        )
        super().__init__(slurm, profiles="", config=stock + config, spawner="batchspawner")
        path = self.hub.environment["PATH"]
        self.hub.environment = {**self.hub.environment, "PATH": f"{commands}:{path}"}
        people = ", ".join(user for user in slurm.users if pwd.getpwnam(user).pw_uid)
        names = ", ".join(f"{commands}/{name}" for name in ("sbatch", "squeue", "scancel"))
        self.sudo_rule.touch(mode=0o440)
        self.sudo_rule.write_text(f"{HUB_USER} ALL=({people}) NOPASSWD:SETENV: {names}\n")


# What our profile `small` says, in KubeSpawner's words; all else is its default.
_KUBERNETES_CONFIG = """
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
c.KubeSpawner.cpu_guarantee = 0.01
c.KubeSpawner.cpu_limit = 1
c.KubeSpawner.mem_guarantee = "64M"
c.KubeSpawner.mem_limit = "600M"
"""


class StockKubernetesHub(KubernetesHub):
    """A hub with stock KubeSpawner under the same account, as administrator of the cluster."""

    def __init__(self, cluster: KubernetesSystem, *, config: str = "") -> None:
        """Make a namespace of its own, which enforces nothing, and write the configuration.

        Args:
            cluster: A running system.
            config: More lines of configuration, which win.
        """
        super().__init__(
            cluster,
            config=_KUBERNETES_CONFIG + config,
            namespace=cluster.make_namespace(),
            spawner="kubespawner.KubeSpawner",
            admin=True,
        )
