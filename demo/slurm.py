"""The demo on a real Slurm cluster that it brings up on this machine; needs root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from tests.systems.dask_service import DaskService
from tests.systems.processes import end_processes
from tests.systems.slurm import HUB_USER, Association, Definition, SlurmSystem
from tests.systems.slurm import sweep as sweep_slurm
from tests.systems.slurm_hub import SlurmHub
from tests.systems.userenv import user_environment

from .entrance import Entrance, SharedPassword
from .local import MARK, processes_of
from .stage import DASK_HINT, Stage, clusters_hint, let_it_end, need_root, running, say

# The hub's groups; the accounts of the cluster are Slurm's own matter.
GROUPS = {"research": ["alice"]}


@contextlib.contextmanager
def slurm_stage(port: int | None, entrance: Entrance | None = None) -> Iterator[Stage]:
    """Bring up Slurm and a hub on it; at the end stop servers, hub and Slurm with all its jobs."""
    need_root("Slurm", "slurm")
    user_environment(say)
    with slurm_running(entrance) as slurm:
        run_folder = Path(slurm.run_folder)
        entrance = entrance or SharedPassword(slurm.users, GROUPS)
        profiles = run_folder / "profiles.yaml"
        example = files("qhub_spawner") / "examples" / "slurm.yaml"
        profiles.write_text(entrance.offered(example.read_text("utf-8")))
        profiles.chmod(0o644)
        hub = SlurmHub(
            slurm,
            profiles=f"c.QHubSpawner.profiles = {str(profiles)!r}\n",
            config=entrance.lines(run_folder / "who", HUB_USER),
            port=port,
            environment={MARK: str(slurm.run_folder)},
        )
        DaskService(
            run_folder / "dask",
            backends=("slurm",),
            profiles=profiles,
            python=user_environment() / "bin" / "python",
            account=HUB_USER,
            config=slurm_lines(hub),
            environment={MARK: str(run_folder)},
        ).join(hub)
        entrance.opened(hub)
        with entrance.known(run_folder / "who"), running(hub):
            yield Stage(
                hub=hub,
                entrance=entrance,
                people=entrance.people,
                password=entrance.password,
                check_profiles=("gpu",),
                # the one node with GPUs has no core left for a cluster beside the server
                cluster_profiles={"gpu": "general"},
                hints=(
                    "Log in as alice, and in a private window as bob: each is offered their own.",
                    DASK_HINT,
                    clusters_hint(hub.url),
                    f"Watch the jobs: SLURM_CONF={slurm.slurm_conf} squeue",
                    "Cancel one with scancel, and see what its person is told.",
                    f"The list is {profiles}: change it and reload the page.",
                ),
                remains=f"{slurm.run_folder}; homes of alice and bob stay",
            )


@contextlib.contextmanager
def slurm_running(entrance: Entrance | None = None) -> Iterator[SlurmSystem]:
    """Bring up Slurm, after what an earlier demo may have left is ended.

    Whoever else can come in may use the account that bob uses.
    """
    for folder in sweep_slurm():
        end_processes(processes_of(folder))
    sweep_sudo_rules()
    say("Starting Slurm: munge, MariaDB, slurmdbd, slurmctld, four slurmd, slurmrestd …")
    usual = Definition()
    more = [name for name in (entrance.people if entrance else ()) if name not in usual.users]
    others = tuple(Association(name, "teaching") for name in more)
    system = SlurmSystem(replace(usual, associations=usual.associations + others))
    system.start()
    try:
        say(f"Slurm is ready after {system.seconds_to_ready:.1f} s …")
        yield system
    finally:
        let_it_end()
        system.stop()


def slurm_lines(hub: SlurmHub) -> str:
    """Return how a gateway of the hub's account reaches Slurm: as the hub does."""
    return f"""
c.SlurmBackend.slurm_conf = {str(hub.slurm.slurm_conf)!r}
c.SlurmBackend.door_command = {str(hub.door)!r}
"""


def sweep_sudo_rules(folder: Path = Path("/etc/sudoers.d")) -> None:
    """Remove rules of killed demos and tests: those whose door is gone with its run folder."""
    for rule in folder.glob("qhub-*"):
        with contextlib.suppress(OSError):
            # Defaults!/tmp/qslurm-abc/qhub-0123-door env_reset, …
            marks = [line for line in rule.read_text().splitlines() if line.startswith("Defaults!")]
            doors = [Path(line.removeprefix("Defaults!").split()[0]) for line in marks]
            if doors and all("qslurm-" in str(door) and not door.exists() for door in doors):
                rule.unlink()
