"""A hub on a Slurm system, set up as an administrator would: an account of its own, one sudo rule.

The same for the demo, the tests and the benchmarks.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from .hub import HubSystem
from .processes import SystemUnavailableError
from .slurm import HUB_USER, SlurmSystem
from .userenv import product_site, user_environment

Transport = Literal["command-line", "rest"]

PROFILES = """
c.QHubSpawner.profiles = [
    {"slug": "general", "display_name": "General", "default": True, "cpu": 1, "memory": "600 MiB",
     "walltime": "1h", "slurm": {"partition": "general"}},
    {"slug": "highmem", "display_name": "High memory", "cpu": 1, "memory": "2 GiB",
     "walltime": "1h", "slurm": {"partition": "highmem", "account": "research"}},
    {"slug": "gpu", "display_name": "One GPU", "cpu": 1, "memory": "1 GiB", "gpu": 1,
     "walltime": "1h", "slurm": {"partition": "gpu", "account": "research", "qos": "gpu"}},
]
"""


class SlurmHub(HubSystem):
    """A hub as the unprivileged account `qhub`, its people's servers as jobs of `slurm`."""

    def __init__(
        self,
        slurm: SlurmSystem,
        *,
        transport: Transport = "command-line",
        profiles: str = PROFILES,
        config: str = "",
        port: int | None = None,
        hub_address: str = "127.0.0.1",
        spawner: str = "qhub",
        environment: Mapping[str, str] | None = None,
        slurm_bin: str = "/usr/bin",
        log_level: str = "INFO",
    ) -> None:
        """Install the sudo rule (or hand over the key) and write the configuration.

        Args:
            slurm: A running system.
            transport: How the hub talks to it.
            profiles: Lines that set the profiles.
            config: More lines of configuration, which win.
            port: Where people come in; any free one when None.
            hub_address: Where the hub itself listens, for servers and the proxy.
            spawner: The spawner class, for comparisons.
            environment: More of the hub's environment.
            slurm_bin: Where the hub finds Slurm's commands, for faults of theirs.
            log_level: Of the hub.
        """
        self.slurm = slurm
        self.transport = transport
        bin_folder = user_environment() / "bin"
        name = f"qhub-{secrets.token_hex(4)}"
        folder = Path(slurm.run_folder) / name
        site = product_site(Path(slurm.run_folder))
        lines = [
            f'c.Spawner.cmd = ["{bin_folder}/jupyterhub-singleuser"]',
            f'c.SlurmBackend.slurm_bin = "{slurm_bin}"',
            f'c.SlurmBackend.slurm_conf = "{slurm.slurm_conf}"',
        ]
        self.sudo_rule = Path("/etc/sudoers.d") / name
        self.door = Path(slurm.run_folder) / f"{name}-door"
        folder.mkdir()
        if transport == "rest":
            key = folder / "jwt_hs256.key"
            key.write_bytes(Path(slurm.jwt_key).read_bytes())
            key.chmod(0o400)
            shutil.chown(key, HUB_USER)
            lines += [
                'c.SlurmBackend.transport = "rest"',
                f'c.SlurmBackend.rest_url = "{slurm.rest_url}"',
                f'c.SlurmBackend.jwt_key_file = "{key}"',
                'c.SlurmBackend.rest_user = "slurm"',
            ]
        else:
            lines.append(f'c.SlurmBackend.door_command = "{self.door}"')
        super().__init__(
            folder,
            "\n".join(lines) + "\n" + profiles + config,
            environment_bin=bin_folder,
            python_path=site,
            user=HUB_USER,
            port=port,
            hub_address=hub_address,
            environment={"SLURM_CONF": str(slurm.slurm_conf), **(environment or {})},
            log_level=log_level,
        )
        if transport == "command-line" and spawner == "qhub":
            self._install_rule(bin_folder, site, slurm_bin)

    def _install_rule(self, bin_folder: Path, site: Path, slurm_bin: str) -> None:
        environment = {"PYTHONPATH": str(site), "PATH": os.defpath}

        def qhub_spawner(*arguments: str) -> str:
            code = "import sys; from qhub_spawner.commands import main; sys.exit(main())"
            done = subprocess.run(
                [str(bin_folder / "python"), "-c", code, *arguments],
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                message = f"qhub-spawner {arguments[0]} failed: {done.stderr.strip()[-1500:]}"
                raise SystemUnavailableError(message)
            return done.stdout

        qhub_spawner("install-door", "--to", str(self.door))
        people = ",".join(self.slurm.users)
        rule = qhub_spawner(
            "sudoers",
            f"--hub-user={HUB_USER}",
            f"--runas={people}",
            f"--door={self.door}",
            f"--slurm-bin={slurm_bin}",
            f"--slurm-conf={self.slurm.slurm_conf}",
        )
        self.sudo_rule.touch(mode=0o440)
        self.sudo_rule.write_text(rule)

    def stop(self) -> None:
        """End hub and proxy and take the sudo rule away; jobs go on."""
        super().stop()
        self.sudo_rule.unlink(missing_ok=True)

    # ---- what the cluster says ----

    def jobs(self, *states: str) -> dict[int, str]:
        """Return id and state of this hub's live jobs."""
        names = ",".join(states) or "PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING"
        out = self.slurm.run(["squeue", "-h", "-a", f"--states={names}", "-o", "%A %T %j"])
        lines = [line.split() for line in _text(out).splitlines()]
        return {int(line[0]): line[1] for line in lines if line[2].startswith("qhub-")}


def _text(answer: object) -> str:
    return answer if isinstance(answer, str) else str(getattr(answer, "stdout", answer))
