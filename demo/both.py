"""The demo on a Slurm cluster and a Kubernetes cluster: one list, one home, the same person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.systems.both_hub import BothHub
from tests.systems.kubernetes_hub import offer_folder
from tests.systems.userenv import user_environment

from .identities import identity_lines, of_account
from .kubernetes import (
    GROUPS,
    LINES,
    NAMESPACE,
    SEEN,
    cluster_running,
    offered,
    watch_hint,
)
from .local import MARK
from .slurm import slurm_running
from .stage import Stage, login_lines, need_root, new_password, running, say

HOMES = Path("/home")


@contextlib.contextmanager
def both_stage(port: int | None) -> Iterator[Stage]:
    """Bring up both clusters and a hub on them; at the end stop servers, hub and clusters."""
    need_root("Slurm and a Kubernetes", "both")
    user_environment(say)
    with slurm_running() as slurm, cluster_running() as cluster:
        offer_folder(cluster, NAMESPACE, "homes", HOMES)
        profiles = offered(Path(slurm.run_folder), "both.yaml")
        password = new_password()
        hub = BothHub(
            slurm,
            cluster,
            namespace=NAMESPACE,
            profiles=f"c.QHubSpawner.profiles = {str(profiles)!r}\n",
            config=LINES
            + f"c.JupyterHub.load_groups = {GROUPS!r}\n"
            + login_lines(slurm.users, password)
            + identity_lines({name: of_account(name) for name in slurm.users}),
            port=port,
            environment={MARK: str(slurm.run_folder)},
            rights=SEEN,
        )
        with running(hub):
            yield Stage(
                hub=hub,
                people=slurm.users,
                password=password,
                check_profiles=("general", "container"),
                hints=(
                    "Log in as alice, and in a private window as bob: each is offered their own.",
                    "Save a notebook on one cluster, and open it on the other.",
                    f"Watch the jobs: SLURM_CONF={slurm.slurm_conf} squeue",
                    watch_hint(cluster),
                    f"The list is {profiles}: change it and reload the page.",
                ),
                remains=f"{slurm.run_folder} and the clusters; homes of alice and bob stay",
            )
