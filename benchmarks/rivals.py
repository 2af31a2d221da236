"""The hub that ours is compared with: stock batchspawner, set up as its documentation says."""

from __future__ import annotations

import pwd

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
