"""The charts of Dask's dashboard, by name, as its panel in JupyterLab lists them. Pure.

The panel has its server ask a dashboard which charts there are, without anybody's log-in. That is
the same for every dashboard of a release, so it is told by whoever is asked, about clusters that
there are not as well; the charts themselves are for whom the owner lets look.
"""

from __future__ import annotations

__all__ = ["individual_plots"]

# of distributed 2026.8; a chart that a scheduler does not have says so when it is opened
_PLOTS = """
    aggregate-time-per-action bandwidth-types bandwidth-workers cluster-memory compute-time-per-key
    contention cpu exceptions fine-performance-metrics gpu-memory gpu-utilization graph
    group-progress groups memory-by-key nprocessing occupancy profile profile-server progress
    rmm-memory scheduler-system task-stream workers workers-cpu-timeseries workers-disk
    workers-disk-timeseries workers-memory workers-memory-timeseries workers-network
    workers-network-timeseries workers-transfer-bytes
""".split()  # noqa: SIM905 - as Dask has them


def individual_plots() -> dict[str, str]:
    """Return the path of each chart by its name, as a scheduler's ``individual-plots.json``."""
    return {
        f"Individual {name.replace('-', ' ').title()}": f"/individual-{name}" for name in _PLOTS
    }
