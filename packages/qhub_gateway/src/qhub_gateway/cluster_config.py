"""The values that dask-gateway keeps of a cluster, with ours among them."""

from __future__ import annotations

from dask_gateway_server.backends.base import ClusterConfig
from dask_gateway_server.traitlets import Command
from traitlets import Dict, Float, default


class QHubClusterConfig(ClusterConfig):  # type: ignore[misc]  # dask-gateway has no types
    """One cluster's values; what a person may ask for is decided before they are set."""

    scheduler_cmd = Command(
        ["python3", "-m", "distributed.cli.dask_scheduler"],
        config=True,
        help="""
        The command that starts a scheduler, in the profile's software environment. Default: the
        module, because today's distributed has no ``dask-scheduler`` any more.

        Example: ``c.QHubClusterConfig.scheduler_cmd = ["dask", "scheduler"]``
        """,
    )
    worker_cmd = Command(
        ["python3", "-m", "distributed.cli.dask_worker"],
        config=True,
        help="""
        The command that starts a worker, in the profile's software environment. Default: the
        module, as for `scheduler_cmd`.
        """,
    )
    worker_cores = Float(
        1.0,
        min=0.001,
        config=True,
        help="""
        Cores of a worker; set from what a person asks for. Default: 1.
        """,
    )
    scheduler_cores = Float(
        1.0,
        min=0.001,
        config=True,
        help="""
        Cores of a scheduler; set from what a person asks for. Default: 1.
        """,
    )
    request = Dict(
        help="""
        What was decided about the cluster, as `qhub_gateway.requests.ClusterRequest` writes it.
        """,
    )

    @default("worker_threads")
    def _default_worker_threads(self) -> int:
        return max(1, int(self.worker_cores))
