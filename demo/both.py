"""The demo on a Slurm cluster and a Kubernetes cluster: one list, one home, the same person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.systems.both_hub import BothHub
from tests.systems.dask_service import DaskService, on_kubernetes
from tests.systems.kubernetes_hub import offer_folder
from tests.systems.slurm import HUB_USER
from tests.systems.userenv import user_environment

from .entrance import Entrance, SharedPassword
from .identities import of_account
from .kubernetes import (
    GROUPS,
    LINES,
    NAMESPACE,
    SEEN,
    SHARED,
    cluster_running,
    offered,
    watch_hint,
)
from .local import MARK
from .slurm import slurm_lines, slurm_running
from .stage import DASK_HINT, Stage, clusters_hint, need_root, running, say

HOMES = Path("/home")


@contextlib.contextmanager
def both_stage(port: int | None, entrance: Entrance | None = None) -> Iterator[Stage]:
    """Bring up both clusters and a hub on them; at the end stop servers, hub and clusters."""
    need_root("Slurm and a Kubernetes", "both")
    user_environment(say)
    with slurm_running(entrance) as slurm, cluster_running() as cluster:
        run_folder = Path(slurm.run_folder)
        offer_folder(cluster, NAMESPACE, "homes", HOMES)
        lines = LINES
        if entrance is None:
            identities = {name: of_account(name) for name in slurm.users}
            entrance = SharedPassword(slurm.users, GROUPS, identities)
        else:
            offer_folder(cluster, NAMESPACE, "shared", entrance.places["shared"])
            # the same path as in a job
            mount = f"{entrance.places['shared']}/{{path}}"
            lines += f"{SHARED}c.KubernetesBackend.shared_mount = {mount!r}\n"
        profiles = offered(run_folder, "both.yaml", entrance)
        hub = BothHub(
            slurm,
            cluster,
            namespace=NAMESPACE,
            profiles=f"c.QHubSpawner.profiles = {str(profiles)!r}\n",
            config=lines + entrance.lines(run_folder / "who", HUB_USER),
            port=port,
            environment={MARK: str(slurm.run_folder)},
            rights=SEEN,
        )
        pods = on_kubernetes(cluster, NAMESPACE, run_folder, HUB_USER)
        DaskService(
            run_folder / "dask",
            backends=("slurm", "kubernetes"),
            profiles=profiles,
            python=user_environment() / "bin" / "python",  # at the same place in the image
            host=cluster.host_address,
            account=HUB_USER,
            config=slurm_lines(hub) + pods + lines,
            environment={MARK: str(run_folder)},
        ).join(hub)
        entrance.opened(hub)
        with entrance.known(run_folder / "who"), running(hub):
            yield Stage(
                hub=hub,
                entrance=entrance,
                people=entrance.people,
                password=entrance.password,
                check_profiles=("general", "container"),
                cluster_profiles={"general": "", "container": ""},
                hints=(
                    "Log in as alice, and in a private window as bob: each is offered their own.",
                    "Save a notebook on one cluster, and open it on the other.",
                    DASK_HINT,
                    clusters_hint(hub.url),
                    f"Watch the jobs: SLURM_CONF={slurm.slurm_conf} squeue",
                    watch_hint(cluster),
                    f"The list is {profiles}: change it and reload the page.",
                ),
                remains=f"{slurm.run_folder} and the clusters; homes of alice and bob stay",
            )
