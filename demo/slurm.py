"""The demo on a real Slurm cluster that it brings up on this machine; needs root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from tests.systems.processes import SystemUnavailableError
from tests.systems.slurm import SlurmSystem
from tests.systems.slurm import sweep as sweep_slurm
from tests.systems.slurm_hub import SlurmHub
from tests.systems.userenv import user_environment

from .stage import Stage, let_it_end, login_lines, new_password, running, say

# The hub's groups; the accounts of the cluster are Slurm's own matter.
GROUPS = {"research": ["alice"]}


@contextlib.contextmanager
def slurm_stage(port: int | None) -> Iterator[Stage]:
    """Bring up Slurm and a hub on it; at the end stop servers, hub and Slurm with all its jobs."""
    if os.geteuid() != 0:
        message = (
            "a Slurm of one's own needs root, as it starts jobs as other people: "
            "sudo ./run demo slurm. Without root: ./run demo"
        )
        raise SystemUnavailableError(message)
    sweep_slurm()
    sweep_sudo_rules()
    user_environment(say)
    with _slurm() as slurm:
        password = new_password()
        profiles = Path(slurm.run_folder) / "profiles.yaml"
        example = files("qhub_spawner") / "examples" / "slurm.yaml"
        profiles.write_text(example.read_text("utf-8"))
        profiles.chmod(0o644)
        groups = f"c.JupyterHub.load_groups = {GROUPS!r}\n"
        hub = SlurmHub(
            slurm,
            profiles=f"c.QHubSpawner.profiles = {str(profiles)!r}\n",
            config=groups + login_lines(slurm.users, password),
            port=port,
        )
        with running(hub):
            yield Stage(
                hub=hub,
                people=slurm.users,
                password=password,
                check_profile="gpu",
                hints=(
                    "Log in as alice, and in a private window as bob: each is offered their own.",
                    f"Watch the jobs: SLURM_CONF={slurm.slurm_conf} squeue",
                    "Cancel one with scancel, and see what its person is told.",
                    f"The list is {profiles}: change it and reload the page.",
                ),
                remains=f"{slurm.run_folder}; homes of alice and bob stay",
            )


@contextlib.contextmanager
def _slurm() -> Iterator[SlurmSystem]:
    say("Starting Slurm: munge, MariaDB, slurmdbd, slurmctld, four slurmd, slurmrestd …")
    system = SlurmSystem()
    system.start()
    try:
        say(f"Slurm is ready after {system.seconds_to_ready:.1f} s; starting the hub …")
        yield system
    finally:
        let_it_end()
        system.stop()


def sweep_sudo_rules(folder: Path = Path("/etc/sudoers.d")) -> None:
    """Remove rules of killed demos and tests: those whose door is gone with its run folder."""
    for rule in folder.glob("qhub-*"):
        with contextlib.suppress(OSError):
            # Defaults!/tmp/qslurm-abc/qhub-0123-door env_reset, …
            marks = [line for line in rule.read_text().splitlines() if line.startswith("Defaults!")]
            doors = [Path(line.removeprefix("Defaults!").split()[0]) for line in marks]
            if doors and all("qslurm-" in str(door) and not door.exists() for door in doors):
                rule.unlink()
